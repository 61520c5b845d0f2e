"""Ends attempts that take too long: to begin, to give a result, or to stop when they are asked to."""

import logging
from collections.abc import Callable

from distexp.task import Cause, Task
from distexp.worker.signals import StopRequests
from distexp.worker.task_main import Failed, Stopped
from distexp.worker.task_process import Attempt

INTERRUPT_GRACE_S = 30.0  # second Ctrl+C: to save a checkpoint
PREEMPTION_GRACE_S = 20.0  # SIGTERM, Slurm: before the cluster kills
START_S = 600.0  # for a child to import its experiment, from a slow network drive, too

log = logging.getLogger("distexp.worker")


class TimeLimits:
    """How long one attempt may take.  For one thread."""

    def __init__(self, task: Task, attempt: Attempt, stop: StopRequests, clock: Callable[[], float]) -> None:
        """Let its process, which runs already, begin the experiment within `START_S` from now."""
        self._task, self._attempt, self._stop, self._clock = task, attempt, stop, clock
        self._begin_by_s: float | None = clock() + START_S
        self._end_by_s: float | None = None
        self._leave_by_s: float | None = None  # once it was asked to stop

    def outcome(self, leave_by_s: float | None) -> Failed | Stopped | None:
        """Return how the attempt ends now, None while it has time; ask it to stop when this worker has to.

        `leave_by_s` is when an attempt that is stopped early has to have left.
        """
        now_s = self._clock()
        if self._attempt.has_begun and self._begin_by_s is not None:
            self._begin_by_s = None
            self._end_by_s = now_s + self._task.timeout_s if self._task.timeout_s else None
        if self._begin_by_s is not None and now_s >= self._begin_by_s:
            late = f"{self._task.experiment} was not imported and warmed up within {START_S:g} s"
            return Failed(Cause.TIMEOUT, self._attempt.with_last_output(late))
        if self._end_by_s is not None and now_s >= self._end_by_s:
            return Failed(Cause.TIMEOUT, f"no result after timeout_s = {self._task.timeout_s:g} s")
        if self._stop.wants_checkpoint and self._leave_by_s is None:
            self._ask_to_stop(now_s)
        leave = [at_s for at_s in (self._leave_by_s, leave_by_s) if at_s is not None]
        return Stopped() if self._stop.wants_kill or (leave and now_s >= min(leave)) else None

    def _ask_to_stop(self, now_s: float) -> None:
        self._attempt.ask_stop()
        grace_s = PREEMPTION_GRACE_S if self._stop.is_preempted else INTERRUPT_GRACE_S
        self._leave_by_s = now_s + grace_s
        log.info("Asked task %s to stop; it has %g s to save a checkpoint", self._task.task_id, grace_s)

    def next_s(self, *others: float | None) -> float:
        """Return when to look again: at the next of these limits, or of `others`, one of which there is."""
        limits = (self._begin_by_s, self._end_by_s, self._leave_by_s, *others)
        return min(at_s for at_s in limits if at_s is not None)
