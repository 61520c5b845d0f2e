"""Recorded trainings, replayed at their pace for ours and the rivals alike; standard library alone.

`trainings.csv` is what `python -m benchmarks.search.record` has made. Every epoch that anybody spends is a
line in a log file: when, and the `val_acc` that it reached.
"""

import csv
import functools
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("trainings.csv")
AXES = ("lr", "width_factor", "batch_size")
SEEDS = (1, 2)  # each combination was trained with both: two tables
EPOCHS = 27
PACE = 0.1  # of the time that an epoch took


@dataclass(frozen=True)
class Recording:
    """One training."""

    epoch_s: float  # mean
    val_acc: tuple[float, ...]  # after each epoch


@functools.cache
def recordings(seed: int) -> dict[tuple[float, ...], Recording]:
    """Return all trainings with this seed, by the values of `AXES`."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        return {
            tuple(float(row[name]) for name in AXES): Recording(
                float(row["epoch_ms"]) / 1000, tuple(float(row[str(step)]) for step in range(1, EPOCHS + 1))
            )
            for row in csv.DictReader(file)
            if int(row["seed"]) == seed
        }


def space() -> dict[str, list[float]]:
    """Return the values of each axis, the smallest first; whole numbers as such."""
    columns = zip(*recordings(SEEDS[0]), strict=True)
    return {
        name: [int(value) if value == int(value) and name != "lr" else value for value in sorted({*column})]
        for name, column in zip(AXES, columns, strict=True)
    }


def seed_of(repeat: int) -> int:
    """Return the seed whose trainings a repeat replays."""
    return SEEDS[repeat % len(SEEDS)]


def replay(values: Mapping[str, Any], repeat: int, log: Path) -> Iterator[tuple[int, float]]:
    """Yield step and `val_acc` of each epoch when its time is over; note it in the log."""
    recording = recordings(seed_of(repeat))[tuple(float(values[name]) for name in AXES)]
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        for step, val_acc in enumerate(recording.val_acc, 1):
            time.sleep(recording.epoch_s * PACE)
            os.write(file, f"{time.monotonic_ns()} {val_acc}\n".encode())
            yield step, val_acc
    finally:
        os.close(file)


def best_so_far(log: Path, repeat: int) -> list[float]:
    """Return how many points the best is below the best of all, after 1, 2, ... epochs of all processes."""
    best_of_all = max(max(each.val_acc) for each in recordings(seed_of(repeat)).values())
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    reached = [val_acc for _, val_acc in sorted((int(at_ns), float(val_acc)) for at_ns, val_acc in lines)]
    return [round(100 * (best_of_all - best), 2) for best in itertools.accumulate(reached, max)]


def epochs_until(points_below: Sequence[float], points: float = 1.0) -> float | None:
    """Return how many epochs it took to come so near; None where that was not reached."""
    return next((float(spent) for spent, below in enumerate(points_below, 1) if below <= points), None)
