"""How long a task stays with a worker that is gone: killed, cut off, frozen; until another worker has it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS, await_true, elsewhere, folder, manager, status, worker
from distexp.workdir import Workdir

CONFIG = """
defaults: {command: "sleep 100{a}", output_dir: results}
grid: {combinations: [a: [1]]}
"""
BUSY = """
defaults: {experiment: "busy:run", output_dir: results}
grid: {combinations: [a: [1]]}
"""
HOLDS_THE_INTERPRETER = """
from pathlib import Path
def run(params, context):
    Path("began").touch()
    sum(range(10**12))
"""
PATIENCE_S = 120.0


def measure() -> list[Figure]:
    """Return the seconds from the fault to the next lease of the task, beside what is promised.

    The long ones wait for clocks, not for the machine: all of them run at the same time.
    """
    killed = [_run(_local_kill) for _ in range(ROUNDS)]
    busy = [_run(_busy_kill, BUSY) for _ in range(ROUNDS)]
    with ThreadPoolExecutor(2 * ROUNDS) as threads:
        broken = [threads.submit(_run, _broken_connection) for _ in range(ROUNDS)]
        frozen = [threads.submit(_run, _frozen_host) for _ in range(ROUNDS)]
    then = "until its task runs elsewhere"
    return [
        Figure(f"local worker killed, {then}", "s", killed, at_most(0.15)),
        Figure(f"local worker killed whose task holds the interpreter, {then}", "s", busy, at_most(2.5)),
        Figure(
            f"connection to another host broken, {then}", "s", [each.result() for each in broken], at_most(11)
        ),
        Figure(f"host of a worker frozen, {then}", "s", [each.result() for each in frozen], at_most(61)),
    ]


def _run(fault: Callable[[Workdir], float], config: str = CONFIG) -> float:
    with folder(config) as workdir, manager(workdir):
        return fault(workdir)


def _local_kill(workdir: Workdir) -> float:
    with worker(workdir) as first:
        return _fault(workdir, first, signal.SIGKILL)


def _busy_kill(workdir: Workdir) -> float:
    (workdir.root / "busy.py").write_text(HOLDS_THE_INTERPRETER, encoding="utf-8")
    with worker(workdir) as first:
        await_true((workdir.root / "began").exists, "task", PATIENCE_S)
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
        await_true(lambda: status(workdir).workers == 2, "second worker", PATIENCE_S)
        first.send_signal(number)
        began_s = time.perf_counter()
        _await_leases(workdir, 2)
        return time.perf_counter() - began_s


def _await_leases(workdir: Workdir, count: int) -> None:
    def are_assigned() -> bool:
        return workdir.log.read_text(encoding="utf-8").count("Assigned task") >= count

    await_true(are_assigned, f"{count} leases", PATIENCE_S)
