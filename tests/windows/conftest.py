"""The Windows machine, and a working folder there."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distexp.launcher.main import PROJECT
from tests.windows.lab import SCRIPTS, Lab
from tests.windows.machine import WINE, CannotBeMade, Machine, machine


@pytest.fixture(scope="session")
def windows() -> Iterator[Machine]:
    """The Windows machine, running; where it cannot be made, the test says why it is skipped."""
    try:
        made = machine()
    except CannotBeMade as error:
        pytest.skip(str(error))
    # the first process starts wine's services, which keep its output open: no test is to wait for that
    silent: dict[str, Any] = {
        "env": made.environment(),
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen([str(WINE), "cmd"], stdin=subprocess.PIPE, **silent):  # until its input ends
        subprocess.run([str(WINE), "cmd", "/c", "exit"], check=True, stdin=subprocess.DEVNULL, **silent)
        yield made


@pytest.fixture
def lab(windows: Machine, tmp_path: Path) -> Iterator[Lab]:
    """A working folder in a path that is hard to quote; what was started there ends with the test."""
    project = tmp_path / "a ä & b"
    (project / "lab").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy2(PROJECT / name, project)
    shutil.copytree(PROJECT / "distexp", project / "distexp", ignore=shutil.ignore_patterns("__pycache__"))
    made = Lab(windows, project / "lab")
    yield made
    for each in made.started:
        each.kill()
