"""What a report shows: means with intervals over seeds, best combinations, failures by cause, every row.

Pure. All of it becomes JSON for the page (`html`).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from distexp.errors import UserError
from distexp.reporting.comparison import Space, frame_of, numbers_of
from distexp.reporting.failures import group_failures
from distexp.reporting.plan import durations_of, number_in
from distexp.reporting.search_progress import search_of
from distexp.results.audit import FileAudit
from distexp.results.row import CAPTURED, IDENTITY, PROVENANCE
from distexp.results.rungs import RungRecord
from distexp.run_folder import run_folder
from distexp.sweep.config import Phase
from distexp.sweep.grid import GridPoint
from distexp.task import TaskRecord
from distexp.text import cell_text

TABLE_DIGITS = 8  # of a number in the table: half the page, and more than anybody reads
NAMED_TASKS = 5  # of those that failed for one cause
MEASURED = ("duration_s", "peak_gpu_mib")  # ours, and as good as a metric
LOWER_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "perplexity", "duration_s", "peak_gpu_mib")
_NO_NUMBERS = {"", "nan", "inf", "-inf"}  # what a column of numbers may hold besides
_TRUTH = {"True": 1.0, "False": 0.0}  # its mean is a share


def make_report(
    phases: Sequence[Phase],
    tasks: Sequence[GridPoint],
    files: Sequence[FileAudit],
    records: Sequence[TaskRecord],
    metric: str | None,
    *,
    rungs: Sequence[RungRecord] = (),
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        records: Of tasks that the manager knows to have failed or been cancelled, and perhaps others.
        metric: What is shown first; None for the first metric of the rows.
        rungs: What tasks have reached that may be stopped early.

    Raises:
        UserError: There is no such metric; lists those that are.
    """
    by_key = {task.key: task for task in tasks}
    columns = list(dict.fromkeys(column for file in files for column in file.columns))
    cells = _columns(files, columns)
    rows = [row for file in files for row in file.rows]
    keys = [row.keys for row in rows]
    metrics = _metrics(columns, cells, phases)
    if metric is not None and metric not in metrics:
        there = f"choose one of: {', '.join(metrics)}" if metrics else "there are none yet"
        raise UserError(f"--metric {metric}: no row has such a metric; {there}")
    goals = {phase.metric.name: phase.metric.goal for phase in phases if phase.metric}
    numbers = {name: _numbers(cells[name]) for name in metrics}
    durations = durations_of(files)
    finished = [(at, row) for at, row in enumerate(rows) if not row.is_pruned]
    row_of = {key: at for at, row in reversed(finished) for key in row.keys}  # the first of each task
    pruned = {key for row in rows if row.is_pruned for key in row.keys}
    planned: dict[str, list[GridPoint]] = {phase.name: [] for phase in phases}
    for task in tasks:
        planned[task.grid.phase].append(task)
    return {
        "metrics": metrics,
        "metric": metric or next((name for name in [*goals, *metrics] if name in metrics), None),
        "lower": [name for name in metrics if _is_lower_better(name, goals)],
        "totals": {
            "tasks": len(tasks),
            "complete": len(row_of),
            "pruned": len(pruned),
            "seconds": round(sum(durations.values()), 1),
        },
        "phases": [
            _phase(phase, planned[phase.name], row_of, numbers, durations)
            | {"search": search_of(phase, [t.key for t in planned[phase.name]], files, rungs)}
            for phase in phases
        ],
        "columns": [_column(name, cells[name], name in numbers) for name in columns],
        "rows": len(keys),
        "failures": _failures(records, by_key, row_of.keys() | pruned),
        "workers": _workers(cells, len(keys)),
        "problems": [[file.path, p.line, p.reason, p.rows] for file in files for p in file.problems],
    }


def _is_lower_better(metric: str, goals: Mapping[str, str]) -> bool:
    if metric in goals:
        return goals[metric] == "minimize"
    return any(word in metric.lower() for word in LOWER_IS_BETTER)


def _columns(files: Sequence[FileAudit], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the cells of every column, over all files; empty where a file lacks the column."""
    cells: dict[str, list[str]] = {name: [] for name in names}
    for file in files:
        places = file.places()
        for name in names:
            at = places.get(name)
            cells[name] += [""] * len(file.rows) if at is None else [row.fields[at] for row in file.rows]
    return cells


def _metrics(columns: Sequence[str], cells: Mapping[str, list[str]], phases: Sequence[Phase]) -> list[str]:
    parameters = {name for phase in phases for name in (*phase.axes, *phase.defaults)}
    known = {*IDENTITY, *CAPTURED, *PROVENANCE} - {*MEASURED} | parameters
    found = [
        name for name in columns if name not in known and any(_number(c) is not None for c in cells[name])
    ]
    return sorted(found, key=lambda name: name in MEASURED)


def _numbers(cells: Sequence[str]) -> list[float | None]:
    read = {cell: _number(cell) for cell in dict.fromkeys(cells)}
    return [read[cell] for cell in cells]


def _number(cell: str) -> float | None:
    truth = _TRUTH.get(cell)
    return truth if truth is not None else number_in(cell) if cell else None


def _phase(
    phase: Phase,
    planned: Sequence[GridPoint],
    row_of: Mapping[str, int],
    numbers: Mapping[str, list[float | None]],
    durations: Mapping[str, float],
) -> dict[str, Any]:
    own = [(row_of[task.key], task) for task in planned if task.key in row_of]
    axes = {name: [cell_text(value) for value in values] for name, values in phase.axes.items()}
    places = [task.grid.positions(task.number)[:-1] for _, task in own]
    seeds = [task.seed for _, task in own]
    space = Space.of(phase, planned)
    shown = {}
    for name, column in numbers.items():
        frame = frame_of(places, seeds, [column[at] for at, _ in own])
        if not frame.empty:
            shown[name] = space.charts(frame)
    return {
        "name": phase.name,
        "where": phase.where,
        "experiment": phase.command or phase.experiment,
        "tasks": len(planned),
        "seeds": len({*seeds}),
        "complete": len(own),
        "seconds": round(sum(durations.get(task.key, 0.0) for _, task in own), 1),
        "axes": [
            {
                "name": name,
                "values": axes[name],
                "numeric": numbers_of(values, phase.absent.get(name)) is not None,
                "absent": phase.absent.get(name),
            }
            for name, values in phase.axes.items()
        ],
        "shown": shown,
    }


def _column(name: str, cells: Sequence[str], is_metric: bool) -> dict[str, Any]:
    """Return a column for the table: numbers as they are, texts as places in a list of different ones."""
    distinct = dict.fromkeys(cells)
    about = {"name": name, "constant": len(distinct) <= 1, "metric": is_metric}
    if (
        all(cell in _NO_NUMBERS or number_in(cell) is not None for cell in distinct)
        and distinct.keys() - _NO_NUMBERS
    ):
        read = {cell: _shown(cell) for cell in distinct}
        return {**about, "numbers": [read[cell] for cell in cells]}
    places = {cell: at for at, cell in enumerate(distinct)}
    is_distinct = len(distinct) == len(cells)  # then each stands at its own place
    return {**about, "texts": list(distinct), "at": None if is_distinct else [places[cell] for cell in cells]}


def _shown(cell: str) -> float | int | str | None:
    if cell in _NO_NUMBERS:
        return cell or None
    number = float(cell)
    if number.is_integer() and abs(number) < 2**53:
        return int(number)
    return float(f"{number:.{TABLE_DIGITS}g}")


def _failures(
    records: Iterable[TaskRecord], by_key: Mapping[str, GridPoint], complete: Set[str]
) -> list[dict[str, Any]]:
    own = (record for record in records if record.key in by_key and record.key not in complete)
    return [
        {
            "state": group.state,
            "cause": group.cause,
            "message": group.message,
            "count": len(group.keys),
            "tasks": [by_key[key].task_id for key in group.keys[:NAMED_TASKS]],
            "error": group.error,
            "folder": _run_folder(by_key[group.keys[0]]),
        }
        for group in group_failures(own)
    ]


def _run_folder(task: GridPoint) -> str:
    return run_folder(task.output_dir, task.phase, task.seed, task.key).as_posix()


def _workers(cells: Mapping[str, list[str]], rows: int) -> list[list[Any]]:
    """Return per worker, host and device how many rows it made, and in how many seconds."""
    nothing = [""] * rows
    found: dict[tuple[str, ...], list[float]] = {}
    names = ("worker", "host", "device")
    for *who, seconds in zip(*(cells.get(name, nothing) for name in (*names, "duration_s")), strict=True):
        if any(who):
            found.setdefault(tuple(who), []).append(number_in(seconds) or 0.0)
    return [[*who, len(spent), round(sum(spent), 1)] for who, spent in sorted(found.items())]
