"""Asynchronous successive halving: who is among the best at a rung, and who stops there. Pure.

Source: Li et al. 2020, https://arxiv.org/abs/1810.05934, in the form that stops instead of promoting: of the
n configurations that have reached a rung so far, the best n / eta go on (at least one). No verdict waits for
another task, so an early one may go on that a later one would not.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from distexp.task import Halving

Values = Mapping[str, Iterable[float | None]]  # configuration -> what its seeds reached; None: no number


@dataclass(frozen=True)
class Verdict:
    """Where a configuration stands at a rung."""

    stops: bool
    rank: int  # 1: the best; equal means share a rank
    of: int  # configurations that have reached the rung
    kept: int  # of those that go on
    mean: float | None  # over the seeds that are there; None where one of them is no number


def judge(configuration: str, values: Values, halving: Halving) -> Verdict:
    """Return whether a configuration is to stop at a rung.

    Args:
        configuration: Which.
        values: Of all configurations that have reached the rung, this one among them.
        halving: Says how many go on, and whether more is better. What is no number is worse than any.
    """
    means = {name: mean_of(found) for name, found in values.items()}
    own = means[configuration]
    better = sum(_score(mean, halving) > _score(own, halving) for mean in means.values())
    kept = max(1, len(means) // halving.eta)
    return Verdict(stops=better >= kept, rank=better + 1, of=len(means), kept=kept, mean=own)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean; None where a value is no finite number."""
    found = list(values)
    numbers = [value for value in found if value is not None and math.isfinite(value)]
    return fmean(numbers) if len(numbers) == len(found) else None


def _score(mean: float | None, halving: Halving) -> float:
    if mean is None:
        return -math.inf
    return mean if halving.goal == "maximize" else -mean
