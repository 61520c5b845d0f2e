"""What macOS lacks is taken away, and the tests of whole sweeps run again: see `taken_away`.

A simulation: nothing here has run on a Mac.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SUITES = ("test_end_to_end.py", "launcher/test_local_run.py", "worker/test_task_process.py")
COMMAND = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
@pytest.mark.parametrize("name", SUITES)
def test_sweeps_run_without_what_macos_lacks(name: str, tmp_path: Path) -> None:
    path = os.pathsep.join(map(str, (TESTS / "macos" / "taken_away", TESTS.parent)))
    done = subprocess.run(
        [*COMMAND, f"--basetemp={tmp_path / 'tests'}", str(TESTS / name)],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
