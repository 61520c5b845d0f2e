"""How a search went: who came to each rung, the best value over what was spent. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from distexp.results.audit import FileAudit
from distexp.results.row import STOPPED_AT
from distexp.results.rungs import RungRecord, summaries_of
from distexp.sweep.config import Phase
from distexp.text import number_in

STARTED, DURATION = "started_utc", "duration_s"


def search_of(
    phase: Phase, keys: Sequence[str], files: Sequence[FileAudit], rungs: Sequence[RungRecord]
) -> dict[str, Any] | None:
    """Return the rungs of a phase and its best value so far; None for a phase that neither samples nor stops.

    Args:
        phase: Which.
        keys: Of its tasks.
        files: All results files.
        rungs: Of all phases.
    """
    halving = phase.halving
    metric = halving.metric if halving else phase.metric.name if phase.metric and phase.search else None
    if metric is None:
        return None
    goal = halving.goal if halving else phase.metric.goal if phase.metric else "maximize"
    known = {*keys}
    own = [each for each in rungs if each.key in known]
    steps, max_iter = (_steps_taken(own), halving.max_iter) if halving else (None, None)
    summaries = summaries_of(own, halving) if halving else []
    ends = _ends(known, files, metric, steps, max_iter)
    return {
        "metric": metric,
        "unit": "finished tasks" if halving is None else "steps of all tasks",
        "rungs": [[each.rung, each.tasks, each.stopped, each.best] for each in summaries],
        "best": _best_so_far(ends, 1 if goal == "maximize" else -1),
    }


def _steps_taken(rungs: Sequence[RungRecord]) -> dict[str, float]:
    """Return the last step known of each task."""
    steps: dict[str, float] = {}
    for each in rungs:
        steps[each.key] = max(each.step, steps.get(each.key, 0))
    return steps


def _ends(
    keys: set[str],
    files: Sequence[FileAudit],
    metric: str,
    steps: Mapping[str, float] | None,
    max_iter: int | None,
) -> list[tuple[datetime, float, float]]:
    """Return when each row's attempt ended, what it cost, and its value.

    Args:
        keys: Of the tasks that are looked at.
        files: All results files.
        metric: Whose value.
        steps: The last one known of each task, its cost; None: each task costs 1.
        max_iter: The steps of a task that was not stopped, if known.
    """
    found = []
    for file in files:
        places = file.places()
        if not {metric, STARTED, DURATION} <= places.keys():
            continue
        for row in file.rows:
            key = next((key for key in row.keys if key in keys), None)
            cells = {name: row.fields[places[name]] for name in (metric, STARTED, DURATION)}
            value, took_s = number_in(cells[metric]), number_in(cells[DURATION])
            if key is None or value is None or took_s is None:
                continue
            cost = 1.0
            if steps is not None:
                stopped_at = row.fields[places[STOPPED_AT]] if STOPPED_AT in places else ""
                cost = number_in(stopped_at) or max_iter or steps.get(key, math.nan)
            try:
                ended = datetime.fromisoformat(cells[STARTED]) + timedelta(seconds=took_s)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(cost):
                found.append((ended, cost, value))
    return found


def _best_so_far(ends: Sequence[tuple[datetime, float, float]], sign: int) -> list[list[float]]:
    """Return what all tasks together had cost when each better value was there, and the last."""
    points: list[list[float]] = []
    spent = 0.0
    for _, cost, value in sorted(ends, key=lambda each: each[0]):
        spent += cost
        if not points or sign * value > sign * points[-1][1]:
            points.append([spent, value])
    if points and points[-1][0] < spent:
        points.append([spent, points[-1][1]])
    return points
