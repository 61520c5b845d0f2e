"""Means and intervals over seeds; the best combinations. Pure."""

import math
from collections.abc import Mapping, Sequence

import msgspec

_T95 = (  # quantile 0.975 of Student's t for 1 to 30 degrees of freedom
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

Place = tuple[int, ...]  # the number of the value on each axis
Values = Sequence[float | None]  # one metric of every row of a phase; None: the row has no number there


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one value of an axis, or of one combination."""

    mean: float
    half: float | None  # of the 95 % interval; None for a single seed
    seeds: int


def t95(freedom: int) -> float:
    """Return the quantile 0.975 of Student's t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, beyond 30 degrees of freedom.
    """
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    return 1.959964 + 2.372 / freedom + 2.822 / freedom**2


def point(means: Sequence[float]) -> Point:
    """Return mean and 95 % interval of one number per seed."""
    count = len(means)
    mean = math.fsum(means) / count
    if count < 2:
        return Point(short(mean), None, count)
    variance = math.fsum([(each - mean) ** 2 for each in means]) / (count - 1)
    return Point(short(mean), short(t95(count - 1) * math.sqrt(variance / count)), count)


def short(number: float) -> float:
    """Return the number to six digits: what a chart shows."""
    return float(f"{number:.6g}")


class Samples:
    """The rows of one phase, grouped once, whatever the metric."""

    def __init__(self, places: Sequence[Place], seeds: Sequence[int]) -> None:
        """Take where each row stands; no two share place and seed."""
        self._places, self._seeds = places, seeds
        self._combinations: dict[Place, list[int]] = {}
        for row, place in enumerate(places):
            self._combinations.setdefault(place, []).append(row)

    def along(self, axis: int, values: Values) -> list[tuple[int, Point]]:
        """Return per value of one axis what is known of it; of all other axes, a seed counts once."""
        groups: dict[int, dict[int, list[float]]] = {}
        for place, rows in self._combinations.items():
            by_seed = groups.setdefault(place[axis], {})
            for row in rows:
                if (value := values[row]) is not None:
                    by_seed.setdefault(self._seeds[row], []).append(value)
        return [
            (at, point([math.fsum(each) / len(each) for each in by_seed.values()]))
            for at, by_seed in sorted(groups.items())
            if by_seed
        ]

    def across(
        self, first: int, second: int, shape: tuple[int, int], values: Values
    ) -> list[list[float | None]]:
        """Return the mean per pair of values of two axes; None where no row is.

        Shapes: (values of `second`, values of `first`): the first axis runs to the right.
        """
        cells: dict[tuple[int, int], list[float]] = {}
        for place, rows in self._combinations.items():
            found = [value for row in rows if (value := values[row]) is not None]
            cells.setdefault((place[first], place[second]), []).extend(found)
        means = {pair: short(math.fsum(found) / len(found)) for pair, found in cells.items() if found}
        return [[means.get((x, y)) for x in range(shape[0])] for y in range(shape[1])]

    def ranked(self, count: int, values: Values) -> Mapping[str, list[tuple[Place, Point]]]:
        """Return the `count` combinations with the highest mean, and those with the lowest, best first."""
        points = [
            (place, point(found))
            for place, rows in self._combinations.items()
            if (found := [value for row in rows if (value := values[row]) is not None])
        ]
        points.sort(key=lambda item: item[1].mean)
        return {"highest": points[::-1][:count], "lowest": points[:count]}
