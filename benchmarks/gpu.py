"""Small trainings per minute on one card: alone, with 4, 16 and `auto` slots, beside one bare process.

Needs a card.
"""

import os

from benchmarks.figures import Figure
from benchmarks.harness import ROUNDS
from benchmarks.trainings import EPOCHS, bare_ends, our_ends, span_s
from distexp.errors import NoGpuError
from distexp.gpu.devices import list_gpus

SLOTS = {"1": 1, "4": 4, "16": 16, "auto": 16}  # -> workers
TRAININGS = 40  # after the first one of each process
MIN_FREE_GB = "1"  # sixteen small trainings share the card


def measure() -> list[Figure]:
    """Return the rates with the card's name; nothing where there is no card."""
    try:
        card = list_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
    except NoGpuError as error:
        print(f"skipped ({error});", end=" ")
        return []
    os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid
    bare = [_per_minute(bare_ends(TRAININGS, 1, "cuda", EPOCHS), 1) for _ in range(ROUNDS)]
    return [
        Figure(
            f"small trainings per minute on one {card.name}, {slots} slots",
            *("/min", [rate(slots, TRAININGS) for _ in range(ROUNDS)], None, "one bare process", bare),
        )
        for slots in SLOTS
    ]


def rate(slots: str, trainings: int) -> float:
    """Return small trainings a minute on the first card, with so many slots: a key of `SLOTS`."""
    words = ("--device", "gpu", "--slots-per-gpu", slots, "--min-free-gb", MIN_FREE_GB)
    return _per_minute(our_ends(trainings, SLOTS[slots], EPOCHS, *words), SLOTS[slots])


def _per_minute(ends: list[float], workers: int) -> float:
    return 60 * (len(ends) - workers) / span_s(ends, workers)
