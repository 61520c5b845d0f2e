"""What the measures share: a working folder, real managers and workers as processes, one table at the end."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distexp.client import Client
from distexp.errors import DistexpError
from distexp.protocol import Status, StatusReply
from distexp.workdir import Workdir

PROJECT = Path(__file__).resolve().parent.parent
READY_S = 120.0  # for a manager of a million tasks to serve
LOOK_S = 0.02  # between two looks at a sweep: the resolution of its times


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    ours: str
    other: str
    ratio: float
    bar: str
    holds: bool


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield that many new processes; an error or Ctrl+C leaves neither them nor work that waits for them."""
    executor = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


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
    with _script(workdir, "experiment_manager.py", "--port", "0", *words) as process:
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
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **variables}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def status(workdir: Workdir) -> dict[str, int]:
    """Return what the folder's manager says of its sweep."""
    with Client(workdir) as client:
        return dict(client.call(Status(), StatusReply).status)
