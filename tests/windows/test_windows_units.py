"""The unit tests that make sense on Windows, run there: a real Python for Windows under wine."""

import subprocess
from pathlib import Path

import pytest

from distexp.launcher.main import PROJECT
from tests.windows.machine import WINE, Machine, on_windows

# without those whose files import numpy or pandas, which wine cannot load, or `resource`
SUITES = {
    "tasks": ("test_task.py", "queue", "results/test_results_last_line.py", "results/test_row.py"),
    "system": ("system/test_locks.py", "system/test_logs.py", "system/test_group_commit.py"),
    "sweeps": (
        "sweep/test_config.py",
        "sweep/test_expand.py",
        "sweep/test_grid.py",
        "sweep/test_templates.py",
    ),
    "processes": ("worker/test_task_process.py",),
}
# what it asks for is POSIX: the text of an error, a folder opened as a file
NOT_THERE = ("test_problems_of_all_files_are_reported_together",)
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("suite", SUITES)
def test_unit_tests_pass_on_windows(suite: str, windows: Machine, tmp_path: Path) -> None:
    words = ["-k", f"not ({' or '.join(NOT_THERE)})", *(f"tests/{name}" for name in SUITES[suite])]
    done = subprocess.run(
        [str(WINE), str(windows.python), *PYTEST, f"--basetemp={on_windows(tmp_path / 'tests')}", *words],
        cwd=PROJECT,
        env=windows.environment(PYTHONDONTWRITEBYTECODE="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # a file of this side is no file there
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-8000:]
