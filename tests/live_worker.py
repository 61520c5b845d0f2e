"""Workers of the product as processes, and experiments for them that wait at a gate."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from distexp.system.code import CodeState
from distexp.system.process import ProcessMark, host_name, machine_id
from distexp.wire.client import Client
from distexp.workdir import Workdir
from distexp.worker.code_folder import CodeFolder
from distexp.worker.connection import ManagerConnection
from distexp.worker.signals import StopRequests
from distexp.worker.task_process import DEFAULT_START_METHOD, Children
from distexp.worker.watcher import Watcher
from distexp.worker.worker import Worker
from tests.live_manager import Folder
from tests.support import poll

RUNNER = Path(__file__).parent.parent / "experiment_runner_gpu.py"
DEADLINE_S = 60.0

CONFIG = """
defaults: {{output_dir: ./results_exp1, experiment: "experiment:run"}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""

# Says that it runs, then returns once the file `gate` is there; saves nothing when asked to stop.
GATED = """
import time
from pathlib import Path
def run(params, context):
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while not Path("gate").exists():
        if context.should_stop(): raise context.Stopped
        time.sleep(0.01)
    return {"score": 10 * params["width"]}
"""


@dataclass(frozen=True)
class WorkerProcess:
    """A worker, started as a user starts it."""

    process: subprocess.Popen[str]
    log: Path

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def await_words(self, words: str) -> None:
        poll(lambda: words in self.output() or self._ended(), f"{words!r} in {self.output()!r}")
        assert words in self.output()

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def code(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(DEADLINE_S)


@contextmanager
def worker_process(
    folder: Path,
    *words: object,
    device: str = "cpu",
    environment: dict[str, str] | None = None,
    script: Path = RUNNER,
) -> Iterator[WorkerProcess]:
    """A worker of `folder`; at the end it is killed, if it has not left by then."""
    log = folder / f"worker-{len(list(folder.glob('worker-*.out')))}.out"
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, script, *map(str, words), "--device", device, "--workdir", folder],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=os.environ | (environment or {}),
        )
    try:
        yield WorkerProcess(process, log)
    finally:
        process.kill()
        process.wait()


def gated_folder(root: Path, widths: str, source: str = GATED, config: str = CONFIG) -> Folder:
    """A folder with a sweep over `widths` of the experiment `source`."""
    (root / "experiment.py").write_text(source, encoding="utf-8")
    folder = Folder(root)
    folder.configure(widths, config)
    return folder


def open_gate(root: Path) -> None:
    (root / "gate").touch()


def await_file(path: Path) -> None:
    poll(path.exists, f"{path.name} made", DEADLINE_S)


def await_began(root: Path, width: int = 1, attempt: int = 1) -> None:
    await_file(root / f"began-{width}-{attempt}")


def await_rows(folder: Folder, count: int) -> list[dict[str, str]]:
    poll(lambda: folder.csv.is_file() and len(folder.rows()) >= count, f"{count} rows", DEADLINE_S)
    return folder.rows()


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the live processes whose environment holds `mark`."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Threaded:
    """A worker in a thread of this process."""

    thread: threading.Thread
    stop: StopRequests

    def await_end(self) -> None:
        self.thread.join(60)
        assert not self.thread.is_alive(), "the worker did not leave"


@contextmanager
def threaded_worker(root: Path, port: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Threaded]:
    workdir, stop = Workdir(root), StopRequests()
    watcher = Watcher(workdir.task_lock(ProcessMark.own()))
    made = Worker(
        identity={
            **{"worker_id": "cpu0", "instance": str(time.monotonic_ns()), "heartbeat_s": 15.0},
            **{"host": host_name(), "device": "cpu", "machine": machine_id()},
        },
        workdir=workdir,
        connection=ManagerConnection(Client(workdir, "localhost", port), stop, clock, 300.0),
        children=Children(
            method=DEFAULT_START_METHOD,
            device="cpu",
            threads=1,
            watcher=watcher,
            code=lambda: CodeState("c0de", "c0ffee", True),
        ),
        stop=stop,
        clock=clock,
        code=CodeFolder(workdir, lambda: Client(workdir, "localhost", port)),
    )
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield Threaded(thread, stop)
    finally:
        for _ in range(3):
            stop.interrupt()
        thread.join(60)
        watcher.close()
        stop.close()
