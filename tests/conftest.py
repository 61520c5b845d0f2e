"""Fixtures of several test files."""

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.worker.task_process import Children
from distexp.worker.watcher import Watcher
from tests.live_child import METHODS, Write
from tests.live_manager import Folder

_numbers = itertools.count()

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # children inherit that nohup ignores it


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write an experiment's module, under a name that no template has met, and return what YAML would say."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write_here(source: str) -> str:
        name = f"experiment_{os.getpid()}_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:run"

    return write_here


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A working folder with three tasks: a phase over the widths 1, 2 and 3."""
    folder = Folder(tmp_path)
    folder.configure([1, 2, 3])
    return folder


@pytest.fixture(scope="session")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watcher]:
    """What ends the task processes of these tests should the tests be killed."""
    made = Watcher(tmp_path_factory.mktemp("watcher") / "tests.lock")
    yield made
    made.close()


@pytest.fixture(params=METHODS[:1])
def children(request: pytest.FixtureRequest, watcher: Watcher) -> Iterator[Children]:
    """Children on the CPU, started as is the default here."""
    made = Children(method=request.param, device="cpu", threads=1, watcher=watcher)
    yield made
    made.close()


@pytest.fixture
def switch_often() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)
