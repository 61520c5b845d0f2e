"""What the measures share: a working folder, real managers and workers as processes."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from distexp.errors import DistexpError
from distexp.wire.client import Client
from distexp.wire.messages import Status, StatusReply, SweepStatus
from distexp.workdir import Workdir

PROJECT = Path(__file__).resolve().parent.parent
READY_S = 120.0  # for a manager of a million tasks to serve
LOOK_S = 0.02  # between two looks at a sweep: the resolution of its times
ROUNDS = 3  # of every measure


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield that many new processes; an error or Ctrl+C leaves neither them nor work that waits for them."""
    executor = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def environment(**variables: str) -> dict[str, str]:
    """Return what users' processes find: byte code is kept, the package is found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(PROJECT), **variables}


@contextmanager
def folder(config: str) -> Iterator[Workdir]:
    """Yield a fresh working folder that holds one config file."""
    with tempfile.TemporaryDirectory() as root:
        configs = Path(root, "configs")
        configs.mkdir()
        (configs / "config_exp1.yaml").write_text(config, encoding="utf-8")
        yield Workdir(Path(root))


@contextmanager
def manager(workdir: Workdir, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a manager that serves, on a free port."""
    with manager_at_once(workdir, *words) as process:
        until_s = time.monotonic() + READY_S
        while True:
            try:
                status(workdir)
                break
            except DistexpError:
                if process.poll() is not None or time.monotonic() > until_s:
                    raise
                time.sleep(LOOK_S)
        yield process


@contextmanager
def manager_at_once(workdir: Workdir, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a manager that has been started, and may not serve yet."""
    with _script(workdir, "experiment_manager.py", "--port", "0", *words) as process:
        yield process


@contextmanager
def worker(workdir: Workdir, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a CPU worker of the folder's manager."""
    with _script(workdir, "experiment_runner_gpu.py", "--device", "cpu", *words) as process:
        yield process


@contextmanager
def elsewhere(workdir: Workdir, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a CPU worker that shares nothing with the manager but its token: `root` is its folder."""
    words = ("localhost", str(workdir.read_info()["port"]), "--device", "cpu")
    token = workdir.token.read_text(encoding="utf-8")
    with _script(Workdir(root), "experiment_runner_gpu.py", *words, EXPERIMENT_TOKEN=token) as process:
        yield process


@contextmanager
def _script(
    workdir: Workdir, script: str, *words: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(PROJECT / script), "--workdir", str(workdir.root), *words]
    with open(workdir.root / f"{script}.out", "ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(**variables))
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def status(workdir: Workdir) -> SweepStatus:
    """Return what the folder's manager says of its sweep."""
    with Client(workdir) as client:
        return client.call(Status(), StatusReply).status


def await_true(condition: Callable[[], bool], what: str, patience_s: float = READY_S) -> None:
    """Return once the condition holds; it is looked at every `LOOK_S`.

    Raises:
        TimeoutError: It does not in time; names `what`.
    """
    until_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"no {what} within {patience_s:g} s")
        time.sleep(LOOK_S)
