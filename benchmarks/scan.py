"""A results file of 1,000,000 rows and 90 MB: its first scan, and rescans of it, by the manager itself.

The scan is what lies between two lines of the manager's log, `Generated ...` and `Marked ...`: the file
is read and each row is matched to its task, which is then complete. Beside it `pandas.read_csv` reads the
same file in a process of its own, its import not counted.
"""

import itertools
import logging
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder, pool
from benchmarks.million import config
from distexp.manager.manager import ExperimentManager
from distexp.results.results_file import RESULTS_FILE

A, B = 1000, 1010
ROWS, NEW = 1_000_000, 100  # the other tasks get theirs while the manager runs
HEADER = "phase,task_id,a,b,seed,test_acc,attempt,worker,host,device,started_utc,duration_s\n"
PANDAS = (
    "import sys, time, pandas\nbegan_s = time.perf_counter()\npandas.read_csv(sys.argv[1])\n"
    "print(time.perf_counter() - began_s)"
)
STARTED = "2026-11-24T09:56:38Z"
BAR_PANDAS = 2.5
PHASES = 20  # of 50 x 20 combinations and 50 seeds each
PHASES_HEADER = "lr,width,seed,test_acc,attempt,worker,host,device,started_utc,duration_s\n"
BAR_PHASES, BAR_NO_PHASE = 3.0, 10.0
BAR_NOTHING_MS, BAR_NEW_MS = 5.0, 50.0
RESCANS = 9  # of each kind, and of each run


def measure() -> list[Figure]:
    """Return the first scan beside pandas, and the rescans; each run by a new process."""
    scans, pandas, nothing, some = [], [], [], []
    with folder(config(A, B)) as workdir:
        path = workdir.root / "results" / RESULTS_FILE
        path.parent.mkdir()
        for _ in range(ROUNDS):
            with open(path, "w", encoding="utf-8") as file:
                file.write(HEADER)
                file.writelines(map(row, range(ROWS)))
            pandas.append(_pandas_s(path))
            with pool(1) as executor:
                scan_s, nothing_ms, new_ms = executor.submit(_scan, workdir.root, ROWS).result()
            scans.append(scan_s)
            nothing.append(nothing_ms)
            some.append(new_ms)
        megabytes = path.stat().st_size / 1e6
    return [
        Figure(
            f"first scan of {ROWS:,} rows ({megabytes:.0f} MB), matched to tasks",
            *("s", scans, times_at_most(BAR_PANDAS), "bare pandas.read_csv", pandas),
        ),
        Figure("rescan with nothing new, a million rows", "ms", nothing, at_most(BAR_NOTHING_MS)),
        Figure(f"rescan with {NEW} new rows in a million", "ms", some, at_most(BAR_NEW_MS)),
        _interleaved("with", BAR_PHASES),
        _interleaved("without", BAR_NO_PHASE),
    ]


def _interleaved(has_phase: Literal["with", "without"], bar: float) -> Figure:
    """Return the first scan of a file in which the rows of all phases take turns."""
    scans, pandas = [], []
    with folder(phases_config()) as workdir:
        path = workdir.root / "results" / RESULTS_FILE
        path.parent.mkdir()
        with open(path, "w", encoding="utf-8") as file:
            file.write(("phase," if has_phase == "with" else "") + PHASES_HEADER)
            for lr, width, seed, phase in itertools.product(range(50), range(20), range(50), range(PHASES)):
                name = f"p{phase}," if has_phase == "with" else ""
                cells = f"{learning_rate(phase, lr)},{width},{seed},0.91,1,gpu0,node-17,NVIDIA H100,{STARTED}"
                file.write(f"{name}{cells},0.95\n")
        for _ in range(ROUNDS):
            pandas.append(_pandas_s(path))
            with pool(1) as executor:
                scans.append(executor.submit(_first_scan_s, workdir.root, ROWS).result())
    name = f"first scan of {ROWS:,} rows of {PHASES} phases in turn, {has_phase} a column `phase`"
    return Figure(name, *("s", scans, times_at_most(bar), "bare pandas.read_csv", pandas))


def phases_config() -> str:
    """Return a config of `PHASES` phases, in which each has learning rates of its own."""
    head = f"defaults: {{command: 'true {{args}}', output_dir: results}}\nseeds: {list(range(50))}\n"
    phases = (
        f"p{phase}: {{combinations: [{{lr: {[learning_rate(phase, at) for at in range(50)]}}}, "
        f"{{width: {list(range(20))}}}]}}\n"
        for phase in range(PHASES)
    )
    return head + "".join(phases)


def learning_rate(phase: int, at: int) -> float:
    """Return one of the values of a phase, unlike those of any other."""
    return (100 * phase + at + 1) / 10_000


def _pandas_s(path: Path) -> float:
    read = subprocess.run(
        [sys.executable, "-c", PANDAS, str(path)], capture_output=True, text=True, check=True
    )
    return float(read.stdout)


def row(index: int) -> str:
    """Return the row of the task of this index."""
    a, b = divmod(index, B)
    return f"grid,grid_{index}_42,{a},{b},42,0.{index:06d},1,gpu0,node-17,NVIDIA H100,{STARTED},0.95\n"


class _Moments(logging.Handler):
    """When the manager said what."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.said[record.getMessage().split()[0]] = time.perf_counter()


def _started(root: Path) -> tuple[ExperimentManager, float]:
    """Return a manager that serves, and the seconds that its first scan took."""
    moments = _Moments()
    logging.getLogger("distexp.manager").addHandler(moments)
    manager = ExperimentManager(port=0, workdir=root, rescan_s=math.inf)
    manager.start()
    return manager, moments.said["Marked"] - moments.said["Generated"]


def _first_scan_s(root: Path, rows: int) -> float:
    manager, took_s = _started(root)
    try:
        expect(manager, rows)
    finally:
        manager.stop()
    return took_s


def _scan(root: Path, rows: int) -> tuple[float, float, float]:
    """Return the seconds of the first scan, the ms of a rescan with nothing new, and of one with new rows."""
    manager, took_s = _started(root)
    try:
        expect(manager, rows)
        nothing_ms = statistics.median(_ms(manager.rescan) for _ in range(RESCANS))
        new_ms = []
        for turn in range(RESCANS):
            begin = rows + turn * NEW
            with open(root / "results" / RESULTS_FILE, "a", encoding="utf-8") as file:
                file.writelines(map(row, range(begin, begin + NEW)))
            new_ms.append(_ms(manager.rescan))
        expect(manager, rows + RESCANS * NEW)
    finally:
        manager.stop()
    return took_s, nothing_ms, statistics.median(new_ms)


def expect(manager: ExperimentManager, complete: int) -> None:
    """Raise AssertionError unless so many tasks are complete: else the wrong thing was measured."""
    if (found := manager.dispatcher.status().complete) != complete:
        raise AssertionError(f"{found} complete tasks instead of {complete}")


def _ms(step: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - began_s)
