"""The Windows machine, and a working folder there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.launcher.main import PROJECT
from tests.windows.lab import SCRIPTS, Lab
from tests.windows.machine import CannotBeMade, Machine, machine


@pytest.fixture(scope="session")
def windows() -> Machine:
    """Return the Windows machine; where it cannot be made, the test says why it is skipped."""
    try:
        return machine()
    except CannotBeMade as error:
        pytest.skip(str(error))


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
