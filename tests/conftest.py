"""Fixtures of several test files."""

import itertools
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.worker.task_process import Children
from distexp.worker.watcher import Watcher
from tests import VISIBLE_GPUS
from tests.live_child import METHODS, Write
from tests.live_manager import Folder

# Of these, each takes long. With `--dist loadfile` one that begins last would keep a single process busy.
LONGEST = (
    *("test_tutorial.py", "test_kill_points.py", "test_windows_sweep.py", "test_slurm.py", "test_macos.py"),
    *("test_gpu_worker.py", "test_end_to_end.py", "test_worker.py", "test_rerun.py", "test_delivery.py"),
    *("test_local_run.py", "test_launchers.py", "test_searches.py", "test_code_identity.py"),
    *("test_log_cap.py", "test_bootstrap.py", "test_wheel.py", "test_foreign_files.py", "test_screen.py"),
)

_numbers = itertools.count()

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # children inherit that nohup ignores it


def pytest_configure(config: pytest.Config) -> None:
    """Let the order of the files be ours, not that of how many tests they hold."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep tests of real GPUs to those that whoever runs them may use."""
    if VISIBLE_GPUS is not None and item.get_closest_marker("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
    try:
        return (yield)
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)


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


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port at which nobody listens, and nobody else can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


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
