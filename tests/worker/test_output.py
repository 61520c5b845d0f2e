"""What a task prints reaches its log; a full disk costs output, and no task."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ENVIRONMENT

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from distexp.worker.output import redirect_output
lost = []
redirect_output(Path(sys.argv[1], "log.txt"), lambda: None, lost.append)
print("by print")
print("a \\ud800 surrogate", file=sys.stderr)
os.write(1, b"by the descriptor\\n")
subprocess.run([sys.executable, "-c", "print('by a child')"], check=True, stdout=sys.stdout)
for _ in range(10_000): print("x" * 100)
os._exit(10 + len(lost))
"""


def exit_code(folder: Path, program: str = PROGRAM) -> int:
    return subprocess.run([sys.executable, "-c", program, folder], env=ENVIRONMENT, check=False).returncode


def test_everything_that_a_task_prints_is_in_its_log(tmp_path: Path) -> None:
    assert exit_code(tmp_path) == 10
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["by print", r"a \ud800 surrogate", "by the descriptor", "by a child"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_a_full_disk_does_not_take_is_dropped_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    by_itself = [
        line for line in PROGRAM.splitlines() if "os.write" not in line and "subprocess.run" not in line
    ]
    assert exit_code(tmp_path, "\n".join(by_itself)) == 11


@pytest.mark.parametrize(
    "streams",
    [
        "sys.stdout.close()",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = type('Tee', (), {'write': len})()",
    ],
)
def test_an_experiment_may_close_or_replace_its_streams(tmp_path: Path, streams: str) -> None:
    program = f"""
import os, sys
from pathlib import Path
from distexp.worker.output import end_output, redirect_output, warn
redirect_output(Path(sys.argv[1], "log.txt"), lambda: None, print)
{streams}
warn("of ours")
end_output("an error")
os._exit(10)
"""
    assert exit_code(tmp_path, program) == 10
