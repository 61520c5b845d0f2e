"""From the rows of any CSV to the tasks that they complete, without trying each task.

Pure: no files. A row completes a task when (1) the file records every axis that
the phase varies and the seed, and (2) every column that is a parameter of the task holds the task's value; an
empty cell matches any value of a parameter that is not an axis. Caller holds a lock.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import product
from operator import add
from typing import Any

from distexp.results.row import Form, cell_forms, value_form
from distexp.sweep.grid import Grid, GridPoint, Planned

MAX_REMEMBERED_CELLS = 100_000  # per column: a foreign column may hold another text in each of a million rows
VALUE_BITS = 24  # a point holds the number of a value of each axis in as many bits: more than `MAX_TASKS`

Row = Sequence[str]


class TaskIndex:
    """The tasks that rows are compared with, grouped so that a row costs a few dict lookups.

    Tasks of one phase share their axes and, as a rule, all other parameters: one group. Caller holds a lock.
    """

    def __init__(self, tasks: Iterable[Planned] = ()) -> None:
        self._groups: dict[object, _Group] = {}  # by grid, or by what flat tasks have in common
        self._keys: set[str] = set()
        self._matcher: tuple[Sequence[str], Matcher] | None = None  # the last one, and its columns
        self.sync(tasks)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def sync(self, tasks: Iterable[Planned]) -> bool:
        """Make these the tasks; return whether one is new: rows read before are not looked at again."""
        known, self._keys, self._groups, self._matcher = self._keys, set(), {}, None
        by_grid: dict[Grid, list[GridPoint]] = {}
        for task in tasks:
            if isinstance(task, GridPoint):
                by_grid.setdefault(task.grid, []).append(task)
            else:
                self.add(task)
        for grid, points in by_grid.items():
            self._keys.update([point.key for point in points])
            self._group_of(grid).fill(points)
        return not self._keys <= known

    def add(self, task: Planned) -> None:
        """Take one more task up; rows read before are not looked at again."""
        self._keys.add(task.key)
        self._matcher = None
        if isinstance(task, GridPoint):
            self._group_of(task.grid).fill([task])
            return
        axes = (*task.axes, "seed")
        rest = _forms({name: value for name, value in task.config.items() if name not in axes})
        strides = tuple([1 << VALUE_BITS * at for at in range(len(axes) + 1)])
        group = self._groups.setdefault(
            (task.phase, axes, tuple(rest.items())), _Group(task.phase, axes, rest, strides)
        )
        forms = _forms({**task.config, "seed": task.seed})
        group.add(sum([group.number(at, forms[axis]) for at, axis in enumerate(axes)]), task.key)

    def _group_of(self, grid: Grid) -> "_Group":
        """Return the grid's own group, in which the numbers of its tasks are their points."""
        if grid in self._groups:
            return self._groups[grid]
        axes = {**grid.axes, "seed": grid.seeds}
        sizes = [len(values) for values in axes.values()]
        strides = tuple([math.prod(sizes[at + 1 :]) for at in range(len(sizes))])
        group = _Group(grid.phase, tuple(axes), _forms(grid.defaults), (*strides, math.prod(sizes)))
        for at, values in enumerate(axes.values()):
            for value in values:
                group.number(at, value_form(value))
        self._groups[grid] = group
        return group

    def is_parameter(self, column: str) -> bool:
        """Return whether the column takes part in the comparison with any task."""
        return column == "phase" or any(
            column in group.axes or column in group.rest for group in self._groups.values()
        )

    def missing_columns(self, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return by phase the axes (and `seed`) that the columns lack: no row completes a task of those."""
        missing: dict[str, tuple[str, ...]] = {}
        for group in self._groups.values():
            lacking = missing.get(group.phase, ())
            lacking += tuple(axis for axis in group.axes if axis not in columns and axis not in lacking)
            if lacking:
                missing[group.phase] = lacking
        return missing

    def matcher(self, columns: Sequence[str]) -> "Matcher":
        """Return what compares rows of these columns with the tasks that are known now.

        Of columns with one name the first counts.
        """
        if self._matcher is None or self._matcher[0] != columns:
            self._matcher = (columns, Matcher(self._groups.values(), first_places(columns)))
        return self._matcher[1]


def _forms(values: Mapping[str, object]) -> dict[str, Form]:
    return {name: value_form(value) for name, value in values.items()}


def first_places(columns: Sequence[str]) -> dict[str, int]:
    """Return where each column stands; of columns with one name the first counts, as in pandas."""
    places: dict[str, int] = {}
    for place, column in enumerate(columns):
        places.setdefault(column, place)
    return places


class _Group:
    """Tasks with one phase, one set of axes (the seed is the last) and equal values beside them.

    Each value of an axis has its number, a multiple of the axis's stride, so that the sum over the axes, a
    point, tells tasks apart.
    """

    def __init__(
        self, phase: str, axes: tuple[str, ...], rest: Mapping[str, Form], strides: tuple[int, ...]
    ) -> None:
        """Take one stride for each axis, and what is larger than any point."""
        self.phase = phase
        self.axes = axes
        self.rest = rest
        self._tasks: dict[int, str] = {}  # point -> key
        self._more: dict[int, list[str]] = {}  # point -> further keys: a phase whose experiment was edited
        self._numbers: list[dict[Form, int]] = [{} for _ in axes]  # per axis: value -> its number
        self._remembered: list[dict[str, int]] = [{} for _ in axes]  # per axis: cell -> its one number
        self._strides = strides
        self._nowhere = -strides[-1]  # the number of a value that no task has: the sum is no point

    def number(self, place: int, form: Form) -> int:
        """Return the number of a value of this axis, a new one if need be."""
        numbers = self._numbers[place]
        if form not in numbers:
            numbers[form] = len(numbers) * self._strides[place]
            self._remembered[place].clear()
        return numbers[form]

    def add(self, point: int, key: str) -> None:
        """Put a task where its values are."""
        if self._tasks.setdefault(point, key) != key:
            self._more.setdefault(point, []).append(key)

    def fill(self, points: Iterable[GridPoint]) -> None:
        """Put tasks of the one grid of this group where they are."""
        self._tasks.update([(point.grid.code(point.number), point.key) for point in points])

    def find(self, cells: Row) -> list[str]:
        """Return the keys of the tasks at the point that the cells of the axes name."""
        points = map(sum, product(*[self._recall(place, cell) for place, cell in enumerate(cells)]))
        return [key for point in points if point in self._tasks for key in self._at(point)]

    def find_all(self, columns: Sequence[Row]) -> Iterator[str | None] | None:
        """Return what `find` finds for each row, given the cells by axis; None where that is not one key."""
        if self._more:
            return None
        numbers: list[Iterable[Any]] = []
        for place, column in enumerate(columns):
            known = self._remembered[place]
            found = list(map(known.get, column))
            if None in found:
                if not self._remember(place, column):
                    return None
                found = list(map(known.get, column))
            numbers.append(found)
        return map(self._tasks.get, reduce(partial(map, add), numbers))

    def _remember(self, place: int, column: Row) -> bool:
        """Read all cells of a column once; return whether each has one number."""
        known = self._remembered[place]
        if len(known) >= MAX_REMEMBERED_CELLS:
            known.clear()
        for cell in set(column) - known.keys():
            found = self._read(place, cell)
            if len(found) > 1:
                return False
            known[cell] = found[0]
        return True

    def _recall(self, place: int, cell: str) -> Sequence[int]:
        """Return what `_read` does, without reading a cell again that has one number."""
        known = self._remembered[place]
        if cell in known:
            return (known[cell],)
        found = self._read(place, cell)
        if len(found) == 1 and len(known) < MAX_REMEMBERED_CELLS:
            known[cell] = found[0]
        return found

    def _at(self, point: int) -> list[str]:
        return [self._tasks[point], *self._more.get(point, ())]

    def _read(self, place: int, cell: str) -> list[int]:
        """Return the numbers of the values that the cell may hold: one, unless an axis has 1 and "1"."""
        numbers = self._numbers[place]
        return [numbers[form] for form in cell_forms(cell) if form in numbers] or [self._nowhere]


def _among(columns: Sequence[Row], places: Sequence[int]) -> list[Row]:
    """Return the columns of the rows in these places."""
    return [[column[place] for place in places] for column in columns]


class Matcher:
    """Compares the rows of one file with tasks."""

    def __init__(self, groups: Iterable[_Group], places: Mapping[str, int]) -> None:
        """Know where each column stands."""
        self._plans = [_Plan(g, places) for g in groups if all(axis in places for axis in g.axes)]
        self._phase_at = places.get("phase")

    def one(self, fields: Row) -> list[str]:
        """Return the keys of the tasks that this row completes."""
        return [key for plan in self._plans_for(self._phase(fields)) for key in plan.match(fields)]

    def all(self, columns: Sequence[Row]) -> set[str]:
        """Return the keys of the tasks that rows complete, given all their columns."""
        if not columns or self._phase_at is None:
            return self._all("", columns) if columns else set()
        phases = columns[self._phase_at]
        if len(set(phases)) == 1:
            return self._all(phases[0], columns)
        places: dict[str, list[int]] = {}
        for place, phase in enumerate(phases):
            places.setdefault(phase, []).append(place)
        return set[str]().union(*[self._all(phase, columns, at) for phase, at in places.items()])

    def _all(self, phase: str, columns: Sequence[Row], at: Sequence[int] | None = None) -> set[str]:
        plans = self._plans_for(phase)
        if plans and at is not None:
            columns = _among(columns, at)
        return set[str]().union(*[plan.match_all(columns) for plan in plans])

    def _phase(self, fields: Row) -> str:
        return "" if self._phase_at is None else fields[self._phase_at]

    def _plans_for(self, phase: str) -> "list[_Plan]":
        """An empty phase is that of a row from before the file got the column: it may be any."""
        return [plan for plan in self._plans if phase in ("", plan.group.phase)]


class _Plan:
    """How the rows of one file are compared with one group."""

    def __init__(self, group: _Group, places: Mapping[str, int]) -> None:
        self.group = group
        self._axes = [places[axis] for axis in group.axes]
        self._rest = [(places[name], form) for name, form in group.rest.items() if name in places]
        self._accepted: dict[tuple[str, ...], bool] = {}

    def match(self, fields: Row) -> list[str]:
        rest = tuple([fields[place] for place, _ in self._rest])
        return self.group.find([fields[place] for place in self._axes]) if self._accepts(rest) else []

    def match_all(self, columns: Sequence[Row]) -> set[str]:
        if self._rest:
            rests = list(zip(*[columns[place] for place, _ in self._rest], strict=True))
            accepted = set(filter(self._accepts, set(rests)))
            if not accepted.issuperset(rests):
                columns = _among(columns, [place for place, rest in enumerate(rests) if rest in accepted])
        found = self.group.find_all([columns[place] for place in self._axes])
        if found is None:
            return {key for row in zip(*columns, strict=True) for key in self.match(row)}
        return set(filter(None, found))

    def _accepts(self, rest: tuple[str, ...]) -> bool:
        accepted = self._accepted.get(rest)
        if accepted is None:
            if len(self._accepted) >= MAX_REMEMBERED_CELLS:
                self._accepted.clear()
            accepted = all(
                not cell or form in cell_forms(cell) for cell, (_, form) in zip(rest, self._rest, strict=True)
            )
            self._accepted[rest] = accepted
        return accepted
