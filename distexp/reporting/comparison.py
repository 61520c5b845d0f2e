"""The combinations of a phase compared: means with intervals over seeds, the best, what each axis explains.

Pure. pandas and scipy are imported here and in `frame` alone.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from distexp.sweep.config import Phase
from distexp.sweep.grid import Grid, GridPoint

BEST = 10  # combinations that are listed per phase
PAIRED_AXES = 4  # of the first so many axes, each pair is compared
SPARSE = 0.75  # of the cells of a map without a number: then it shows nothing
MANY = 8  # values of an axis of numbers: more are cut into that many groups, as each alone would explain all
_SEED, _VALUE = "seed", "value"  # columns of a frame, beside the axes' numbers


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one value of an axis, or of one combination."""

    mean: float
    half: float | None  # of the 95 % interval over seeds; None for a single seed
    seeds: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A metric by one axis or two: every value is judged by the same runs of the other axes and seeds."""

    axes: list[int]
    points: list[tuple[int, Point]] | None = (
        None  # of one axis: by the number of the value; None: no shared run
    )
    pairs: list[list[Point | None]] | None = None  # of two: a list per value of the second axis
    runs: int  # of each value, that are compared
    of: int  # runs that the sweep has of each value
    absent: int  # values (of two axes: pairs) without any number, which are left out


# -- one metric of one phase -------------------------------------------------------------------------------


def frame_of(
    places: Sequence[Sequence[int]], seeds: Sequence[int], values: Sequence[float | None]
) -> pd.DataFrame:
    """Return a row per number: the places of its values on the axes 0, 1, ..., its seed, the number."""
    frame = pd.DataFrame(places, index=range(len(seeds)))
    frame[_SEED], frame[_VALUE] = seeds, pd.Series(values, dtype="float64")
    return frame.dropna(subset=[_VALUE])


def compare(
    frame: pd.DataFrame, axes: Sequence[int], sizes: Sequence[int], *, runs: int, groups: int
) -> Comparison:
    """Compare the values of an axis, or the pairs of two, by the runs that each of them has.

    A mean over whatever happens to be there favours the value whose bad runs failed. So a run (the places
    on all other axes, and the seed) counts when every value has it; a value without any is left out.

    Args:
        frame: As `frame_of` returns it.
        axes: One or two.
        sizes: How many values each axis has.
        runs: That the sweep has of each value, or pair; 0 when its combinations share none.
        groups: How many values, or pairs, the sweep has.
    """
    other = [axis for axis in range(len(sizes)) if axis not in axes]
    present = len(frame[[*axes]].drop_duplicates())
    shared = frame[frame.groupby([*other, _SEED])[_VALUE].transform("size") == present]
    counts: dict[str, Any] = {"runs": len(shared) // present, "of": runs, "absent": groups - present}
    if len(axes) == 1 and not runs:
        return Comparison(axes=[*axes], **counts)
    by_seed = shared.groupby([*axes, _SEED])[_VALUE].mean()
    by_seed.index.names = [None] * (len(axes) + 1)  # which are numbers, and would be taken for levels
    found = _points(by_seed.groupby(level=[*range(len(axes))]))
    if len(axes) == 1:
        return Comparison(axes=[*axes], points=found, **counts)
    pairs: list[list[Point | None]] = [[None] * sizes[axes[0]] for _ in range(sizes[axes[1]])]
    for (right, up), point in found:
        pairs[up][right] = point
    return Comparison(axes=[*axes], pairs=pairs, **counts)


def rank(frame: pd.DataFrame, axes: int) -> dict[str, list[tuple[list[int], Point]]]:
    """Return the combinations with the highest mean over seeds, and those with the lowest, best first."""
    points = _points(frame.groupby([*range(axes)] or (lambda _: 0))[_VALUE])
    points = [(list(at) if isinstance(at, tuple) else [at][:axes], point) for at, point in points]
    points.sort(key=lambda item: item[1].mean)
    return {"highest": points[::-1][:BEST], "lowest": points[:BEST]}


def means_of(frame: pd.DataFrame, axes: int) -> list[tuple[list[int], float]]:
    """Return each combination with its mean over seeds."""
    means = frame.groupby([*range(axes)], as_index=False)[_VALUE].mean()
    places = means[[*range(axes)]].to_numpy().tolist()
    return [(place, short(mean)) for place, mean in zip(places, means[_VALUE], strict=True)]


def _points(groups: Any) -> list[tuple[Any, Point]]:
    """Return mean and 95 % interval of each group of one number per seed."""
    found = groups.agg(["mean", "sem", "count"])
    halves = stdtrit(found["count"].clip(lower=2) - 1, 0.975) * found["sem"]
    return [
        (at, Point(short(mean), None if count < 2 else short(half), int(count)))
        for at, mean, half, count in zip(found.index, found["mean"], halves, found["count"], strict=True)
    ]


class Share(msgspec.Struct, frozen=True, array_like=True):
    """How much of a metric's variance goes with one axis."""

    axis: int | None  # None: the seed
    explained: float  # eta squared: between its groups, of all. 0 to 1
    chance: float  # what an axis without any effect explains on average
    groups: int


def importance(frame: pd.DataFrame, numbers: Sequence[Sequence[float] | None]) -> list[Share]:
    """Return the share of the variance that each axis, and the seed, explains alone; the largest first.

    Eta squared of a one-way analysis of variance. What axes do only together counts for none of them. In a
    sweep that is no whole grid, what two axes that vary together do counts for both.

    Args:
        frame: As `frame_of` returns it.
        numbers: The values of each axis of numbers. Many of them are cut into groups of equal size.
    """
    values = frame[_VALUE].to_numpy()
    found = []
    for axis, known in [*enumerate(numbers), (None, None)]:
        groups = _groups(frame[_SEED if axis is None else axis], known)
        amount = int(groups.max()) + 1 if len(groups) else 0
        if not 2 <= amount < len(values):
            continue
        explained = _explained(groups, values)
        if explained is not None:
            chance = (amount - 1) / (len(values) - 1)
            found.append(Share(axis, short(explained), short(chance), amount))
    return sorted(found, key=lambda share: -share.explained)


def _groups(places: Any, numbers: Sequence[float] | None) -> Any:
    """Return the group of each run, from 0 on without gaps."""
    if numbers is not None and places.nunique() > MANY:
        values = np.asarray(numbers)[places.to_numpy()]
        places = pd.qcut(pd.Series(values).rank(), MANY, labels=False, duplicates="drop").fillna(-1)
    return pd.factorize(places)[0]


def _explained(groups: Any, values: Any) -> float | None:
    """Return the share of the variance that lies between the groups; None where nothing varies."""
    largest = abs(values).max()
    if not largest:
        return None
    away = values / largest  # so that no square overflows
    away -= away.mean()
    total = float(away @ away)
    if total <= 1e-24 * len(values):  # all the same, but for rounding
        return None
    sums = np.bincount(groups, weights=away)
    return float((sums**2 / np.bincount(groups)).sum()) / total


def numbers_of(values: Sequence[object], absent: int | None) -> list[float] | None:
    """Return the values of an axis as floats, NaN for the absent one; None unless all are numbers."""
    found = []
    for at, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number and at != absent:
            return None
        found.append(float(value) if isinstance(value, int | float) and at != absent else math.nan)
    return found


def short(number: float) -> float:
    """Return the number to six digits: more than a chart shows."""
    return float(f"{number:.6g}")


class Space(msgspec.Struct, frozen=True):
    """The combinations of a phase: a whole grid, or those of cases, conditions, pairs and samples."""

    sizes: list[int]  # values of each axis
    absent: dict[int, int]  # of an axis that not every combination has: the place that stands for that
    tasks: int
    numbers: list[list[float] | None]  # the values of each axis that has numbers alone; NaN for an absent one
    frame: Any  # of all tasks, where they are no whole grid; else None

    @classmethod
    def of(cls, phase: Phase | Grid, planned: Sequence[GridPoint]) -> Self:
        """Return the space of a phase with these tasks; of a search that goes on, by their grid."""
        absent = {at: phase.absent[name] for at, name in enumerate(phase.axes) if name in phase.absent}
        frame = None
        if phase.places is not None and planned:
            places = [task.grid.positions(task.number)[:-1] for task in planned]
            frame = frame_of(places, [task.seed for task in planned], [0.0] * len(planned))
        numbers = [numbers_of(values, phase.absent.get(name)) for name, values in phase.axes.items()]
        return cls([len(values) for values in phase.axes.values()], absent, len(planned), numbers, frame)

    def charts(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Return what is drawn of one metric."""
        varied = [axis for axis, size in enumerate(self.sizes) if size > 1]
        pairs = itertools.combinations(varied[:PAIRED_AXES], 2)
        maps = [self._compare(frame, pair) for pair in pairs]
        axes = [found for axis in varied if (found := self._compare(frame, [axis]))]
        return {
            "axes": axes,
            "maps": [found for found in maps if found and found.of and self._is_dense(found)],
            "dots": [] if all(found.of for found in axes) else means_of(frame, len(self.sizes)),
            "importance": importance(frame, self.numbers),
            **rank(frame, len(self.sizes)),
        }

    def _compare(self, frame: pd.DataFrame, axes: Sequence[int]) -> Comparison | None:
        """Compare among the combinations that have these axes; None when no row does."""
        has_axes = self._with(frame, axes)
        if has_axes.empty:
            return None
        groups = math.prod(self.sizes[axis] for axis in axes)
        if self.frame is None:
            return compare(has_axes, axes, self.sizes, runs=self.tasks // groups, groups=groups)
        planned = self._with(self.frame, axes)
        groups = len(planned[[*axes]].drop_duplicates())
        runs = compare(planned, axes, self.sizes, runs=1, groups=groups).runs
        return compare(has_axes, axes, self.sizes, runs=runs, groups=groups)

    def _with(self, frame: pd.DataFrame, axes: Sequence[int]) -> pd.DataFrame:
        for axis in axes:
            if axis in self.absent:
                frame = frame[frame[axis] != self.absent[axis]]
        return frame

    def _is_dense(self, found: Comparison) -> bool:
        cells = sum(point is not None for line in found.pairs or [] for point in line)
        return cells >= (1 - SPARSE) * math.prod(self.sizes[axis] for axis in found.axes)
