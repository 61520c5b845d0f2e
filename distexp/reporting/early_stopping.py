"""What early stopping did in a phase: who came to each rung, the best value over the steps spent. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from distexp.reporting.plan import number_in
from distexp.results.audit import FileAudit
from distexp.results.row import STOPPED_AT
from distexp.results.rungs import RungRecord
from distexp.sweep.config import Phase
from distexp.task import Halving

STARTED, DURATION = "started_utc", "duration_s"


def early_stopping_of(
    phase: Phase, keys: Sequence[str], files: Sequence[FileAudit], rungs: Sequence[RungRecord]
) -> dict[str, Any] | None:
    """Return the rungs of a phase and its best value so far; None for a phase that stops nobody.

    Args:
        phase: Which.
        keys: Of its tasks.
        files: All results files.
        rungs: Of all phases.
    """
    halving = phase.halving
    if halving is None:
        return None
    known = {*keys}
    own = [each for each in rungs if each.key in known]
    return {
        "metric": halving.metric,
        "rungs": _rungs(own, halving),
        "best": _best_so_far(_ends(known, files, own, halving), halving),
    }


def _rungs(records: Sequence[RungRecord], halving: Halving) -> list[list[Any]]:
    """Return for each rung how many tasks came, how many stopped there, and the best value."""
    found: dict[int, list[RungRecord]] = {}
    for each in records:
        if each.verdict != "again":
            found.setdefault(each.rung, []).append(each)
    better = max if halving.goal == "maximize" else min
    return [
        [
            rung,
            len(those),
            sum(each.verdict == "stop" for each in those),
            better((each.value for each in those if each.value is not None), default=None),
        ]
        for rung, those in sorted(found.items())
    ]


def _ends(
    keys: set[str], files: Sequence[FileAudit], rungs: Sequence[RungRecord], halving: Halving
) -> list[tuple[datetime, float, float]]:
    """Return when each row's attempt ended, the steps that it took, and its value."""
    steps: dict[str, float] = {}
    for each in rungs:
        steps[each.key] = max(each.step, steps.get(each.key, 0))
    found = []
    for file in files:
        places = file.places()
        if not {halving.metric, STARTED, DURATION} <= places.keys():
            continue
        for row in file.rows:
            key = next((key for key in row.keys if key in keys), None)
            cells = {name: row.fields[at] for name, at in places.items()}
            value, took_s = number_in(cells[halving.metric]), number_in(cells[DURATION])
            if key is None or value is None or took_s is None:
                continue
            taken = number_in(cells.get(STOPPED_AT, "")) or halving.max_iter or steps.get(key, math.nan)
            try:
                ended = datetime.fromisoformat(cells[STARTED]) + timedelta(seconds=took_s)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(taken):
                found.append((ended, float(taken), value))
    return found


def _best_so_far(ends: Sequence[tuple[datetime, float, float]], halving: Halving) -> list[list[float]]:
    """Return the steps that all tasks together had taken when each better value was there, and the last."""
    points: list[list[float]] = []
    spent, sign = 0.0, 1 if halving.goal == "maximize" else -1
    for _, steps, value in sorted(ends, key=lambda each: each[0]):
        spent += steps
        if not points or sign * value > sign * points[-1][1]:
            points.append([spent, value])
    if points and points[-1][0] < spent:
        points.append([spent, points[-1][1]])
    return points
