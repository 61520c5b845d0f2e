"""Waits for what may hang, such as a write to a disk, while the worker sends heartbeats and hears signals."""

import logging
from collections.abc import Callable
from typing import TypeVar

from distexp.errors import DiskHangs
from distexp.system.beside import Beside
from distexp.wire.messages import TaskReply
from distexp.worker.connection import ManagerConnection
from distexp.worker.signals import StopRequests

SHORT_S = 0.02  # of most steps: as long as nobody waits for a heartbeat, or for Ctrl+C to be heard
LOOK_S = 1.0  # between two looks whether a step is still waited for
GRACE_S = 10.0  # for a step when the worker is to leave: its disk may only be slow
KILL_GRACE_S = 1.0  # the same after the third Ctrl+C, and for what can be done without

HANG_S = 30.0  # of silence of a disk, until the log says so

T = TypeVar("T")

log = logging.getLogger("distexp.worker")


class DiskSteps:
    """Waits for steps that need a disk, as long as that makes sense.  For one thread."""

    def __init__(
        self,
        *,
        connection: ManagerConnection,
        stop: StopRequests,
        clock: Callable[[], float],
        heartbeat: Callable[[TaskReply], bool],
    ) -> None:
        """Send heartbeats with `heartbeat`, which returns False when the task is not wanted any more."""
        self._connection, self._stop, self._clock = connection, stop, clock
        self._heartbeat = heartbeat

    def wait(
        self,
        step: Callable[[], T],
        task: TaskReply | None,
        is_given_up: Callable[[float], bool] | None = None,
    ) -> T:
        """Return what the step brings; send heartbeats for the task meanwhile.

        Args:
            is_given_up: Called with the seconds that were waited; by default, when this worker is to leave
                and the disk has had its time, or when the task is not wanted any more.

        Raises:
            DiskHangs: It was given up. The step goes on in its thread.
        """
        beside, began_s, is_fenced, is_told = Beside(step), self._clock(), False, is_given_up is not None
        while not beside.is_over(SHORT_S):
            now_s = self._clock()
            waited_s = now_s - began_s
            if is_given_up(waited_s) if is_given_up else is_fenced or self._has_no_patience(waited_s):
                raise DiskHangs(f"the disk has not answered for {waited_s:.0f} s")
            if waited_s >= HANG_S and not is_told:
                is_told = True
                log.warning("The disk has not answered for %.0f s; this worker waits for it", waited_s)
            if task is not None and now_s >= self._connection.next_heartbeat_s:
                is_fenced = not self._heartbeat(task) or is_fenced
            until_s = self._connection.next_heartbeat_s if task else now_s + LOOK_S
            self._connection.wait(min(LOOK_S, max(0.0, until_s - self._clock())), [beside.news])
        return beside.result()

    def _has_no_patience(self, waited_s: float) -> bool:
        grace_s = KILL_GRACE_S if self._stop.wants_kill else GRACE_S
        return self._stop.wants_checkpoint and waited_s >= grace_s

    def try_(self, step: Callable[[], T], task: TaskReply | None, otherwise: T) -> T:
        """Return what the step brings, or `otherwise` after `GRACE_S`, or a moment when asked to stop."""

        def is_given_up(waited_s: float) -> bool:
            return waited_s >= (KILL_GRACE_S if self._stop.wants_checkpoint else GRACE_S)

        try:
            return self.wait(step, task, is_given_up)
        except DiskHangs:
            return otherwise
