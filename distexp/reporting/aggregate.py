"""What a report shows: means with intervals over seeds, best combinations, failures by cause, every row.

Pure. All of it becomes JSON for the page (`html`). pandas and scipy are imported here and nowhere else.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Self

import msgspec
import pandas as pd
from scipy.special import stdtrit

from distexp.errors import UserError
from distexp.reporting.early_stopping import early_stopping_of
from distexp.reporting.failures import group_failures
from distexp.reporting.plan import durations_of, number_in
from distexp.results.audit import FileAudit
from distexp.results.row import CAPTURED, IDENTITY, PROVENANCE
from distexp.results.rungs import RungRecord
from distexp.run_folder import run_folder
from distexp.sweep.config import Phase
from distexp.sweep.grid import GridPoint
from distexp.task import TaskRecord
from distexp.text import cell_text

BEST = 10  # combinations that are listed per phase
TABLE_DIGITS = 8  # of a number in the table: half the page, and more than anybody reads
PAIRED_AXES = 4  # of the first so many axes, each pair gets a heat map
SPARSE = 0.75  # of the cells of a map without a number: then it shows nothing
NAMED_TASKS = 5  # of those that failed for one cause
MEASURED = ("duration_s", "peak_gpu_mib")  # ours, and as good as a metric
LOWER_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "perplexity", "duration_s", "peak_gpu_mib")
_NO_NUMBERS = {"", "nan", "inf", "-inf"}  # what a column of numbers may hold besides
_TRUTH = {"True": 1.0, "False": 0.0}  # its mean is a share
_SEED, _VALUE = "seed", "value"  # columns of a frame, beside the axes' numbers


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one value of an axis, or of one combination."""

    mean: float
    half: float | None  # of the 95 % interval over seeds; None for a single seed
    seeds: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A metric by one axis or two: every value is judged by the same runs of the other axes and seeds."""

    axes: list[int]
    points: list[tuple[int, Point]] | None = None  # of one axis: by the number of the value
    dots: list[tuple[int, float]] | None = None  # of an axis whose values share no run: each combination
    means: list[list[float | None]] | None = None  # of two: the first axis runs to the right
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
        means = frame.groupby([*range(len(sizes))], as_index=False)[_VALUE].mean()
        dots = [(int(at), short(mean)) for at, mean in zip(means[axes[0]], means[_VALUE], strict=True)]
        return Comparison(axes=[*axes], dots=dots, **counts)
    if len(axes) == 1:
        by_seed = shared.groupby([*axes, _SEED])[_VALUE].mean()
        return Comparison(axes=[*axes], points=_points(by_seed.groupby(level=0)), **counts)
    means = shared.groupby([axes[1], axes[0]])[_VALUE].mean().unstack()
    grid = means.reindex(index=range(sizes[axes[1]]), columns=range(sizes[axes[0]]))
    shown = [[None if pd.isna(mean) else short(mean) for mean in line] for line in grid.to_numpy()]
    return Comparison(axes=[*axes], means=shown, **counts)


def rank(frame: pd.DataFrame, axes: int) -> dict[str, list[tuple[list[int], Point]]]:
    """Return the combinations with the highest mean over seeds, and those with the lowest, best first."""
    points = _points(frame.groupby([*range(axes)] or (lambda _: 0))[_VALUE])
    points = [(list(at) if isinstance(at, tuple) else [at][:axes], point) for at, point in points]
    points.sort(key=lambda item: item[1].mean)
    return {"highest": points[::-1][:BEST], "lowest": points[:BEST]}


def _points(groups: Any) -> list[tuple[Any, Point]]:
    """Return mean and 95 % interval of each group of one number per seed."""
    found = groups.agg(["mean", "sem", "count"])
    halves = stdtrit(found["count"].clip(lower=2) - 1, 0.975) * found["sem"]
    return [
        (at, Point(short(mean), None if count < 2 else short(half), int(count)))
        for at, mean, half, count in zip(found.index, found["mean"], halves, found["count"], strict=True)
    ]


def short(number: float) -> float:
    """Return the number to six digits: more than a chart shows."""
    return float(f"{number:.6g}")


# -- the report --------------------------------------------------------------------------------------------


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
            | {"halving": early_stopping_of(phase, [t.key for t in planned[phase.name]], files, rungs)}
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
            {"name": name, "values": axes[name], "numeric": _is_numeric(values, phase.absent.get(name))}
            for name, values in phase.axes.items()
        ],
        "shown": shown,
    }


def _is_numeric(values: Sequence[object], absent: int | None) -> bool:
    numbers = [value for at, value in enumerate(values) if at != absent]
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)


class Space(msgspec.Struct, frozen=True):
    """The combinations of a phase: a whole grid, or those of cases, conditions, pairs and samples."""

    sizes: list[int]  # values of each axis
    absent: dict[int, int]  # of an axis that not every combination has: the place that stands for that
    tasks: int
    frame: Any  # of all tasks, where they are no whole grid; else None

    @classmethod
    def of(cls, phase: Phase, planned: Sequence[GridPoint]) -> Self:
        """Return the space of a phase with these tasks."""
        absent = {at: phase.absent[name] for at, name in enumerate(phase.axes) if name in phase.absent}
        frame = None
        if phase.places is not None and planned:
            places = [task.grid.positions(task.number)[:-1] for task in planned]
            frame = frame_of(places, [task.seed for task in planned], [0.0] * len(planned))
        return cls([len(values) for values in phase.axes.values()], absent, len(planned), frame)

    def charts(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Return what is drawn of one metric."""
        varied = [axis for axis, size in enumerate(self.sizes) if size > 1]
        pairs = itertools.combinations(varied[:PAIRED_AXES], 2)
        maps = [self._compare(frame, pair) for pair in pairs]
        return {
            "axes": [found for axis in varied if (found := self._compare(frame, [axis]))],
            "maps": [found for found in maps if found and found.of and self._is_dense(found)],
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
        cells = sum(mean is not None for line in found.means or [] for mean in line)
        return cells >= (1 - SPARSE) * math.prod(self.sizes[axis] for axis in found.axes)


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
