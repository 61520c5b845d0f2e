"""How long tasks will take, from how long others took. Pure.

The model is a product: a mean, times one factor for each parameter's value (the phase counts as one, and the
experiment). What has been seen of `epochs: 30` in one phase so tells something of it in another. The factors
are those for which the sum over all tasks of one value is what was measured: iterative proportional fitting,
Deming & Stephan 1940, https://doi.org/10.1214/aoms/1177731829.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distexp.task import Task, Value, canonical

ROUNDS = 8  # of fitting; factors of a crossed grid are exact after one, others settle by then
MAX_TREND = 16.0  # by how much a value that nobody has seen may differ from those seen, whatever their trend

Features = Mapping[str, Value]  # name of a parameter -> its value, as something to look up


@dataclass(frozen=True)
class Factors:
    """How many times the mean tasks take, by the values of one parameter."""

    seen: Mapping[Value, float]
    slope: float = 0.0  # of log(factor) over log(value), for numbers above zero that were not seen
    height: float = 0.0  # of that line at a value of 1
    low: float = 0.0  # the line is cut off below this logarithm of a factor
    high: float = 0.0  # and above this

    def of(self, value: Value) -> float:
        """Return the factor of a value; of a number that was not seen, what the trend of the others says."""
        if value in self.seen:
            return self.seen[value]
        if not _is_positive(value):
            return 1.0
        return math.exp(min(max(self.height + self.slope * math.log(value), self.low), self.high))


@dataclass(frozen=True)
class Model:
    """What attempts have taken, in seconds, by the values of their parameters."""

    mean_s: float
    factors: Mapping[str, Factors]

    def predict_s(self, facts: Features) -> float:
        """Return how long a task of these values will take, in seconds."""
        return self.mean_s * math.prod(each.of(facts.get(name)) for name, each in self.factors.items())


def features_of(task: Task) -> Features:
    """Return what the time of a task may depend on; the seed is left out."""
    facts = {name: _simple(value) for name, value in task.config.items()}
    return {**facts, " experiment": f"{task.experiment} {task.command}", " phase": task.phase}


def _simple(value: Value) -> Value:
    return value if isinstance(value, int | float | str) else canonical(value)


def fit(measured: Sequence[tuple[Features, float]]) -> Model | None:
    """Return the model of what was measured, in seconds; None of nothing."""
    if not measured:
        return None
    names = dict.fromkeys(name for facts, _ in measured for name in facts)
    columns = {name: [facts.get(name) for facts, _ in measured] for name in names}
    columns = {name: column for name, column in columns.items() if len(set(column)) > 1}
    took_s = [max(seconds, 1e-3) for _, seconds in measured]  # zero would be a factor for ever
    mean_s = sum(took_s) / len(took_s)
    expected_s = [mean_s] * len(took_s)
    factors: dict[str, dict[Value, float]] = {name: dict.fromkeys(col, 1.0) for name, col in columns.items()}
    for _ in range(ROUNDS):
        for name, column in columns.items():
            ratios = _ratios(column, took_s, expected_s)
            expected_s = [seconds * ratios[value] for seconds, value in zip(expected_s, column, strict=True)]
            factors[name] = {value: factor * ratios[value] for value, factor in factors[name].items()}
    for name, column in columns.items():  # so that 1 is the mean of what was seen, for values that were not
        middle = sum(factors[name][value] for value in column) / len(column)
        mean_s *= middle
        factors[name] = {value: factor / middle for value, factor in factors[name].items()}
    return Model(mean_s, {name: _with_trend(seen) for name, seen in factors.items()})


def _ratios(column: Iterable[Value], took_s: list[float], expected_s: list[float]) -> dict[Value, float]:
    took: dict[Value, float] = {}
    expected: dict[Value, float] = {}
    for value, seconds, guess_s in zip(column, took_s, expected_s, strict=True):
        took[value] = took.get(value, 0.0) + seconds
        expected[value] = expected.get(value, 0.0) + guess_s
    return {value: seconds / expected[value] for value, seconds in took.items()}


def _with_trend(seen: Mapping[Value, float]) -> Factors:
    """Return the factors with the line of least squares through those of numbers, if there are two."""
    known = {math.log(each): math.log(factor) for each, factor in seen.items() if _is_positive(each)}
    if len(known) < 2:
        return Factors(seen)
    middle = sum(known) / len(known)
    slope = sum((x - middle) * y for x, y in known.items()) / sum((x - middle) ** 2 for x in known)
    height = sum(known.values()) / len(known) - slope * middle
    limit = math.log(MAX_TREND)
    return Factors(seen, slope, height, min(known.values()) - limit, max(known.values()) + limit)


def _is_positive(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def remaining_s(pending_s: Sequence[float], pending: int, running_s: Sequence[float], workers: int) -> float:
    """Return how long the rest of a sweep takes, in seconds, with `workers` at it.

    Args:
        pending_s: How long each of a sample of the pending tasks will take.
        pending: How many are pending in all.
        running_s: How long each running task will still take.
        workers: How many work, one task each; at least 1.
    """
    work_s = sum(running_s)
    if pending_s:
        work_s += pending * sum(pending_s) / len(pending_s)
    return max(work_s / workers, *running_s, *pending_s, 0.0)
