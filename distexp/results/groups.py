"""The tasks of a phase as points of its axes: which number the cells of a row make. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

from msgspec import structs

from distexp.results.compare import NOWHERE, AxisReader, holds
from distexp.results.row import PREFIXES
from distexp.sweep.grid import MAX_GROWN, Grid, GridPoint
from distexp.task import RowRule, Task, Value, canonical
from distexp.text import cell_text

MAX_REMEMBERED_CELLS = 100_000  # per axis: a foreign column may hold another text in each of a million rows

Row = Sequence[str]


class Axis:
    """A parameter that a phase varies: each value has its number, its position times the axis's stride."""

    def __init__(
        self,
        name: str,
        reader: AxisReader,
        stride: int,
        nowhere: int,
        rule: RowRule,
    ) -> None:
        """Give cells without a value of this axis the number `nowhere`, which makes any sum negative."""
        self.name = name
        self.reader = reader
        self.is_assumed = name in rule.assume
        self._stride, self._nowhere = stride, nowhere
        self._known: dict[str, int] = {}
        self._assumed_cell = cell_text(rule.assume[name]) if self.is_assumed else ""
        self._find_empty()

    def _find_empty(self) -> None:
        """Learn what an empty cell is: null, the empty text or none, as in rows of ours, else as assumed."""
        self._assumed = self.reader.position(self._assumed_cell) if self.is_assumed else NOWHERE
        self._empty = self.reader.position("")
        if self._empty == NOWHERE:
            self._empty = self._assumed

    @property
    def assumed_instead(self) -> int:
        """What to add to the number of an empty cell for that of the assumed value; 0: there is no choice."""
        if self._assumed in (NOWHERE, self._empty):
            return 0
        return self._number_of(self._assumed) - self._number_of(self._empty)

    def number(self, cell: str) -> int:
        """Return the number of the value that the cell holds; a negative one if it holds none."""
        return self._number_of(self.reader.position(cell) if cell.strip() else self._empty)

    @property
    def needs_column(self) -> bool:
        """Whether no row of a file without its column is of any of these tasks."""
        return not self.is_assumed and self.reader.absent is None

    def number_without_column(self) -> int:
        """Return the number of tasks that lack the parameter, else that of the value that is assumed."""
        return self._number_of(self._assumed if self.reader.absent is None else self.reader.absent)

    def grow(self) -> None:
        """Take up the values that were appended since: a cell that held none may hold one of them."""
        self.reader.grow()
        self._find_empty()
        known = self._known.copy()  # in one step: another thread may read rows meanwhile
        self._known = {cell: number for cell, number in known.items() if number >= 0}

    def _number_of(self, position: int) -> int:
        return self._nowhere if position == NOWHERE else position * self._stride

    def numbers(self, column: Row) -> list[int]:
        """Return the number of each cell's value; a text is read once."""
        known = self._known
        found: list[Any] = list(map(known.get, column))
        if None not in found:
            return found
        if len(known) >= MAX_REMEMBERED_CELLS:
            known = self._known = {}
        for cell in {cell for cell in column if cell not in known}:
            known[cell] = self.number(cell)
        return [known[cell] for cell in column]


def choices_of(some: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield every choice of one or more of these, smaller ones first."""
    return chain.from_iterable(combinations(some, count) for count in range(1, len(some) + 1))


class Fixed:
    """A parameter with one value in a phase."""

    def __init__(self, name: str, value: Value, rule: RowRule) -> None:
        self.name, self.value = name, value
        self.matches_no_column = name not in rule.assume or holds(value, cell_text(rule.assume[name]))
        self.matches_empty = self.matches_no_column or value == ""

    def accepts(self, cell: str) -> bool:
        """Return whether the cell holds the value; an empty one does, unless another is assumed."""
        return holds(self.value, cell) if cell.strip() else self.matches_empty


class Group:
    """Tasks of one phase that differ in their axes alone: a sum over the axes, a number, tells them apart."""

    def __init__(
        self,
        source: Grid | Task,
        axes: Mapping[str, Sequence[Value]],
        fixed: Mapping[str, Value],
        rule: RowRule,
        absent: Mapping[str, int],
        *,
        size: int | None = None,
    ) -> None:
        """Take the values of what varies, the last axis fastest, and of what does not.

        Args:
            source: What the tasks are of.
            axes: At least two values each, or one and its rivals.
            fixed: Tags among them are never compared.
            rule: What the phase says besides.
            absent: By axis, the position of null for tasks that lack that parameter.
            size: How many values each axis may come to have; by default as many as it has.
        """
        self.source, self.rule = source, rule
        self.phase = source.phase
        self._numbers: dict[int, int] | None = None  # a task's number in its grid by that in this group
        self.phase_names = (source.phase, *rule.renamed_from.get("phase", ()))
        self.axis_names = frozenset(source.axes) or {"seed"}
        sizes = [size if size and name != "seed" else len(values) for name, values in axes.items()]
        self.axes = [
            Axis(
                name,
                AxisReader(values, absent.get(name)),
                math.prod(sizes[at + 1 :]),
                -math.prod(sizes),
                rule,
            )
            for at, (name, values) in enumerate(axes.items())
        ]
        self._parameters = {*axes, *fixed}
        self.fixed = [Fixed(name, value, rule) for name, value in fixed.items() if name not in source.tags]
        self._has_absent = bool(absent)
        self.keys: dict[int, str] | list[str | None] = []  # by number; a list where few numbers lack a task

    @classmethod
    def of_grid(cls, grid: Grid, points: Sequence[GridPoint]) -> "Group":
        """Return the group of these tasks of one grid."""
        axes = {**grid.axes, "seed": grid.seeds}
        varied = {
            name: values
            for name, values in axes.items()
            if len(values) > 1 or (grid.is_growing and name in grid.axes)
        }
        fixed = {name: values[0] for name, values in axes.items() if name not in varied} | grid.defaults
        rule = RowRule(varied=tuple(varied), renamed_from=grid.renamed_from, assume=grid.assume)
        group = cls(grid, varied, fixed, rule, grid.absent, size=MAX_GROWN if grid.is_growing else None)
        if grid.is_growing:
            group.keys = {}
            group.grow(points)
            return group
        if grid.places is not None:
            codes = grid.codes()
            group.keys = {codes[point.number]: point.key for point in points}
            return group
        group.keys = [None] * len(grid)
        for point in points:
            group.keys[point.number] = point.key
        return group

    def grow(self, points: Sequence[GridPoint]) -> None:
        """Take up more tasks of its grid, which is one that grows."""
        assert isinstance(self.keys, dict)
        for axis in self.axes:
            axis.grow()
        numbers = {point.grid.code(point.number): point.number for point in points}
        self._numbers = (self._numbers or {}) | numbers
        self.keys.update(zip(numbers, [point.key for point in points], strict=True))

    @classmethod
    def of_task(cls, task: Task, rule: RowRule | None = None) -> "Group":
        """Return the group of one task, of whose phase no more is known than the rule says."""
        values = {**task.config, "seed": task.seed}
        rule = rule or RowRule(varied=(*task.axes, "seed"))
        axes = {name: (values.get(name), *rule.rivals.get(name, ())) for name in rule.varied}
        absent = {name: 0 for name in axes if name not in values}
        fixed = {name: value for name, value in values.items() if name not in axes}
        group = cls(task, axes, fixed, rule, absent)
        group.keys = [task.key]  # each of its values stands first on its axis
        return group

    @property
    def is_growing(self) -> bool:
        """Whether a search adds tasks."""
        return isinstance(self.source, Grid) and self.source.is_growing

    def has(self, number: int) -> bool:
        """Return whether a task has this number."""
        if isinstance(self.keys, dict):
            return number in self.keys
        return 0 <= number < len(self.keys) and self.keys[number] is not None

    def rule_of(self, point: GridPoint) -> RowRule:
        """Return what another process needs to decide on the rows of this task as this group does."""
        if not any(axis.reader.has_rivals or axis.assumed_instead for axis in self.axes):
            return self.rule
        task = point.task
        values = {**task.config, "seed": task.seed}
        rivals = {axis.name: axis.reader.rivals(values.get(axis.name)) for axis in self.axes}
        others_rows = self._empty_elsewhere(point.grid.code(point.number), values)
        return structs.replace(
            self.rule,
            rivals={name: others for name, others in rivals.items() if others},
            assume={name: value for name, value in self.rule.assume.items() if name not in others_rows},
        )

    def _empty_elsewhere(self, number: int, values: Mapping[str, Value]) -> set[str]:
        """Return the axes of which an empty cell is that of another task, which has its rows so.

        Args:
            number: Of a task.
            values: Of its parameters and seed.
        """
        steps = {
            axis.name: step
            for axis in self.axes
            if (step := axis.assumed_instead)
            and axis.number(cell_text(values.get(axis.name))) - axis.number("") == step
        }
        return {
            name
            for names in choices_of(list(steps))
            if self.has(number - sum(map(steps.__getitem__, names)))
            for name in names
        }

    def work(self, number: int) -> str:
        """Return the identity of this task without the phase: equal work may stand in two phases."""
        if isinstance(self.source, Task):
            return self.source.work
        if self.source.places is None:
            return GridPoint(self.source, number, "", "").task.work
        if self._numbers is None:
            self._numbers = {code: at for at, code in enumerate(self.source.codes())}
        return GridPoint(self.source, self._numbers[number], "", "").task.work

    def kind(self) -> object:
        """Return what two groups have in common whose tasks of equal number are the same work."""
        if isinstance(self.source, Task):
            return self.source.work
        if self.source.absent:
            return self
        fixed = {each.name: each.value for each in self.fixed}
        axes = [[axis.name, list(axis.reader.values)] for axis in self.axes]
        return self.source.experiment, self.source.command, canonical([fixed, axes])

    def may_be_same_work(self, other: "Group") -> bool:
        """Return whether a task of this group could be the same work as one of the other."""
        mine, theirs = self._constant(), other._constant()
        names = {*mine, *(axis.name for axis in self.axes)}, {*theirs, *(axis.name for axis in other.axes)}
        same_program = (self.source.experiment, self.source.command)
        if same_program != (other.source.experiment, other.source.command):
            return False
        is_equal = all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())
        return is_equal and (names[0] == names[1] or self._has_absent or other._has_absent)

    def _constant(self) -> dict[str, str]:
        return {fixed.name: canonical(fixed.value) for fixed in self.fixed}

    def columns_of(self, name: str) -> list[str]:
        """Return the columns that may hold this parameter; the first that is not empty counts.

        None of them is called like another parameter.
        """
        earlier = () if name == "phase" else self.rule.renamed_from.get(name, ())
        columns = [prefix + each for each in (name, *earlier) for prefix in PREFIXES]
        return [column for column in columns if column == name or column not in self._parameters]
