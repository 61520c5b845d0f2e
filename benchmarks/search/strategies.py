"""The strategies: how each is run, and how near its searches came to the best after so many epochs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.rivals import Rival
from benchmarks.search import ours
from benchmarks.search.replay import best_so_far, epochs_until

FEW = 40  # trainings of a strategy that trains each to its end: 1,080 epochs
MANY = 60  # of one that stops most: about 300 epochs
OPTUNA = Rival("Optuna: TPE + successive halving", "on_optuna.py", package="optuna")
RAY = Rival("Ray Tune: ASHA", "on_ray_tune.py", package="ray")
RIVAL_PATIENCE_S = 20.0  # a repeat, on a busy machine


@dataclass(frozen=True)
class Searches:
    """What the repeats of one strategy came to."""

    name: str
    best: list[list[float]]  # of each repeat, after 1, 2, ... epochs: points below the best of all

    @property
    def epochs(self) -> list[float]:
        """Of each repeat until within one point; of one that never came there, all that it spent."""
        return [epochs_until(each) or float(len(each)) for each in self.best]

    @property
    def in_vain(self) -> int:
        """How many repeats never came there."""
        return sum(epochs_until(each) is None for each in self.best)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The middle one is the median."""
        if len(self.best) < 2:
            return (self.epochs[0],) * 3
        low, _, high = quantiles(self.epochs, n=4, method="inclusive")
        return low, median(self.epochs), high


def ours_by(method: str, *, halves: bool) -> Callable[[int, Path], bool]:
    """Return how a strategy of ours is run."""

    def run(repeats: int, logs: Path) -> bool:
        ours.search(method, repeats, MANY if halves else FEW, logs, halves=halves)
        return True

    return run


def rival_by(rival: Rival) -> Callable[[int, Path], bool]:
    """Return how a strategy of a rival is run; its runs say whether it is there."""

    def run(repeats: int, logs: Path) -> bool:
        patience_s = RIVAL_PATIENCE_S * (repeats + 3)
        return bool(rival.run(str(repeats), str(MANY), str(logs), patience_s=patience_s))

    return run


RANDOM, RANDOM_HALVING, TPE_HALVING = "random", "random + halving", "TPE + halving"
STRATEGIES: dict[str, Callable[[int, Path], bool]] = {
    RANDOM: ours_by("random", halves=False),
    RANDOM_HALVING: ours_by("random", halves=True),
    TPE_HALVING: ours_by("tpe", halves=True),
    OPTUNA.title: rival_by(OPTUNA),
    RAY.title: rival_by(RAY),
}


def search(name: str, repeats: int, logs: Path) -> Searches | None:
    """Run so many repeats of a strategy; None where it is not installed."""
    if not STRATEGIES[name](repeats, logs):
        return None
    return Searches(name, [best_so_far(logs / f"{repeat}.log", repeat) for repeat in range(repeats)])
