"""24 trainings of about a second, two at a time: two workers beside two bare persistent processes.

Both are measured from the end of each process's first training, so that imports count for neither.
"""

import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Figure, folder, manager, worker

WORKERS = 2
TRAININGS = 24
PARAMETERS = {"dataset": "digits", "model": "mlp", "width_factor": 4, "epochs": 25}
ROUNDS = 3
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
    """Return the time of ours beside that of the bare processes: medians of alternating rounds."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(_bare_s())
        ours.append(_ours_s())
    ours_s, bare_s = statistics.median(ours), statistics.median(bare)
    ratio = ours_s / bare_s
    name = f"{TRAININGS} trainings, {WORKERS} workers : {WORKERS} bare processes"
    return [Figure(name, f"{ours_s:.2f} s", f"{bare_s:.2f} s", ratio, "at most 1.10", ratio <= 1.10)]


def _ours_s() -> float:
    settings = ", ".join(f"{name}: {value}" for name, value in PARAMETERS.items())
    config = (
        f"defaults: {{experiment: 'timed:run', output_dir: results, {settings}}}\n"
        f"train: {{combinations: [{{seed: {list(range(WORKERS + TRAININGS))}}}]}}\n"
    )
    with folder(config) as workdir:
        (workdir.root / "timed.py").write_text(TIMED, encoding="utf-8")
        with manager(workdir), worker(workdir) as first, worker(workdir) as second:
            first.wait()  # nothing polls meanwhile: that would cost the trainings time
            second.wait()
        ends = sorted(map(float, (workdir.root / "ends").read_text(encoding="utf-8").split()))
    return ends[-1] - ends[WORKERS - 1]


def _bare_s() -> float:
    ends: list[float] = []
    context = multiprocessing.get_context("spawn")
    pipes = []
    for index in range(WORKERS):
        ours, theirs = context.Pipe(duplex=False)
        seeds = range(index, WORKERS + TRAININGS, WORKERS)
        context.Process(target=_train_all, args=(list(seeds), theirs)).start()
        pipes.append((ours, len(seeds)))
    for pipe, number in pipes:
        ends += [pipe.recv() for _ in range(number)]
    ends.sort()
    return ends[-1] - ends[WORKERS - 1]


def _train_all(seeds: list[int], ends: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from distexp.context import Context
    from distexp.experiments.classification import run

    for seed in seeds:
        with TemporaryDirectory() as checkpoint_dir:
            run(dict(PARAMETERS), Context(seed=seed, checkpoint_dir=Path(checkpoint_dir)))
        ends.send(time.monotonic())
