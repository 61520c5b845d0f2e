"""The lines of `rungs.csv`: what tasks have reached at their rungs, and who was stopped there."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from distexp.system.files import regular
from distexp.task import Halving, Number
from distexp.text import number_text


class RungRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `rungs.csv`: a task at a rung; or that a stopped one was asked for again."""

    phase: str
    task_id: str
    key: str
    seed: int
    rung: int
    step: Number  # of the report that passed it
    value: float | None = None  # of the metric; None: it was no number
    verdict: Literal["go", "stop", "again"]
    rank: int = 0  # of its combination then, 1 the best
    of: int = 0  # combinations that had reached the rung
    kept: int = 0  # of those that went on
    max_iter: int | None = None
    at_utc: str = ""
    metric: str = ""  # empty: an earlier version has not said

    @property
    def why(self) -> str:
        """What a person is told of a stop."""
        shown = "no number" if self.value is None else number_text(self.value)
        going = "only the best goes on" if self.kept == 1 else f"the best {self.kept} go on"
        return f"at step {self.rung}: {shown} is rank {self.rank} of {self.of} there, and {going}"

    def is_of_metric(self, metric: str) -> bool:
        """Return whether it tells of this metric, as far as is known: a phase may have had another before."""
        return self.metric in ("", metric)


class RungSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks of a phase have reached at one rung."""

    rung: int
    tasks: int  # that have come there
    stopped: int  # of them, there
    best: float | None  # of their values; None: there is no number
    best_task: str  # whose that is


MAX_LINE_BYTES = 64 * 1024  # one of ours is some hundred; a longer one is none
RUNG_COLUMNS = RungRecord.__struct_fields__
REQUIRED = frozenset(["phase", "task_id", "key", "seed", "rung", "step", "verdict"])  # of a header


def read_rungs(path: Path) -> list[RungRecord]:
    """Return what a `rungs.csv` holds; lines that are none, such as a torn one, are left out.

    Each line stands for itself: what is wrong with one, be it the header, costs no other.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES), b"")
            return _records(line for line in lines if len(line) < MAX_LINE_BYTES)
    except OSError:
        return []


def _records(lines: Iterable[bytes]) -> list[RungRecord]:
    found, columns = [], RUNG_COLUMNS
    for line in lines:
        try:
            row = next(csv.reader([line.decode("utf-8-sig", errors="replace")]), [])
            if {*row} >= REQUIRED:
                columns = RUNG_COLUMNS if tuple(row) == RUNG_COLUMNS[: len(row)] else tuple(row)
                continue
            cells = {name: cell for name, cell in zip(columns, row, strict=False) if cell}
            found.append(msgspec.convert(cells, RungRecord, strict=False))
        except (csv.Error, msgspec.ValidationError):
            continue
    return found


def last_word(records: Sequence[RungRecord]) -> RungRecord | None:
    """Return whether the task was last stopped, or asked for again after that; None: neither.

    Args:
        records: Of one task, the oldest first.
    """
    return next((each for each in reversed(records) if each.verdict != "go"), None)


def summaries_of(records: Iterable[RungRecord], halving: Halving) -> list[RungSummary]:
    """Return what tasks have reached at each rung, the first one first, by the metric of their phase now.

    Args:
        records: Of tasks of that phase, the oldest first: the first value of a task at a rung counts.
        halving: Of the phase.
    """
    found: dict[int, dict[str, RungRecord]] = {}
    for each in records:
        if each.verdict != "again" and each.is_of_metric(halving.metric):
            found.setdefault(each.rung, {}).setdefault(each.key, each)
    return [_summary(rung, [*found[rung].values()], halving) for rung in sorted(found)]


def _summary(rung: int, records: Sequence[RungRecord], halving: Halving) -> RungSummary:
    better = max if halving.goal == "maximize" else min
    numbers = [
        (each.value, each.task_id) for each in records if each.value is not None and math.isfinite(each.value)
    ]
    best, best_task = better(numbers, key=lambda each: each[0], default=(None, ""))
    stopped = sum(each.verdict == "stop" for each in records)
    return RungSummary(rung=rung, tasks=len(records), stopped=stopped, best=best, best_task=best_task)


def wants_more(records: Sequence[RungRecord], halving: Halving) -> bool:
    """Return whether a stopped task was asked for again, or is asked for to a larger `max_iter`.

    Args:
        records: Of that task, the oldest first.
        halving: Of its phase now.
    """
    last = last_word(records)
    if last is None or last.verdict == "again":
        return last is not None
    return last.max_iter is not None and (halving.max_iter or math.inf) > last.max_iter
