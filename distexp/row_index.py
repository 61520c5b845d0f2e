"""From a row of any CSV to the tasks that it completes, without trying each task.

Pure: no files. Opens `rows` and `task`. A row completes a task when (1) the file records every axis that the
phase varies and the seed, and (2) every column that is a parameter of the task holds the task's value; an
empty cell matches any value of a parameter that is not an axis. Caller holds a lock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from operator import getitem

from distexp.rows import Form, cell_forms, value_form
from distexp.task import Task

MAX_REMEMBERED_CELLS = 100_000  # per column: a foreign column may hold another text in each of a million rows
NOWHERE = -1  # the number of a value that no task has

Match = Callable[[Sequence[str]], list[str]]


class TaskIndex:
    """The tasks that rows are compared with, grouped so that a row costs a few dict lookups.

    Tasks of one phase share their axes and, as a rule, all other parameters: one group. Caller holds a lock.
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._tasks: dict[str, Task] = {}  # by key
        self._last: tuple[Task, _Group] | None = None  # its neighbours in the sweep share its parameters
        for task in tasks:
            self.add(task)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def add(self, task: Task) -> None:
        """Take the task up; rows read before are not looked at again."""
        self.discard(task.key)  # an axis may have become a default: one key, another group
        self._tasks[task.key] = task
        self._group_of(task).add(task)

    def _group_of(self, task: Task) -> "_Group":
        """Return the task's group; make it when it is the first."""
        if self._last is not None:
            last, group = self._last
            if task.config is last.config and task.axes == last.axes and task.phase == last.phase:
                return group
        axes = frozenset(task.axes)
        rest = {name: value_form(value) for name, value in task.config.items() if name not in axes}
        group_key = (task.phase, task.axes, tuple(rest.items()))
        found = self._groups.get(group_key)
        if found is None:
            found = self._groups[group_key] = _Group(group_key, task.phase, (*task.axes, "seed"), rest)
        self._last = (task, found)
        return found

    def discard(self, key: str) -> None:
        """Forget the task, if it is known."""
        task = self._tasks.pop(key, None)
        if task is not None:
            group = self._group_of(task)
            group.discard(task)
            if not group.tasks:
                del self._groups[group.key]
                self._last = None

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

    def matcher(self, columns: Sequence[str]) -> Match:
        """Return a function from the fields of a row, as many as columns, to the keys of its tasks.

        Of columns with one name the first counts. Tasks added later are not known to the function.
        """
        places = first_places(columns)
        plans = [
            _Plan(group, places)
            for group in self._groups.values()
            if all(axis in places for axis in group.axes)
        ]
        phase_at = places.get("phase")
        if phase_at is None:
            return lambda fields: [key for plan in plans for key in plan.match(fields)]
        by_phase: dict[str, list[_Plan]] = {}
        for plan in plans:
            by_phase.setdefault(plan.group.phase, []).append(plan)
        by_phase[""] = plans  # rows from before the file got the column
        at = phase_at
        return lambda fields: [key for plan in by_phase.get(fields[at], ()) for key in plan.match(fields)]


def first_places(columns: Sequence[str]) -> dict[str, int]:
    """Return where each column stands; of columns with one name the first counts, as in pandas."""
    places: dict[str, int] = {}
    for place, column in enumerate(columns):
        places.setdefault(column, place)
    return places


class _Group:
    """Tasks with one phase, one set of axes (the seed is the last) and equal values beside them.

    Each value of an axis has its number; those of a task are its point.
    """

    def __init__(
        self, key: tuple[object, ...], phase: str, axes: tuple[str, ...], rest: Mapping[str, Form]
    ) -> None:
        self.key = key
        self.phase = phase
        self.axes = axes
        self.rest = rest
        self.tasks: dict[tuple[int, ...], tuple[str, ...]] = {}  # point -> keys
        self._numbers: list[dict[Form, int]] = [{} for _ in axes]  # per axis: value -> its number
        self._remembered: list[dict[str, int]] = [{} for _ in axes]  # per axis: cell -> its one number
        # The parameters of the task that was seen last, and their part of its point.
        self._last: tuple[Mapping[str, object], tuple[int, ...]] = ({}, ())

    def add(self, task: Task) -> None:
        point = self._point(task)
        self.tasks[point] = (*self.tasks.get(point, ()), task.key)

    def discard(self, task: Task) -> None:
        point = self._point(task)
        self.tasks[point] = tuple(key for key in self.tasks[point] if key != task.key)
        if not self.tasks[point]:
            del self.tasks[point]

    def _point(self, task: Task) -> tuple[int, ...]:
        config, parameters = self._last
        if task.config is not config:
            forms = [value_form(task.config[axis]) for axis in self.axes[:-1]]
            parameters = tuple([self._number(place, form) for place, form in enumerate(forms)])
            self._last = (task.config, parameters)
        return (*parameters, self._number(-1, value_form(task.seed)))

    def find(self, cells: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of the tasks at the point that the cells of the axes name."""
        try:
            return self.tasks.get(tuple(map(getitem, self._remembered, cells)), ())
        except KeyError:
            numbers = [self._read(place, cell) for place, cell in enumerate(cells)]
            return tuple([key for point in product(*numbers) for key in self.tasks.get(point, ())])

    def _number(self, place: int, form: Form) -> int:
        numbers = self._numbers[place]
        if form not in numbers:
            numbers[form] = len(numbers)
            self._remembered[place].clear()
        return numbers[form]

    def _read(self, place: int, cell: str) -> list[int]:
        """Return the numbers of the values that the cell may hold: one, unless an axis has 1 and "1"."""
        numbers, remembered = self._numbers[place], self._remembered[place]
        found = [numbers[form] for form in cell_forms(cell) if form in numbers] or [NOWHERE]
        if len(remembered) >= MAX_REMEMBERED_CELLS:
            remembered.clear()
        if len(found) == 1:
            remembered[cell] = found[0]
        return found


class _Plan:
    """How the rows of one file are compared with one group."""

    def __init__(self, group: _Group, places: Mapping[str, int]) -> None:
        self.group = group
        self._axes = [places[axis] for axis in group.axes]
        self._rest = [(places[name], form) for name, form in group.rest.items() if name in places]
        self._rest_places = [place for place, _ in self._rest]
        self._accepted: dict[tuple[str, ...], bool] = {}

    def match(self, fields: Sequence[str]) -> tuple[str, ...]:
        rest = tuple([fields[place] for place in self._rest_places])
        accepted = self._accepted.get(rest)
        if accepted is None:
            accepted = all(not fields[at] or form in cell_forms(fields[at]) for at, form in self._rest)
            if len(self._accepted) >= MAX_REMEMBERED_CELLS:
                self._accepted.clear()
            self._accepted[rest] = accepted
        return self.group.find([fields[place] for place in self._axes]) if accepted else ()
