"""Means and intervals over seeds; the best combinations. Pure. Opens nothing."""

import math
from collections.abc import Mapping, Sequence

import msgspec

_T95 = (  # quantile 0.975 of Student's t for 1 to 30 degrees of freedom
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one value of an axis, or of one combination."""

    mean: float
    half: float | None  # of the 95 % interval; None for a single seed
    seeds: int


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One row: where it stands on each axis (the number of its value), its seed, and the metric."""

    place: tuple[int, ...]
    seed: int
    value: float


def t95(freedom: int) -> float:
    """Return the quantile 0.975 of Student's t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, beyond 30 degrees of freedom.
    """
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    return 1.959964 + 2.372 / freedom + 2.822 / freedom**2


def point(by_seed: Mapping[int, Sequence[float]]) -> Point:
    """Return mean and 95 % interval over seeds, where each seed counts once, with the mean of its values."""
    means = [math.fsum(values) / len(values) for values in by_seed.values()]
    count = len(means)
    mean = math.fsum(means) / count
    if count < 2:
        return Point(short(mean), None, count)
    variance = math.fsum((each - mean) ** 2 for each in means) / (count - 1)
    return Point(short(mean), short(t95(count - 1) * math.sqrt(variance / count)), count)


def short(number: float) -> float:
    """Return the number to six digits: what a chart shows."""
    return float(f"{number:.6g}")


def along(samples: Sequence[Sample], axis: int) -> dict[int, Point]:
    """Return per value of one axis what is known of it, all other axes taken together."""
    groups: dict[int, dict[int, list[float]]] = {}
    for sample in samples:
        groups.setdefault(sample.place[axis], {}).setdefault(sample.seed, []).append(sample.value)
    return {value: point(by_seed) for value, by_seed in sorted(groups.items())}


def across(
    samples: Sequence[Sample], first: int, second: int, shape: tuple[int, int]
) -> list[list[float | None]]:
    """Return the mean per pair of values of two axes; None where no row is.

    Shapes: (values of `second`, values of `first`): the first axis runs to the right.
    """
    sums: dict[tuple[int, int], tuple[float, int]] = {}
    for sample in samples:
        pair = (sample.place[first], sample.place[second])
        total, count = sums.get(pair, (0.0, 0))
        sums[pair] = (total + sample.value, count + 1)
    means = {pair: short(total / count) for pair, (total, count) in sums.items()}
    return [[means.get((x, y)) for x in range(shape[0])] for y in range(shape[1])]


def ranked(samples: Sequence[Sample], count: int) -> dict[str, list[tuple[tuple[int, ...], Point]]]:
    """Return the `count` combinations with the highest mean, and those with the lowest, best first."""
    groups: dict[tuple[int, ...], dict[int, list[float]]] = {}
    for sample in samples:
        groups.setdefault(sample.place, {}).setdefault(sample.seed, []).append(sample.value)
    found = sorted(
        ((place, point(by_seed)) for place, by_seed in groups.items()), key=lambda item: item[1].mean
    )
    return {"highest": found[::-1][:count], "lowest": found[:count]}
