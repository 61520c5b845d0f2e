"""What a report shows: means with intervals over seeds, best combinations, failures by cause, every row.

Pure. All of it becomes JSON for the page (`html`).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from distexp.errors import UserError
from distexp.queue.records import TaskRecord
from distexp.reporting.comparison import Space, frame_of, numbers_of
from distexp.reporting.failures import group_failures
from distexp.reporting.plan import durations_of, tasks_by_phase
from distexp.reporting.search_progress import search_of
from distexp.reporting.table import MEASURED, Cells, cells_of, columns_named, pack, table_of
from distexp.results.audit import FileAudit, Row
from distexp.results.row import is_ours
from distexp.results.rungs import RungRecord
from distexp.run_folder import run_folder
from distexp.sweep.config import Phase
from distexp.sweep.grid import Grid, GridPoint
from distexp.task import Cause
from distexp.text import cell_text, number_in

CURVES_OF = 10  # rows of each phase, the best ones, whose curves are wanted first
NAMED_TASKS = 5  # of those that failed for one cause
LOWER_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "perplexity", "duration_s", "peak_gpu_mib")


# Returns learning curves, given the run folder of each row and the rows that are wanted most.
CurvesOf = Callable[[Sequence[str], Sequence[int]], dict[str, Any]]


@dataclass(frozen=True)
class Metrics:
    """The metrics of the rows."""

    names: Sequence[str]
    first: str | None  # that is looked at first
    lower: Sequence[str]  # those that are the better the lower they are
    numbers: Mapping[str, Any]  # by metric, of each row

    @classmethod
    def of(cls, cells: Mapping[str, Cells], phases: Sequence[Phase], asked: str | None) -> "Metrics":
        """Find them; `asked` is what the user wants to look at first.

        Raises:
            UserError: There is none such; lists those that are.
        """
        names = _metrics(cells, phases)
        goals = {phase.metric.name: phase.metric.goal for phase in phases if phase.metric}
        first = _first_metric(asked, names, goals)
        lower = [name for name in names if _is_lower_better(name, goals)]
        return cls(names, first, lower, {name: cells[name].numbers() for name in names})

    def costs(self, name: str) -> Any:
        """Return a number of each row, the lower the better."""
        return self.numbers[name] if name in self.lower else np.negative(self.numbers[name])

    def shown(self) -> dict[str, Any]:
        """Return what the page needs to know of them beside the rows."""
        return {"metrics": self.names, "metric": self.first, "lower": self.lower}


@dataclass(frozen=True)
class TaskRows:
    """The rows of all files, and whose they are."""

    rows: Sequence[Row]
    of_task: Mapping[str, int]  # the first finished row of each task, by key
    pruned: Set[str]  # keys of tasks that were stopped early

    @classmethod
    def of(cls, files: Sequence[FileAudit]) -> "TaskRows":
        """Take the rows of each file, in turn."""
        rows = [row for file in files for row in file.rows]
        finished = [(at, row) for at, row in enumerate(rows) if not row.is_pruned]
        of_task = {key: at for at, row in reversed(finished) for key in row.keys}
        return cls(rows, of_task, {key for row in rows if row.is_pruned for key in row.keys})


def make_report(
    phases: Sequence[Phase],
    tasks: Sequence[GridPoint],
    files: Sequence[FileAudit],
    records: Sequence[TaskRecord],
    metric: str | None,
    *,
    to_come: Mapping[Grid, int] = {},
    rungs: Sequence[RungRecord] = (),
    curves: CurvesOf | None = None,
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        records: Of tasks that the manager knows to have failed or been cancelled; and perhaps others.
        metric: What is shown first; None for the first metric of the rows.
        to_come: Samples of searches that have not been drawn yet.
        rungs: What tasks have reached that may be stopped early.

    Raises:
        UserError: There is no such metric; lists those that are.
    """
    cells, rows, durations = cells_of(files), TaskRows.of(files), durations_of(files)
    metrics = Metrics.of(cells, phases, metric)
    by_key, planned = {task.key: task for task in tasks}, tasks_by_phase(phases, tasks)
    coming = {grid.phase: count for grid, count in to_come.items()}
    return {
        **metrics.shown(),
        "totals": _totals(len(tasks) + sum(coming.values()), rows, durations),
        "phases": [
            _phase(phase, planned[phase.name], rows.of_task, metrics.numbers, durations)
            | {"tasks": len(planned[phase.name]) + coming.get(phase.name, 0)}
            | {"search": search_of(phase, [t.key for t in planned[phase.name]], files, rungs)}
            for phase in phases
        ],
        **_of_each_row(rows.rows, cells, metrics, phases, by_key, curves=curves),
        "failures": _failures(records, by_key, rows.of_task.keys() | rows.pruned),
        "workers": _workers(cells, len(rows.rows)),
        "problems": [[file.path, p.line, p.reason, p.rows] for file in files for p in file.problems],
    }


def _of_each_row(
    rows: Sequence[Row],
    cells: Mapping[str, Cells],
    metrics: Metrics,
    phases: Sequence[Phase],
    by_key: Mapping[str, GridPoint],
    *,
    curves: CurvesOf | None,
) -> dict[str, Any]:
    """Return the table, and the curves of the rows that are looked at first."""
    phase_of = _phase_of(rows, by_key, [phase.name for phase in phases])
    best = []
    if metrics.first:
        best = _best_rows(phase_of, _costs(metrics.first, metrics, phases, phase_of), rows)
    return {
        "columns": table_of(cells, metrics.names, phases),
        "rows": len(rows),
        "phase_of": pack(phase_of),
        "pruned": [at for at, row in enumerate(rows) if row.is_pruned],
        "curves": curves(cells["run_dir"].each(), best) if curves and "run_dir" in cells else None,
    }


def _totals(tasks: int, rows: TaskRows, durations: Mapping[str, float]) -> dict[str, float]:
    seconds = round(sum(durations.values()), 1)
    return {"tasks": tasks, "complete": len(rows.of_task), "pruned": len(rows.pruned), "seconds": seconds}


def _first_metric(asked: str | None, metrics: Sequence[str], goals: Mapping[str, str]) -> str | None:
    """Return the metric that is shown first: the one that was asked for, or a phase's own, or the first."""
    if asked is None:
        return next((name for name in [*goals, *metrics] if name in metrics), None)
    if asked not in metrics:
        there = f"choose one of: {', '.join(metrics)}" if metrics else "there are none yet"
        raise UserError(f"--metric {asked}: no row has such a metric; {there}")
    return asked


def _phase_of(rows: Sequence[Row], by_key: Mapping[str, GridPoint], names: Sequence[str]) -> Any:
    """Return the place of each row's phase; one more than the last for a row that counts for no task."""
    places = {name: at for at, name in enumerate(names)}
    found = (places[by_key[row.keys[0]].phase] if row.keys else len(names) for row in rows)
    return np.fromiter(found, dtype=np.int64, count=len(rows))


def _costs(metric: str, metrics: Metrics, phases: Sequence[Phase], phase_of: Any) -> Any:
    """Return a number of each row, the lower the better: of its phase's metric where none has `metric`."""
    costs = np.array(metrics.costs(metric))
    for at, phase in enumerate(phases):
        own = phase_of == at
        if phase.metric and phase.metric.name in metrics.numbers and np.isnan(costs[own]).all():
            costs[own] = metrics.costs(phase.metric.name)[own]
    return costs


def _best_rows(phase_of: Any, costs: Any, rows: Sequence[Row]) -> list[int]:
    """Return the rows of each phase that cost least, in turn: the best of all phases first."""
    taken: dict[int, list[int]] = {}
    for row in np.argsort(costs, kind="stable").tolist():
        own = taken.setdefault(int(phase_of[row]), [])
        if len(own) < CURVES_OF and not rows[row].is_pruned and not np.isnan(costs[row]):
            own.append(row)
    return [row for turn in itertools.zip_longest(*taken.values()) for row in turn if row is not None]


def _is_lower_better(metric: str, goals: Mapping[str, str]) -> bool:
    if metric in goals:
        return goals[metric] == "minimize"
    return any(word in metric.lower() for word in LOWER_IS_BETTER)


def _metrics(cells: Mapping[str, Cells], phases: Sequence[Phase]) -> list[str]:
    parameters = {name for phase in phases for name in (*phase.axes, *phase.defaults)}
    others = [name for name in cells if name not in parameters and (name in MEASURED or not is_ours(name))]
    found = [name for name in others if cells[name].has_numbers()]
    return sorted(found, key=lambda name: name in MEASURED)


def _phase(
    phase: Phase,
    planned: Sequence[GridPoint],
    row_of: Mapping[str, int],
    numbers: Mapping[str, Any],
    durations: Mapping[str, float],
) -> dict[str, Any]:
    own = [(row_of[task.key], task) for task in planned if task.key in row_of]
    grid = planned[0].grid if planned else phase  # whose axes a search fills as it goes
    axes = {name: [cell_text(value) for value in values] for name, values in grid.axes.items()}
    places = [task.grid.positions(task.number)[:-1] for _, task in own]
    seeds = [task.seed for _, task in own]
    space = Space.of(grid, planned)
    shown = {}
    for name, column in numbers.items():
        frame = frame_of(places, seeds, column[[at for at, _ in own]])
        if not frame.empty:
            shown[name] = space.charts(frame)
    return {
        "name": phase.name,
        "where": phase.where,
        "experiment": phase.command or phase.experiment,
        "metric": phase.metric.name if phase.metric else None,
        "seeds": len({*seeds}),
        "complete": len(own),
        "seconds": round(sum(durations.get(task.key, 0.0) for _, task in own), 1),
        "axes": [
            {
                "name": name,
                "values": axes[name],
                "numeric": numbers_of(values, grid.absent.get(name)) is not None,
                "absent": grid.absent.get(name),
                "columns": columns_named(phase, name),
            }
            for name, values in grid.axes.items()
        ],
        "shown": shown,
    }


def _failures(
    records: Iterable[TaskRecord], by_key: Mapping[str, GridPoint], complete: Set[str]
) -> list[dict[str, Any]]:
    open_ones = (key for key in by_key if key not in complete)
    return [
        {
            "state": group.state,
            "cause": group.cause,
            "message": group.message,
            "count": len(group.keys),
            "tasks": [by_key[key].task_id for key in group.keys[:NAMED_TASKS]],
            "error": group.error,
            "folder": "" if group.cause == Cause.SETUP else _run_folder(by_key[group.keys[0]]),  # none began
        }
        for group in group_failures(records, open_ones, with_pending=True)
    ]


def _run_folder(task: GridPoint) -> str:
    return run_folder(task.output_dir, task.phase, task.seed, task.key).as_posix()


def _workers(cells: Mapping[str, Cells], rows: int) -> list[list[Any]]:
    """Return per worker, host and device how many rows it made, and in how many seconds."""
    nothing = Cells([""], [0] * rows)
    found: dict[tuple[str, ...], list[float]] = {}
    names = ("worker", "host", "device")
    for *who, seconds in zip(
        *(cells.get(name, nothing).each() for name in (*names, "duration_s")), strict=True
    ):
        if any(who):
            found.setdefault(tuple(who), []).append(number_in(seconds) or 0.0)
    return [[*who, len(spent), round(sum(spent), 1)] for who, spent in sorted(found.items())]
