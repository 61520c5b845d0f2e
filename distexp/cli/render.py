"""A sweep at a glance, as lines on a terminal: bar, figures, a row per worker, last failures.

Pure. It lays out text itself: rich's own tables take several times as long, and a view is drawn every
second, beside a manager that has other things to do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.text import Text

from distexp.task import MIB_PER_GB, Reportable
from distexp.text import count_text, duration_text, number_text, one_line, short_duration
from distexp.wire.messages import ViewReply, WorkerStatus

WIDE = 110  # columns from which each figure has a column of its own
BAR_MIN = 10
FAILURES_SHOWN = 3
TASK_CELLS = 44  # of a task id at most, the end of which tells most
LEAST = 12  # cells that the metrics, then the task give way to
GAP = "  "
GONE_S = 60.0  # a worker that has left without a task is shown so long


@dataclass(frozen=True)
class Column:
    """One column of the workers' table."""

    title: str
    text: Callable[[WorkerStatus], str]
    limit: int  # cells that it takes at most
    keeps_end: bool = False  # of a text that is too long
    is_right: bool = False


def render(view: ViewReply, width: int, height: int, note: str = "") -> RenderableType:
    """Return the view in at most `height` lines of `width` cells.

    Args:
        view: What the manager tells.
        width: Of the terminal, in cells.
        height: Lines that may be used.
        note: A line for the end, such as that no manager answers.
    """
    head = [_bar(view, width), _figures(view, width)]
    failures = _failures(view, width) if height > 8 else []
    foot = [*failures, *([Text(note, style="yellow")] if note else [])]
    space = height - len(head) - len(foot)
    workers = [each for each in view.workers if each.connected or each.task or each.age_s < GONE_S]
    if not workers and not view.status.done:
        head.append(Text("No worker is connected: start one with `distexp worker`", style="yellow"))
    return _stacked([*head, *_workers(workers, width, space), *foot], width)


def _stacked(lines: Sequence[Text], width: int) -> Text:
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    joined = Text("\n", no_wrap=True, overflow="crop").join(lines)
    joined.no_wrap, joined.overflow = True, "crop"
    return joined


# -- the sweep ---------------------------------------------------------------------------------------------


def _bar(view: ViewReply, width: int) -> Text:
    status = view.status
    figures = f" {status.progress}  {_rate(view)}  {_eta(view)}"
    space = max(BAR_MIN, width - cell_len(figures))
    total = max(1, status.total)
    done = space * status.complete // total
    pruned = space * (status.complete + status.pruned) // total
    ended = space * (status.complete + status.pruned + status.failed + status.cancelled) // total
    return Text.assemble(
        ("━" * done, "green"),
        ("━" * (pruned - done), "blue"),
        ("━" * (ended - pruned), "red"),
        ("━" * (space - ended), "bright_black"),
        figures,
    )


def _rate(view: ViewReply) -> str:
    if view.per_hour is None:
        return "- tasks/h"
    if view.per_hour >= 600:
        return f"{view.per_hour / 60:.0f} tasks/min"
    return f"{view.per_hour:.{0 if view.per_hour >= 10 else 1}f} tasks/h"


def _eta(view: ViewReply) -> str:
    if view.status.done:
        return "done"
    return f"ETA: {view.why_no_eta}" if view.eta_s is None else f"ETA {duration_text(view.eta_s)}"


def _figures(view: ViewReply, width: int) -> Text:
    status = view.status
    styles = {"pending": "", "assigned": "cyan", "complete": "green", "failed": "red", "cancelled": "yellow"}
    if status.pruned:
        styles["pruned"] = "blue"
    line = Text()
    for state, style in styles.items():
        number = getattr(status, state)
        line.append(f"{number} {state}{GAP}", style if number else "bright_black")
    line.append(count_text(status.workers, "worker"))
    if status.paused:
        line.append(f"{GAP}PAUSED", "bold yellow")
    if status.held_phases:
        line.append(f"{GAP}HELD: {one_line(status.held_phases)}", "bold red")
    return line


def _failures(view: ViewReply, width: int) -> list[Text]:
    lines = []
    for failure in view.failures[:FAILURES_SHOWN]:
        at, task_id = (
            failure.at_utc[11:16],
            _cut(one_line(failure.task_id), min(TASK_CELLS, width // 3), True),
        )
        line = Text.assemble(
            (f"{at}Z ", "bright_black"),
            (task_id, "red"),
            one_line(f" {failure.why} ({failure.worker}, now {failure.state})"),
        )
        lines.append(line)
    return [Text("Last failures", style="bold"), *lines] if lines else []


# -- the workers -------------------------------------------------------------------------------------------


def _workers(workers: Sequence[WorkerStatus], width: int, space: int) -> list[Text]:
    if not workers or space < 2:
        return []
    shown = workers[: space - 1]
    if len(shown) < len(workers) and space > 2:
        shown = shown[:-1]
    columns = _columns(width)
    cells = [[column.text(worker) for column in columns] for worker in shown]
    widths = _widths(columns, cells, width)
    head = Text(_line(columns, [column.title for column in columns], widths), style="bold")
    lines = [
        Text(_line(columns, row, widths), style=_style(worker))
        for row, worker in zip(cells, shown, strict=True)
    ]
    if left := len(workers) - len(shown):
        lines.append(Text(f"... and {left} more workers", style="bright_black"))
    return [head, *lines]


def _style(worker: WorkerStatus) -> str:
    if worker.excluded:
        return "red"
    if not worker.connected or worker.drained:
        return "yellow"
    return "" if worker.task else "bright_black"


def _columns(width: int) -> list[Column]:
    """Return what is shown at this width; used and free memory share a column where there is little space."""
    if width >= WIDE:
        return [
            Column("worker", _name, 28),
            Column("device", lambda each: one_line(each.device), 24),
            Column("used GB", lambda each: _gb(each, "used_mib"), 7, is_right=True),
            Column("free GB", lambda each: _gb(each, "free_mib"), 7, is_right=True),
            Column("GPU", _utilization, 4, is_right=True),
            Column("task", _task, TASK_CELLS, keeps_end=True),
            Column("for", _task_time, 5, is_right=True),
            Column("step", _step, 13, is_right=True),
            Column("metrics", _metrics, width),
            Column("age", _age, 5, is_right=True),
        ]
    return [
        Column("worker", _name, 14, keeps_end=True),
        Column("GB used+free", _memory, 12, is_right=True),
        Column("GPU", _utilization, 4, is_right=True),
        Column("task", _task, TASK_CELLS, keeps_end=True),
        Column("step", _step, 9, is_right=True),
        Column("metric", _metric, width),
        Column("age", _age, 5, is_right=True),
    ]


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return each column's cells; where there are too few, metrics give way first, then the task."""
    widths = []
    for at, column in enumerate(columns):
        wanted = max(cell_len(row[at]) for row in cells)
        is_empty = not wanted and column.title not in ("worker", "task", "age")
        widths.append(0 if is_empty else min(column.limit, max(wanted, len(column.title))))
    used = [each for each in widths if each]
    over = sum(used) + len(GAP) * (len(used) - 1) - width
    for at, least in (
        (len(columns) - 2, LEAST),
        ([column.title for column in columns].index("task"), LEAST),
        (len(columns) - 2, 0),
    ):
        cut = max(0, min(over, widths[at] - least))
        widths[at], over = widths[at] - cut, over - cut
    return widths


def _line(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, text, width in zip(columns, row, widths, strict=True):
        if not width:
            continue
        cut = _cut(text, width, column.keeps_end)
        pad = " " * (width - cell_len(cut))
        parts.append(pad + cut if column.is_right else cut + pad)
    return GAP.join(parts)


def _cut(text: str, width: int, keeps_end: bool) -> str:
    if cell_len(text) <= width:
        return text
    if not keeps_end:
        return set_cell_size(text, width - 1) + "…"
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def _name(worker: WorkerStatus) -> str:
    return one_line(worker.worker)


def _gb(worker: WorkerStatus, which: str) -> str:
    return f"{getattr(worker.gpu, which) / MIB_PER_GB:.1f}" if worker.gpu else ""


def _memory(worker: WorkerStatus) -> str:
    return f"{_gb(worker, 'used_mib')}+{_gb(worker, 'free_mib')}" if worker.gpu else ""


def _utilization(worker: WorkerStatus) -> str:
    share = worker.gpu and worker.gpu.utilization_pct
    return "" if share is None else f"{share}%"


def _task(worker: WorkerStatus) -> str:
    if worker.task:
        return one_line(worker.task)
    if worker.excluded:
        return "excluded"
    return "drained" if worker.drained else "idle" if worker.connected else "gone"


def _task_time(worker: WorkerStatus) -> str:
    return "" if worker.task_s is None else short_duration(worker.task_s)


def _step(worker: WorkerStatus) -> str:
    if not worker.progress:
        return ""
    step, total = worker.progress
    return f"{step:g}" if total is None else f"{step:g}/{total:g}"


def _metrics(worker: WorkerStatus) -> str:
    return _metrics_text(worker.metrics)


def _metric(worker: WorkerStatus) -> str:
    return _metrics_text(dict(list(worker.metrics.items())[:1]))


def _metrics_text(metrics: Mapping[str, Reportable]) -> str:
    return one_line(" ".join(f"{name}={number_text(value)}" for name, value in metrics.items()))


def _age(worker: WorkerStatus) -> str:
    return short_duration(worker.age_s)
