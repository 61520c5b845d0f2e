"""What a manager would find to do, before one is started. Pure."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import msgspec

from distexp.results.audit import FileAudit
from distexp.results.problems import Problem
from distexp.results.rungs import RungRecord, wants_more
from distexp.sweep.config import Phase
from distexp.sweep.description import task_lines
from distexp.sweep.grid import Grid, GridPoint, combination_count, duplicates_among
from distexp.text import cut, number_in, one_line

SHOWN_RUNGS = 6
SHOWN_CHARS = 80  # of a setup


class PhasePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of the sweep."""

    phase: str
    where: str  # file and line
    tasks: int  # with those that are to come
    to_come: int = 0  # that a search has yet to choose, at most
    complete: int
    pruned: int = 0  # stopped early
    copies: int  # the same work as another task: its row is copied, nothing runs
    left: int
    seconds: float | None  # of work left, on one worker; None: nothing is known
    gpus: int | None = None  # that each task needs
    min_free_gb: float | None = None
    gpu_model: tuple[str, ...] = ()  # words of the names of GPUs that will do; none: any will
    axes: list[str]  # as they were understood, a line each
    rungs: str = ""  # where tasks are compared, and by what; empty: nowhere
    is_grid: bool  # every combination of plain lists
    examples: list[str]  # the first three tasks and the last, a line each


class FilePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One results file that is there."""

    path: str
    complete: int  # tasks that its rows complete
    pruned: int = 0  # tasks that were stopped early
    problems: list[Problem]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole sweep."""

    tasks: int
    complete: int
    pruned: int = 0
    copies: int
    left: int
    workers: int
    hours: float | None  # for that many workers; None where no finished row says how long a task takes
    timed_rows: int  # rows with a `duration_s`: what the hours are from
    phases: list[PhasePlan]
    files: list[FilePlan]
    other_code: str = ""  # how many finished tasks ran other code than the folder holds now


@dataclass(frozen=True)
class _Progress:
    """Where the tasks of a sweep stand."""

    complete: Set[str]  # keys
    pruned: Set[str]  # keys of those that were stopped early and do not go on
    left: Mapping[str, Sequence[GridPoint]]  # by phase, those that will run
    copies: Mapping[str, int]  # by phase, those that get the row of the same work elsewhere
    to_come: Mapping[str, int]  # by phase, samples that have not been drawn yet
    times: "_Times"

    @classmethod
    def of(
        cls,
        phases: Sequence[Phase],
        tasks: Sequence[GridPoint],
        files: Sequence[FileAudit],
        *,
        to_come: Mapping[Grid, int],
        rungs: Sequence[RungRecord],
        superseded: Set[str],
    ) -> "_Progress":
        """Find out from the rows; see `make_plan`."""
        complete, pruned = _keys_in(files)
        pruned -= _to_continue(tasks, rungs)
        left, copies = _left_and_copies(phases, tasks, complete, pruned, superseded)
        coming = {grid.phase: count for grid, count in to_come.items()}
        return cls(complete, pruned, left, copies, coming, _Times(tasks, durations_of(files)))


def make_plan(
    phases: Sequence[Phase],
    tasks: Sequence[GridPoint],
    files: Sequence[FileAudit],
    workers: int,
    to_come: Mapping[Grid, int] = {},
    *,
    rungs: Sequence[RungRecord] = (),
    superseded: Set[str] = frozenset(),
) -> Plan:
    """Return what is complete, what runs once for two phases, and how long the rest takes.

    A task is expected to take the mean of its combination's other seeds, else of its phase, else of all.

    Args:
        phases: Of the configs; `tasks` are theirs.
        files: What the results files hold.
        workers: How many share the work.
        to_come: Samples of searches that have not been drawn yet.
        rungs: Every verdict that was given: stopped tasks of which more is wanted will run.
        superseded: Keys of tasks that were asked to run again: no row that is there is copied to them.
    """
    progress = _Progress.of(phases, tasks, files, to_come=to_come, rungs=rungs, superseded=superseded)
    own = tasks_by_phase(phases, tasks)
    lines = [_phase_plan(phase, own[phase.name], progress) for phase in phases]
    seconds = sum(line.seconds or 0.0 for line in lines)
    return Plan(
        tasks=len(tasks) + sum(progress.to_come.values()),
        complete=len(progress.complete),
        pruned=len(progress.pruned),
        copies=sum(progress.copies.values()),
        left=sum(line.left for line in lines),
        workers=workers,
        hours=seconds / workers / 3600 if progress.times.rows else None,
        timed_rows=progress.times.rows,
        phases=lines,
        files=[_file_plan(file, progress.pruned) for file in files],
    )


def _phase_plan(phase: Phase, tasks: Sequence[GridPoint], progress: _Progress) -> PhasePlan:
    left, to_come = progress.left[phase.name], progress.to_come.get(phase.name, 0)
    return PhasePlan(
        phase=phase.name,
        where=phase.where,
        tasks=len(tasks) + to_come,
        to_come=to_come,
        complete=sum(task.key in progress.complete for task in tasks),
        pruned=sum(task.key in progress.pruned for task in tasks),
        copies=progress.copies[phase.name],
        left=len(left) + to_come,
        seconds=progress.times.of(left, to_come, phase.name),
        gpus=phase.gpus,
        min_free_gb=phase.min_free_gb,
        gpu_model=phase.gpu_model,
        axes=_axes(phase),
        rungs=_rungs(phase),
        is_grid=phase.places is None,
        examples=task_lines(tasks),
    )


def tasks_by_phase(phases: Sequence[Phase], tasks: Iterable[GridPoint]) -> dict[str, list[GridPoint]]:
    """Return the tasks of each phase, in their order."""
    found: dict[str, list[GridPoint]] = {phase.name: [] for phase in phases}
    for task in tasks:
        found[task.grid.phase].append(task)
    return found


def _keys_in(files: Sequence[FileAudit]) -> tuple[set[str], set[str]]:
    """Return the keys of the tasks that rows complete, and of those that rows say were stopped early."""
    complete, pruned = set[str](), set[str]()
    for row in (row for file in files for row in file.rows):
        (pruned if row.is_pruned else complete).update(row.keys)
    return complete, pruned


def _file_plan(file: FileAudit, pruned: Set[str]) -> FilePlan:
    return FilePlan(
        path=file.path,
        complete=sum(len(row.keys) for row in file.rows if not row.is_pruned),
        pruned=sum(key in pruned for row in file.rows for key in row.keys),
        problems=file.problems,
    )


def _left_and_copies(
    phases: Sequence[Phase],
    tasks: Sequence[GridPoint],
    complete: Set[str],
    pruned: Set[str],
    superseded: Set[str],
) -> tuple[dict[str, list[GridPoint]], dict[str, int]]:
    """Return by phase the tasks that will run, and how many get the row of the same work elsewhere."""
    duplicates = duplicates_among(tasks)
    will_run = set[str]()
    left: dict[str, list[GridPoint]] = {phase.name: [] for phase in phases}
    copies = dict.fromkeys(left, 0)
    for task in tasks:
        if task.key in complete or task.key in pruned:
            continue
        done = () if task.key in superseded else complete
        if any(key in will_run or key in done for key in duplicates.get(task.key, ())):
            copies[task.grid.phase] += 1
        else:
            will_run.add(task.key)
            left[task.grid.phase].append(task)
    return left, copies


def _to_continue(tasks: Sequence[GridPoint], rungs: Sequence[RungRecord]) -> set[str]:
    """Return the keys of stopped tasks that were asked for again, or are to a larger `max_iter`."""
    of_key: dict[str, list[RungRecord]] = {}
    for record in rungs:
        of_key.setdefault(record.key, []).append(record)
    return {
        task.key
        for task in tasks
        if task.key in of_key and task.grid.halving and wants_more(of_key[task.key], task.grid.halving)
    }


def _axes(phase: Phase) -> list[str]:
    lines = [*phase.axis_lines]
    if phase.search is not None:
        each = f", for each {' and '.join(phase.search.for_each)}" if phase.search.for_each else ""
        tpe = f"tpe, by {phase.metric.name} ({phase.metric.goal}), " if phase.space and phase.metric else ""
        most = phase.space.most if phase.space else None
        few = f" (there are {most})" if most is not None and most < phase.search.samples else ""
        lines.append(f"search: {tpe}{phase.search.samples} samples{few}, seed {phase.search.seed}{each}")
    if phase.excluded:
        before = combination_count(phase.axes, phase.places) + phase.excluded
        lines.append(f"exclude: {phase.excluded} of {before} combinations taken out")
    if phase.is_shuffled:
        lines.append("order: shuffled")
    if phase.priority:
        lines.append(f"priority: {phase.priority}")
    if phase.setup:
        lines.append(f"setup: {cut(one_line(phase.setup), SHOWN_CHARS)}, once on each host")
    if phase.has_seeds:
        lines.append(f"seed: {', '.join(map(str, phase.seeds))}")
    return lines


def _rungs(phase: Phase) -> str:
    halving = phase.halving
    if halving is None:
        return ""
    shown = halving.rungs(SHOWN_RUNGS + 1)
    more = ", ..." if len(shown) > SHOWN_RUNGS else ""
    steps = ", ".join(map(str, shown[:SHOWN_RUNGS]))
    each = f", for each {' and '.join(halving.for_each)}" if halving.for_each else ""
    return f"rungs at {steps}{more}: 1 of {halving.eta} goes on, by {halving.metric} ({halving.goal}){each}"


def durations_of(files: Sequence[FileAudit]) -> dict[str, float]:
    """Return the `duration_s` of each complete task whose row has one, by key."""
    durations: dict[str, float] = {}
    for file in files:
        at = file.places().get("duration_s")
        if at is None:
            continue
        for row in file.rows:
            seconds = number_in(row.fields[at])
            if seconds is not None and seconds >= 0:
                durations |= dict.fromkeys(row.keys, seconds)
    return durations


class _Times:
    """How long tasks take, in means of what is known."""

    def __init__(self, tasks: Sequence[GridPoint], durations: Mapping[str, float]) -> None:
        self.rows = len(durations)  # that say how long their task took
        self._sums: dict[object, tuple[float, int]] = {}
        for task in tasks:
            if task.key in durations:
                for name in _names(task):
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = (total + durations[task.key], count + 1)

    def of(self, tasks: Sequence[GridPoint], to_come: int = 0, phase: str = "") -> float | None:
        """Return the seconds that one worker needs for all of them, None when nothing is known.

        So many more of the phase are yet to be chosen.
        """
        if not self._sums:
            return None if tasks or to_come else 0.0
        names = [*map(_names, tasks), *[(phase, None)] * to_come]
        found = (next(self._sums[name] for name in each if name in self._sums) for each in names)
        return sum(total / count for total, count in found)


def _names(task: GridPoint) -> tuple[object, ...]:
    """Return under what a duration is remembered: combination, phase, everything."""
    phase = task.grid.phase
    return (phase, task.number // len(task.grid.seeds)), phase, None
