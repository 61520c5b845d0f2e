"""Asks the manager for the verdicts on one attempt, and makes a result of one that was stopped early."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import structs

from distexp.results.conversion import convert
from distexp.text import utc_text
from distexp.wire.messages import TaskReply
from distexp.worker.rungs import Reached
from distexp.worker.task_main import Finished, Outcome
from distexp.worker.task_process import Attempt

STOP_GRACE_S = 30.0  # for a task to leave by itself

log = logging.getLogger("distexp.worker")


class EarlyStop:
    """The rungs of one attempt, on the worker's side.  For one thread."""

    def __init__(
        self,
        task: TaskReply,
        attempt: Attempt,
        ask: Callable[[TaskReply, Reached, bool], bool],
        clock: Callable[[], float],
    ) -> None:
        """`ask` gets a rung, and whether the task ends there anyway; it returns whether the task stops."""
        self._task, self._attempt, self._ask, self._clock = task, attempt, ask, clock
        self._began_s, self._began_utc = clock(), datetime.now(UTC)
        self._stopped: Reached | None = None
        self.kill_at_s: float | None = None  # when the task is ended that has not left by itself

    def look(self, *, has_ended: bool = False) -> None:
        """Bring the rungs that the child has told since to the manager, and its verdicts to the child."""
        while self._attempt.reached:
            reached = self._attempt.reached.pop(0)
            stops = self._ask(self._task, reached, has_ended or reached.is_last)
            if stops and self._stopped is None:
                self._stopped = reached
                self.kill_at_s = self._clock() + STOP_GRACE_S
                log.info("Task %s is to stop early, at step %g", self._task.task_id, reached.step)
            self._attempt.answer(stops=stops)

    def judged(self, outcome: Outcome) -> Outcome:
        """Return the outcome; of an attempt that was stopped, what it had reported, however it ended.

        One that came to its end all the same has finished.
        """
        stopped = self._stopped
        if stopped is None or (isinstance(outcome, Finished) and not outcome.has_left and self._is_whole()):
            return outcome
        if not isinstance(outcome, Finished):
            outcome = Finished({}, utc_text(self._began_utc), round(self._clock() - self._began_s, 3))
        metrics = convert(self._task, {**outcome.result, **stopped.metrics}, self._task.rule).metrics
        return structs.replace(outcome, result=metrics, stopped_at=stopped.step)

    def _is_whole(self) -> bool:
        last, halving = self._attempt.progress, self._task.halving
        if last is None or halving is None:
            return False
        ends = [end for end in (last.total, halving.max_iter) if end is not None]
        return bool(ends) and last.step >= min(ends)
