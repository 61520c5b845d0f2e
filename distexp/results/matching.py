"""From the rows of any CSV to the tasks that they complete, without trying each task.

Pure: no files. A file counts for a phase when it has a column, or the phase assumes a value, for each
parameter to which the phase gives two or more values, and a column that is an axis of the phase, or `phase`.
A row completes a task when every cell in a column that is a parameter of the task holds the task's value; an
empty cell matches any value of a parameter that the phase does not vary.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from operator import add, itemgetter

from distexp.results.compare import NOWHERE, TEXTUAL, holds
from distexp.results.groups import MAX_REMEMBERED_CELLS, Group, Row, choices_of
from distexp.results.row import PREFIXES
from distexp.sweep.grid import Grid, GridPoint, Planned
from distexp.task import RowRule, Task, Value

Found = str | tuple[str, ...] | None  # the key of the task that a row completes; several; (): it is not clear
Column = Callable[[int], Row]  # the cells at a place in the header, of the rows in question


class TaskIndex:
    """The tasks that rows are compared with, grouped so that a row costs a few dict lookups.

    A matcher goes on with the tasks that were there when it was made.  Safe from any thread.
    """

    def __init__(self, tasks: Iterable[Planned] = (), growing: Iterable[Grid] = ()) -> None:
        self.groups: Sequence[Group] = []  # replaced, never changed: a matcher knows those of one time
        self._of_grid: dict[Grid, Group] = {}
        self._keys: set[str] = set()
        self._added: dict[str, tuple[Task, Group]] = {}  # by key: tasks that have left the sweep
        self._lock = threading.Lock()
        self._writers: dict[str, set[str]] = {}  # folder -> the phases that write there
        self.superseded: dict[str, str] = {}  # key -> code of a row that no longer completes that task
        self.stopping_phases: set[str] = set()  # that stop tasks early: a row may say that its task was
        self.sync(tasks, growing)

    def forget_superseded(self, keys: Iterable[str]) -> None:
        """Let whatever rows these tasks get complete them."""
        for key in keys:
            self.superseded.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._keys or key in self._added

    def sync(self, tasks: Iterable[Planned], growing: Iterable[Grid] = ()) -> None:
        """Make these the tasks; rows read before are not looked at again.

        Of the `growing` grids more are to come: their columns are known also where no task is there yet.
        Tasks that were added stay.
        """
        by_grid: dict[Grid, list[GridPoint]] = {}
        single: list[Task] = []
        for task in tasks:
            if isinstance(task, GridPoint):
                by_grid.setdefault(task.grid, []).append(task)
            else:
                single.append(task)
        for grid in growing:
            by_grid.setdefault(grid, [])
        of_grid = {grid: Group.of_grid(grid, points) for grid, points in by_grid.items()}
        keys = {task.key for task in single}
        writers: dict[str, set[str]] = defaultdict(set)
        for task in single:
            writers[task.output_dir].add(task.phase)
        for grid, points in by_grid.items():
            keys.update([point.key for point in points])
            for folder in {point.output_dir for point in points}:
                writers[folder].add(grid.phase)
        with self._lock:  # all at once: others append rows meanwhile
            self._keys, self._of_grid, self._writers = keys, of_grid, writers
            self._added = {key: added for key, added in self._added.items() if key not in keys}
            for task, _ in self._added.values():
                writers[task.output_dir].add(task.phase)
            added = [group for _, group in self._added.values()]
            self.groups = [*map(Group.of_task, single), *of_grid.values(), *added]
            self.stopping_phases = set()
            for group in self.groups:
                self._note_halving(group)

    def grow(self, points: Sequence[GridPoint]) -> None:
        """Take up more tasks of one grid that grows; rows read before are not looked at again."""
        with self._lock:
            grid = points[0].grid
            if grid in self._of_grid:
                self._of_grid[grid].grow(points)
                self.groups = [*self.groups]
            else:
                self._of_grid[grid] = Group.of_grid(grid, points)
                self.groups = [*self.groups, self._of_grid[grid]]
            self._keys.update([point.key for point in points])
            self._note_halving(self._of_grid[grid])
            for point in points:
                self._writers.setdefault(point.output_dir, set()).add(grid.phase)

    def _note_halving(self, group: Group) -> None:
        if getattr(group.source, "halving", None) is not None:
            self.stopping_phases |= {*group.phase_names}

    def add(self, task: Task, rule: RowRule | None = None) -> None:
        """Take one more task up; rows read before are not looked at again."""
        with self._lock:
            group = Group.of_task(task, rule)
            self._added[task.key] = task, group
            self.groups = [*self.groups, group]
            self._note_halving(group)
            self._writers.setdefault(task.output_dir, set()).add(task.phase)

    def rule(self, task: Planned) -> RowRule | None:
        """Return what another process needs to decide on this task's rows as this index does."""
        if isinstance(task, Task) or task.grid not in self._of_grid:
            return None
        return self._of_grid[task.grid].rule_of(task)

    def writers(self, folder: str) -> Set[str]:
        """Return the phases whose tasks write their rows into this folder."""
        return self._writers.get(folder, set())

    def matcher(self, columns: Sequence[str], folder: str) -> "Matcher":
        """Return what compares rows of the file in this folder with the tasks that are known now.

        Of columns with one name the first counts.
        """
        return Matcher(self.groups, columns, self.writers(folder))


def first_places(columns: Sequence[str]) -> dict[str, int]:
    """Return where each column stands; of columns with one name the first counts, as in pandas."""
    places: dict[str, int] = {}
    for place, column in enumerate(columns):
        places.setdefault(column, place)
    return places


class Matcher:
    """Compares the rows of one file with tasks."""

    def __init__(self, groups: Sequence[Group], columns: Sequence[str], writers: Set[str]) -> None:
        """Know where each column stands; `writers` are the phases whose own file it is."""
        self.groups = groups
        places = first_places(columns)
        self._phase_at = [places[prefix + "phase"] for prefix in PREFIXES if prefix + "phase" in places]
        self.plans = [Plan(group, places, has_phase=bool(self._phase_at)) for group in groups]
        self._writers = writers
        self._of_phase: dict[str, list[Plan]] = {}
        self._bundled: list[list[Plan]] | None = None
        self._may_be_same: dict[
            tuple[int, ...], bool
        ] = {}  # by bundles: whether they may have work in common
        self.unphased = [plan for plan in self.plans if plan.counts_without_phase]

    @property
    def knows_columns(self) -> bool:
        """Whether a column is `phase` or a parameter of a task."""
        return bool(self.parameter_places)

    @property
    def parameter_places(self) -> set[int]:
        """Where the columns stand that are `phase` or a parameter of a task."""
        return {*self._phase_at}.union(*(at for plan in self.plans for at in plan.at.values()))

    @property
    def text_places(self) -> set[int]:
        """Where the columns stand of parameters that may hold text, lists or mappings."""
        return {
            at
            for plan in self.plans
            for name, places in plan.at.items()
            if plan.may_hold_text(name)
            for at in places
        }

    def one(self, row: Row) -> list[str]:
        """Return the keys of the tasks that this row completes."""
        (found,) = self.found([(cell,) for cell in row])
        return [*keys_of(found)]

    def found(self, columns: Sequence[Row]) -> list[Found]:
        """Return what each row completes, given all columns of the rows."""
        if not columns:
            return []
        count = len(columns[0])
        phases = _joined(self._phase_at, columns.__getitem__) if self._phase_at else None
        if phases is None or phases.count(phases[0]) == count:
            return self._found_in(phases[0] if phases else "", columns.__getitem__, count)
        found: list[Found] = [None] * count
        by_phase = defaultdict[str, list[int]](list)
        for at, phase in enumerate(phases):
            by_phase[phase].append(at)
        for phase, rows in by_phase.items():
            for at, key in zip(
                rows, self._found_in(phase, _picked(columns.__getitem__, rows), len(rows)), strict=True
            ):
                found[at] = key
        return found

    def phase_of(self, row: Row) -> str:
        """Return the cell that names the phase; empty where none does."""
        return next((row[at] for at in self._phase_at if row[at].strip()), "")

    def may_join(self, row: Row) -> bool:
        """Return whether the row may be of a task that a search has yet to add."""
        phase = self.phase_of(row)
        plans = self.plans_of(phase) if phase else self.unphased
        return any(plan.group.is_growing and plan.counts and plan.holds_fixed(row) for plan in plans)

    def phases(self, row: Row) -> set[str]:
        """Return the phases of the tasks that this row may be of, with their earlier names."""
        phase = self.phase_of(row)
        plans = self.plans_of(phase) if phase else self.unphased
        found = [plan for plan in plans if plan.counts and plan.found(lambda at: (row[at],), 1) != [None]]
        return {name for plan in found for name in plan.group.phase_names}

    def plans_of(self, phase: str) -> "list[Plan]":
        """Return the plans of the phase that a cell names, under its own or an earlier name."""
        if phase not in self._of_phase:
            plans = [plan for plan in self.plans if phase in plan.group.phase_names]
            loose = (
                plan for plan in self.plans if any(holds(name, phase) for name in plan.group.phase_names)
            )
            if len(self._of_phase) >= MAX_REMEMBERED_CELLS:
                self._of_phase = {}
            self._of_phase[phase] = plans or [*loose]
        return self._of_phase[phase]

    def _found_in(self, phase: str, column: Column, count: int) -> list[Found]:
        if not phase.strip():
            return self._found_without_phase(column, count)
        plans = [plan for plan in self.plans_of(phase) if plan.counts]
        return _merged([plan.found(column, count) for plan in plans], count)

    def _found_without_phase(self, column: Column, count: int) -> list[Found]:
        """Rows of tasks of several phases count where those write; elsewhere if they are the same work."""
        found: list[Found] = [None] * count
        several: dict[
            int, list[tuple[int, int]]
        ] = {}  # row -> bundles that have a task for it, and its number
        first: list[tuple[int, int] | None] = [None] * count
        bundles = self._bundles()
        for turn, plans in enumerate(bundles):
            rows, numbers = plans[0].hits(column, count)
            keys = _merged([plan.keys(numbers) for plan in plans], len(numbers))
            for at, number, key in zip(rows, numbers, keys, strict=True):
                if key is None:
                    continue
                before = first[at]
                if before is None:
                    first[at], found[at] = (turn, number), key
                else:
                    several.setdefault(at, [before]).append((turn, number))
        for at, matched in several.items():
            found[at] = self._resolved(matched)
        return found

    def _bundles(self) -> "list[list[Plan]]":
        """Return the plans of rows without a phase; those together whose equal numbers are the same work."""
        if self._bundled is None:
            bundled: dict[object, list[Plan]] = {}
            for plan in self.unphased:
                bundled.setdefault((plan.group.kind(), repr(plan.at), repr(plan.group.rule)), []).append(plan)
            self._bundled = [*bundled.values()]
        return self._bundled

    def _resolved(self, matched: Sequence[tuple[int, int]]) -> Found:
        """Return the tasks that a row counts for, of those that it fits; `()` if that is for none."""
        bundles = self._bundles()
        turns = tuple([turn for turn, _ in matched])
        if turns not in self._may_be_same:
            kinds = [bundles[turn][0].group for turn in turns]
            self._may_be_same[turns] = all(kinds[0].may_be_same_work(other) for other in kinds[1:])
        plans = [(plan, number) for turn, number in matched for plan in bundles[turn]]
        is_same = self._may_be_same[turns] and len({plan.group.work(number) for plan, number in plans}) == 1
        if not is_same and len({plan.group.phase for plan, _ in plans}) > 1:
            plans = [each for each in plans if each[0].group.phase in self._writers] if self._writers else []
        return tuple([key for plan, number in plans for key in keys_of(plan.keys([number])[0])])


class Plan:
    """How the rows of one file are compared with one group."""

    def __init__(self, group: Group, places: Mapping[str, int], *, has_phase: bool) -> None:
        self.group = group
        names = [axis.name for axis in group.axes] + [fixed.name for fixed in group.fixed]
        at = {
            name: [places[column] for column in group.columns_of(name) if column in places] for name in names
        }
        self.at, self._places = at, list(places.values())
        self.missing = tuple([axis.name for axis in group.axes if not at[axis.name] and axis.needs_column])
        self.axes = [(axis, at[axis.name]) for axis in group.axes]
        self._assuming = [(axis, at) for axis, at in self.axes if axis.assumed_instead]
        self.fixed = [(fixed, at[fixed.name]) for fixed in group.fixed if at[fixed.name]]
        self.wrongly_assumed = [f.name for f in group.fixed if not at[f.name] and not f.matches_no_column]
        self.has_axis = any(at.get(name) for name in group.axis_names)
        self.counts = not self.missing and not self.wrongly_assumed and (has_phase or self.has_axis)
        self.counts_without_phase = self.counts and self.has_axis

    def found(self, column: Column, count: int) -> list[Found]:
        """Return the key of the task that each row completes, None where there is none."""
        return self.keys(self.numbers(column, count))

    def keys(self, numbers: Sequence[int]) -> list[Found]:
        """Return the keys of the tasks of these numbers."""
        keys, size = self.group.keys, len(self.group.keys)
        if isinstance(keys, dict):
            return [keys.get(number) for number in numbers]
        return [keys[at] if 0 <= at < size else None for at in numbers]

    def numbers(self, column: Column, count: int) -> list[int]:
        """Return the number of the task that each row is of, a negative one where there is none."""
        numbers = [0] * count
        for turn, (axis, at) in enumerate(self.axes):
            part = axis.numbers(_joined(at, column)) if at else [axis.number_without_column()] * count
            numbers = list(map(add, numbers, part)) if turn else part
        if self._assuming:
            numbers = self._with_assumed(numbers, column)
        for fixed, at in self.fixed:
            cells = _joined(at, column)
            if cells.count(cells[0]) == count and fixed.accepts(cells[0]):
                continue
            refused = {cell for cell in set(cells) if not fixed.accepts(cell)}
            if refused:
                numbers = [NOWHERE if c in refused else n for c, n in zip(cells, numbers, strict=True)]
        return numbers

    def _with_assumed(self, numbers: Sequence[int], column: Column) -> list[int]:
        """Return the numbers; where one is of no task, as few empty cells as help are read as assumed."""
        cells = [(axis.assumed_instead, _joined(at, column) if at else None) for axis, at in self._assuming]
        found = [*numbers]
        for row, key in enumerate(self.keys(numbers)):
            if key is None and numbers[row] >= 0:  # else a cell holds no value of its axis: nothing helps
                steps = [step for step, texts in cells if texts is None or not texts[row].strip()]
                sums = (sum(each, numbers[row]) for each in choices_of(steps))
                found[row] = next((each for each in sums if self.group.has(each)), numbers[row])
        return found

    def hits(self, column: Column, count: int) -> tuple[Sequence[int], list[int]]:
        """Return the rows that may be of a task, and the task's number for each: quick where few are."""
        if all(axis.number("") >= 0 if at else True for axis, at in self.axes):
            cells = zip(*[column(place) for place in self._places], strict=True)
            rows = [row for row, each in enumerate(cells) if any(map(str.strip, each))]  # else a blank line
            return rows, self.numbers(_picked(column, rows), len(rows)) if rows else []
        axis, at = self.axes[0]
        if not at:
            return range(count), self.numbers(column, count)
        first = axis.numbers(_joined(at, column))
        rows = [row for row, number in enumerate(first) if number >= 0]
        if len(rows) == count or not rows:
            return (range(count), self.numbers(column, count)) if rows else ([], [])
        return rows, self.numbers(_picked(column, rows), len(rows))

    def mismatch(self, row: Row) -> tuple[str, str]:
        """Return the first parameter, axes first, of which the row holds no value, and its cell."""
        for axis, at in self.axes:
            cell = _joined(at, lambda place: (row[place],))[0] if at else ""
            if (axis.number(cell) if at else axis.number_without_column()) < 0:
                return axis.name, cell
        for fixed, at in self.fixed:
            cell = _joined(at, lambda place: (row[place],))[0]
            if not fixed.accepts(cell):
                return fixed.name, cell
        return "", ""

    def holds_fixed(self, row: Row) -> bool:
        """Return whether the row holds the value of each parameter that does not vary."""
        cells = ((fixed, _joined(at, lambda place: (row[place],))[0]) for fixed, at in self.fixed)
        return all(fixed.accepts(cell) for fixed, cell in cells)

    def fitting(self, name: str, cell: str) -> list[Value]:
        """Return the values of this axis that the cell could hold; none of a parameter that does not vary."""
        return next((axis.reader.fitting(cell) for axis, _ in self.axes if axis.name == name), [])

    def may_hold_text(self, name: str) -> bool:
        """Return whether a value that the phase gives to this parameter is a text, list or mapping."""
        in_axis = any(axis.reader.holds_text for axis in self.group.axes if axis.name == name)
        return in_axis or any(
            isinstance(each.value, TEXTUAL) for each in self.group.fixed if each.name == name
        )

    def values(self, name: str) -> Sequence[Value]:
        """Return the values that the phase gives to this parameter."""
        axes = {axis.name: axis.reader.values for axis in self.group.axes}
        return axes.get(name) or [fixed.value for fixed in self.group.fixed if fixed.name == name]


def _joined(places: Sequence[int], column: Column) -> Row:
    """Return the cells of a parameter that may stand in several columns: the first that is not empty."""
    cells = column(places[0])
    for place in places[1:]:
        cells = [cell if cell.strip() else other for cell, other in zip(cells, column(place), strict=True)]
    return cells


def _picked(column: Column, rows: Sequence[int]) -> Column:
    if len(rows) == 1:
        return lambda place: (column(place)[rows[0]],)
    pick = itemgetter(*rows)
    return lambda place: pick(column(place))


def keys_of(found: Found) -> tuple[str, ...]:
    """Return the keys of what a row completes."""
    return found if isinstance(found, tuple) else () if found is None else (found,)


def _merged(found: Sequence[list[Found]], count: int) -> list[Found]:
    """Return what each row completes in any of the groups."""
    if len(found) < 2:
        return found[0] if found else [None] * count
    merged: list[Found] = []
    for keys in zip(*found, strict=True):
        held = tuple([key for key in keys if isinstance(key, str)])
        merged.append(held[0] if len(held) == 1 else held or None)
    return merged
