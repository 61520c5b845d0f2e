"""At a rung the child asks whether its task may go on, and waits for the verdict."""

import math
import threading
from collections.abc import Callable

import msgspec

from distexp.task import Halving, Number, Reportable
from distexp.worker.output import warn
from distexp.worker.reports import Reported

VERDICT_S = 2.0  # that a task waits for its verdict; without one it goes on


class Reached(msgspec.Struct, frozen=True, tag="reached"):
    """From the child: the task has reached a rung."""

    step: Number
    value: float | None  # of the metric; None: it was no number
    is_last: bool  # the task ends here anyway
    metrics: dict[str, Reportable] = {}  # all of the report


class Verdict(msgspec.Struct, frozen=True, tag="verdict"):
    """To the child: go on, or stop."""

    stops: bool


class RungGate:
    """Stands between a task's reports and their end at a rung.  In the child, for one thread."""

    def __init__(
        self, halving: Halving, ask: Callable[[Reached], None], answered: threading.Event, *, waits: bool
    ) -> None:
        """Send each rung by `ask`; with `waits`, wait until `answered` is set, `VERDICT_S` at most."""
        self._halving, self._ask, self._answered, self._waits = halving, ask, answered, waits
        self._passed = 0
        self._has_warned = False

    def pass_report(self, reported: Reported) -> None:
        """Ask if this report is the first at or beyond a rung; return when the task may go on, or is to stop.

        A report without the metric passes no rung.
        """
        halving, step = self._halving, reported.step
        rung = halving.rung_at(step)
        if rung is None or rung <= self._passed:
            return
        if halving.metric not in reported.metrics:
            if not self._has_warned:
                self._has_warned = True
                given = ", ".join(reported.metrics) or "none"
                warn(f"context.report gives no {halving.metric}, which early_terminate looks at, but {given}")
            return
        self._passed = rung
        self._answered.clear()
        is_last = reported.total is not None and step >= reported.total
        value = _finite(reported.metrics[halving.metric])
        self._ask(Reached(step=step, value=value, is_last=is_last, metrics=reported.metrics))
        if self._waits:
            self._answered.wait(VERDICT_S)


def _finite(metric: Reportable) -> float | None:
    """Return the finite number that a metric is; None for anything else."""
    if isinstance(metric, int | float) and math.isfinite(metric):
        return float(metric)
    return None
