"""How long a task stays with a worker that is gone: killed, cut off, frozen; until another worker has it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import LOOK_S, Figure, elsewhere, folder, manager, status, worker
from distexp.workdir import Workdir

CONFIG = """
defaults: {command: "sleep 1000", output_dir: results}
grid: {combinations: [a: [1]]}
"""
PATIENCE_S = 120.0


def measure() -> list[Figure]:
    """Return the seconds from the fault to the next lease of the task, beside what is promised."""
    return [
        _figure("local worker killed", 1.0, _local_kill),
        _figure("connection of a worker elsewhere broken", 11.0, _broken_connection),
        _figure("host of a worker frozen", 61.0, _frozen_host),
    ]


def _figure(what: str, bound_s: float, run: Callable[[Workdir], float]) -> Figure:
    with folder(CONFIG) as workdir, manager(workdir):
        took_s = run(workdir)
    name = f"{what}, until its task runs elsewhere : bound"
    return Figure(name, f"{took_s:.2f} s", f"{bound_s:g} s", took_s / bound_s, "at most 1", took_s <= bound_s)


def _local_kill(workdir: Workdir) -> float:
    with worker(workdir) as first:
        return _fault(workdir, first, signal.SIGKILL)


def _broken_connection(workdir: Workdir) -> float:
    with tempfile.TemporaryDirectory() as other, elsewhere(workdir, Path(other)) as first:
        return _fault(workdir, first, signal.SIGKILL)


def _frozen_host(workdir: Workdir) -> float:
    with tempfile.TemporaryDirectory() as other, elsewhere(workdir, Path(other)) as first:
        try:
            return _fault(workdir, first, signal.SIGSTOP)
        finally:
            os.kill(first.pid, signal.SIGCONT)


def _fault(workdir: Workdir, first: "subprocess.Popen[bytes]", number: signal.Signals) -> float:
    """Send the signal while a second worker waits, and return how long that takes to get the task."""
    _await_leases(workdir, 1)
    with worker(workdir):
        _await(lambda: status(workdir)["workers"] == 2, "second worker")
        first.send_signal(number)
        began_s = time.perf_counter()
        _await_leases(workdir, 2)
        return time.perf_counter() - began_s


def _await_leases(workdir: Workdir, count: int) -> None:
    _await(lambda: workdir.log.read_text(encoding="utf-8").count("Assigned task") >= count, f"{count} leases")


def _await(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"found no {what} in {PATIENCE_S:g} s")
        time.sleep(LOOK_S)
