"""The checks of `launch_distributed test`: format, lint, types, shell, tests. The first failure ends them."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SHELL_FILES = ("launch_distributed.sh", ".ci/run")
# pytest's words when the user gives none. Tests wait for processes more than they compute; those of one file
# share what is slow to make (a virtual environment, a wine folder), so a file runs in one process.
# The slow ones are for `.ci/run`, so that these end in five minutes.
PARALLEL = ("-n", "2", "--dist", "loadfile", "-m", "not slow")


def checks(pytest_words: Sequence[str]) -> list[list[str]]:
    """Return the commands in their order, cheapest first."""
    tool = [sys.executable, "-m"]
    shell = ["shellcheck", *SHELL_FILES]
    return [
        [*tool, "ruff", "format", "--check", "."],
        [*tool, "ruff", "check", "."],
        [*tool, "mypy"],
        *([shell] if shutil.which("shellcheck") else []),
        [*tool, "pytest", *(pytest_words or PARALLEL)],
    ]


def run_checks(project: Path, pytest_words: Sequence[str]) -> int:
    """Run every check in the project's folder, each named before it starts; return the first code but 0."""
    for command in checks(pytest_words):
        name = " ".join(command[2:] if command[0] == sys.executable else command)
        print(f"== {name}", flush=True)
        code = subprocess.run(command, cwd=project, check=False).returncode
        if code != 0:
            print(f"Check failed (exit code {code}): {name}", file=sys.stderr)
            return code
    return 0
