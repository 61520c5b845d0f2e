"""`python -m benchmarks.search.record`: make `trainings.csv` anew, 288 trainings of digits; some minutes.

Every combination of 9 learning rates, 4 widths and 4 batch sizes is trained with two seeds, 27 epochs each,
on one thread. `epoch_ms` is the computing time of an epoch, which other programs do not lengthen.
"""

import csv
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import pool
from benchmarks.search.replay import AXES, EPOCHS, SEEDS, TABLE

LR = [0.0001, 0.000316228, 0.001, 0.00316228, 0.01, 0.0316228, 0.1, 0.316228, 1.0]
WIDTHS = [1, 2, 4, 8]
BATCHES = [16, 32, 64, 128]
COLUMNS = (*AXES, "seed", "epoch_ms", *map(str, range(1, EPOCHS + 1)))


def train(lr: float, width_factor: int, batch_size: int, seed: int) -> dict[str, float]:
    """Return the row of one training."""
    from distexp.context import Context
    from distexp.experiments.classification import run

    reached: list[float] = []

    def note(step: Any, total: Any, metrics: Mapping[str, Any]) -> None:
        reached.append(round(metrics["val_acc"], 4))

    params = {"lr": lr, "width_factor": width_factor, "batch_size": batch_size}
    began_s = time.process_time()
    with TemporaryDirectory() as checkpoint_dir:
        context = Context(seed=seed, checkpoint_dir=Path(checkpoint_dir), on_report=note)
        run({**params, "dataset": "digits", "epochs": EPOCHS}, context)
    epoch_ms = round(1000 * (time.process_time() - began_s) / EPOCHS, 1)
    steps = {str(step): val_acc for step, val_acc in enumerate(reached, 1)}
    return {**params, "seed": seed, "epoch_ms": epoch_ms, **steps}


def write(rows: Iterable[Mapping[str, float]], path: Path) -> None:
    """Write the table."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows() -> Iterator[dict[str, float]]:
    """Train all, one process a core."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with pool(os.cpu_count() or 1) as executor:
        places = list(itertools.product(SEEDS, LR, WIDTHS, BATCHES))
        futures = [executor.submit(train, lr, width, batch, seed) for seed, lr, width, batch in places]
        for number, future in enumerate(futures, 1):
            yield future.result()
            print(f"\r{number} of {len(places)}", end="", file=sys.stderr)


if __name__ == "__main__":
    write(rows(), TABLE)
