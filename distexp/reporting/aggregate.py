"""What a report shows, from surveyed files: aggregates per phase, every row, failures, time.

Pure. All of it becomes JSON for `report_page`.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distexp.errors import UserError
from distexp.reporting.plan import durations_of, number_in
from distexp.reporting.statistics import Samples, Values
from distexp.results.audit import FileAudit
from distexp.results.row import CAPTURED, IDENTITY, PROVENANCE, cell_text
from distexp.sweep.config import Phase
from distexp.sweep.grid import GridPoint
from distexp.task import TaskRecord

BEST = 10  # combinations that are listed per phase
TABLE_DIGITS = 8  # of a number in the table: half the page, and more than anybody reads
PAIRED_AXES = 4  # of the first so many axes, each pair gets a heat map
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
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        records: Of tasks that the manager knows to have failed or been cancelled, and perhaps others.
        metric: What is shown first; None for the first metric of the rows.

    Raises:
        UserError: There is no such metric; lists those that are.
    """
    by_key = {task.key: task for task in tasks}
    columns = list(dict.fromkeys(column for file in files for column in file.columns))
    cells = _columns(files, columns)
    keys = [row.keys for file in files for row in file.rows]
    metrics = _metrics(columns, cells, phases)
    if metric is not None and metric not in metrics:
        raise UserError(f"--metric {metric}: found no such metric, expected one of: {', '.join(metrics)}")
    numbers = {name: _numbers(cells[name]) for name in metrics}
    durations = durations_of(files)
    own: dict[str, list[tuple[int, GridPoint]]] = {phase.name: [] for phase in phases}
    for at, held in enumerate(keys):
        for key in held:
            own[by_key[key].grid.phase].append((at, by_key[key]))
    counts = Counter(task.grid.phase for task in tasks)
    complete = set(itertools.chain.from_iterable(keys))
    return {
        "metrics": metrics,
        "metric": metric or (metrics[0] if metrics else None),
        "lower": [name for name in metrics if any(word in name.lower() for word in LOWER_IS_BETTER)],
        "totals": {
            "tasks": len(tasks),
            "complete": len(complete),
            "seconds": round(sum(durations.values()), 1),
        },
        "phases": [
            {"tasks": counts[phase.name], **_phase(phase, own[phase.name], numbers, durations)}
            for phase in phases
        ],
        "columns": [_column(name, cells[name], name in numbers) for name in columns],
        "rows": len(keys),
        "failures": _failures(records, by_key, complete),
        "workers": _workers(cells, len(keys)),
        "problems": [[file.path, p.line, p.reason, p.rows] for file in files for p in file.problems],
    }


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
    own: Sequence[tuple[int, GridPoint]],
    numbers: Mapping[str, list[float | None]],
    durations: Mapping[str, float],
) -> dict[str, Any]:
    axes = {name: [cell_text(value) for value in values] for name, values in phase.axes.items()}
    sizes = [len(values) for values in axes.values()]
    places = [tuple(task.grid.positions(task.number)[:-1]) for _, task in own]
    samples = Samples(places, [task.seed for _, task in own])
    shown = {}
    for name, column in numbers.items():
        values = [column[at] for at, _ in own]
        if any(value is not None for value in values):
            shown[name] = _charts(samples, values, sizes)
    return {
        "name": phase.name,
        "where": phase.where,
        "experiment": phase.command or phase.experiment,
        "complete": len(own),
        "seconds": round(sum(durations.get(task.key, 0.0) for _, task in own), 1),
        "axes": [
            {"name": name, "values": axes[name], "numeric": all(_is_number(value) for value in values)}
            for name, values in phase.axes.items()
        ],
        "shown": shown,
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _charts(samples: Samples, values: Values, sizes: Sequence[int]) -> dict[str, Any]:
    varied = [axis for axis, size in enumerate(sizes) if size > 1]
    return {
        "axes": [[axis, samples.along(axis, values)] for axis in varied],
        "maps": [
            [first, second, samples.across(first, second, (sizes[first], sizes[second]), values)]
            for first, second in itertools.combinations(varied[:PAIRED_AXES], 2)
        ],
        **samples.ranked(BEST, values),
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
    records: Iterable[TaskRecord], by_key: Mapping[str, GridPoint], complete: set[str]
) -> list[dict[str, Any]]:
    return [
        {
            "task": by_key[record.key].task_id,
            "state": record.state,
            "cause": record.cause,
            "attempts": record.attempts,
            "error": record.error.strip(),
        }
        for record in records
        if record.state in ("failed", "cancelled") and record.key in by_key and record.key not in complete
    ]


def _workers(cells: Mapping[str, list[str]], rows: int) -> list[list[Any]]:
    """Return per worker, host and device how many rows it made, and in how many seconds."""
    nothing = [""] * rows
    found: dict[tuple[str, ...], list[float]] = {}
    names = ("worker", "host", "device")
    for *who, seconds in zip(*(cells.get(name, nothing) for name in (*names, "duration_s")), strict=True):
        if any(who):
            found.setdefault(tuple(who), []).append(number_in(seconds) or 0.0)
    return [[*who, len(spent), round(sum(spent), 1)] for who, spent in sorted(found.items())]
