"""24 trainings of about a second, two at a time: two workers beside two bare processes, and beside Ray.

A pair is measured right after one another, and what counts is the median of the pairs' ratios.
All are measured from the end of each process's first training, so that imports count for none. How many
epochs a second has on this machine is tried first.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder, manager, worker
from benchmarks.rivals import Rival
from distexp.system.process import ProcessMark
from distexp.worker.watcher import Watcher

RAY = Rival("Ray, two actors", "on_ray.py", package="ray")
WORKERS = 2
TRAININGS = 24
PAIRS = 9  # with fewer, the interval of the ratio is as wide as its spread
WATCHED = 2000  # children, one after the other
WATCHER_BAR_MS = 10.0
TRIED = 4  # before: how long does one take?
PARAMETERS = {"dataset": "digits", "model": "mlp", "width_factor": 4}
EPOCHS = 25  # of a small training
BAR = 1.05
TIMED = """
import time
from distexp.experiments.classification import run as train, warm_up
def run(params, context):
    result = train(params, context)
    with open("ends", "a") as file:
        file.write(f"{time.monotonic()}\\n")
    return result
"""


def measure() -> list[Figure]:
    """Return the time of ours beside that of the bare processes and of Ray.

    Every other round goes backwards: a machine that gets warm slows down whoever comes last.
    """
    ours, bare, ray = list[float](), list[float](), list[float]()
    epochs = _epochs_of_a_second()
    steps: list[Callable[[], None]] = [
        lambda: bare.append(span_s(bare_ends(TRAININGS, WORKERS, "cpu", epochs), WORKERS)),
        lambda: ours.append(span_s(our_ends(TRAININGS, WORKERS, epochs, "--device", "cpu"), WORKERS)),
        lambda: ray.extend(RAY.run(str(TRAININGS), str(WORKERS), str(epochs), with_ours=True)),
    ]
    for index in range(PAIRS):
        for step in steps if index % 2 == 0 else steps[::-1]:
            step()
    name = f"{TRAININGS} trainings, {WORKERS} workers, a fresh child each"
    return [
        Figure(
            name, "s", ours, times_at_most(BAR), f"{WORKERS} bare persistent processes", bare, is_paired=True
        ),
        Figure(name, "s", ours, times_at_most(1), RAY.name(), ray, is_paired=len(ray) == len(ours)),
        Figure(
            "what the watcher adds to a task",
            "ms",
            [_watcher_ms() for _ in range(ROUNDS)],
            at_most(WATCHER_BAR_MS),
        ),
    ]


def _watcher_ms() -> float:
    """Return how long a worker takes to tell its watcher of a child, and the watcher to hear it."""
    with (
        tempfile.TemporaryDirectory() as root,
        subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        ) as child,
    ):
        before = set(psutil.Process().children())
        mark, watcher = ProcessMark.of(child.pid), Watcher(Path(root, "lock"))
        assert mark is not None
        watcher.await_ready()
        (process,) = set(psutil.Process().children()) - before
        began_s, used_s = time.perf_counter(), sum(process.cpu_times()[:2])
        for _ in range(WATCHED):
            watcher.watch(mark, "mark")
            watcher.forget(mark)
        took_s = time.perf_counter() - began_s
        used_s = sum(process.cpu_times()[:2]) - used_s
        watcher.close()
        child.communicate()
    return 1000 * (took_s + used_s) / WATCHED


def _epochs_of_a_second() -> int:
    first, *_, last = ends = bare_ends(TRIED, 1, "cpu", EPOCHS)
    return max(1, round(EPOCHS * (len(ends) - 1) / (last - first)))


def span_s(ends: Sequence[float], workers: int) -> float:
    """Return the seconds from the moment at which each process had ended one training, to the last end."""
    in_order = sorted(ends)
    return in_order[-1] - in_order[workers - 1]


def our_ends(trainings: int, workers: int, epochs: int, *words: str) -> list[float]:
    """Return when each training of a sweep ended; each worker is started with these words."""
    settings = ", ".join(f"{name}: {value}" for name, value in (PARAMETERS | {"epochs": epochs}).items())
    config = (
        f"defaults: {{experiment: 'timed:run', output_dir: results, {settings}}}\n"
        f"train: {{combinations: [{{seed: {list(range(workers + trainings))}}}]}}\n"
    )
    with folder(config) as workdir:
        (workdir.root / "timed.py").write_text(TIMED, encoding="utf-8")
        with manager(workdir), ExitStack() as opened:
            for each in [opened.enter_context(worker(workdir, *words)) for _ in range(workers)]:
                each.wait()  # nothing polls meanwhile: that would cost the trainings time
        return [float(end) for end in (workdir.root / "ends").read_text(encoding="utf-8").split()]


def bare_ends(trainings: int, workers: int, device: str, epochs: int) -> list[float]:
    """Return when each training of so many persistent processes ended."""
    context = multiprocessing.get_context("spawn")
    started, ends = [], list[float]()
    for index in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        seeds = range(index, workers + trainings, workers)
        process = context.Process(target=train_all, args=(list(seeds), theirs, device, epochs))
        process.start()
        started.append((process, ours, len(seeds)))
    for process, pipe, number in started:
        ends += [pipe.recv() for _ in range(number)]
        process.join()
    return ends


def train_all(seeds: Sequence[int], ends: Connection, device: str, epochs: int) -> None:
    """Train once for each seed, in this process."""
    for seed in seeds:
        train(seed, device, epochs)
        ends.send(time.monotonic())


def train(seed: int, device: str, epochs: int) -> None:
    """Train once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from distexp.context import Context
    from distexp.experiments.classification import run

    with TemporaryDirectory() as checkpoint_dir:
        context = Context(seed=seed, checkpoint_dir=Path(checkpoint_dir), device=device)
        run(PARAMETERS | {"epochs": epochs}, context)
