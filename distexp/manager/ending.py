"""When a manager ends by itself: every task has ended, or nothing that is left can run."""

import logging
import time
from collections.abc import Set

from distexp.manager.dispatch import Dispatcher
from distexp.manager.kept_rows import KeptRows
from distexp.manager.sweep_state import SweepState
from distexp.manager.unmet import UnmetNeeds
from distexp.manager.workers import RETURN_S
from distexp.task import State

EXIT_WAIT_S = 30.0  # how long a manager that is done waits for connected workers to hear it
NO_IMPORT = "no worker that is left can import their experiment"
NO_END = "their workers have died, and their processes do not end"

log = logging.getLogger("distexp.manager")


class Ending:
    """Decides when nothing more can be done, and whether all workers have heard it.  For one thread."""

    def __init__(
        self, sweep: SweepState, dispatcher: Dispatcher, kept: KeptRows, *, has_all_workers: bool
    ) -> None:
        """`has_all_workers`: no others will come, so what none of them can run is not waited for."""
        self._queue, self._registry = sweep.queue, sweep.registry
        self._dispatcher, self._kept, self._has_all_workers = dispatcher, kept, has_all_workers
        self._unmet = UnmetNeeds(sweep, lambda: dispatcher.status().paused)
        self.why_left = ""  # why tasks are left, once it is time to go
        self._exit_at_s: float | None = None
        self._stays_until_s = 0.0  # later, if workers of an earlier manager may be on their way back

    def await_return(self) -> None:
        """Stay long enough for workers of an earlier manager to come back."""
        self._stays_until_s = time.monotonic() + RETURN_S

    def look(self, stuck: Set[str]) -> None:
        """Say what idle workers lack for the tasks that are left, until they are told to leave.

        `stuck` are the ids of leases that cannot end.
        """
        if not self._dispatcher.is_ending:
            self._unmet.look(stuck)

    def is_due(self, stuck: Set[str]) -> bool:
        """Return whether to go now: nothing more can be done, and workers here or on their way heard it.

        So did a worker that waits for a GPU. For `stuck` see `look`.
        """
        nothing_can_run = self._can_nothing_run(sum(each.lease_id in stuck for each in self._queue.leases()))
        self._dispatcher.say_ending(nothing_can_run and self._exit_at_s is not None)
        if not self._queue.is_over() and not nothing_can_run:
            self._exit_at_s = None  # perhaps again: an edit of the configs brought more
            return False
        now_s = time.monotonic()
        if self._exit_at_s is None:
            self._exit_at_s = now_s + EXIT_WAIT_S
        registry = self._registry
        hears = registry.connected() or registry.may_return() or registry.is_listened_to()
        is_alone = not hears and now_s >= self._stays_until_s
        if now_s < self._exit_at_s and not is_alone:
            return False
        counts = self._queue.counts()
        if left := counts[State.PENDING] + counts[State.ASSIGNED]:
            self.why_left = self._why_not(has_pending=counts[State.PENDING] > 0)
            log.error("Stopping with %d tasks pending: %s", left, self.why_left)
        return True

    def _can_nothing_run(self, stuck: int) -> bool:
        is_held = not self._queue.can_run(stuck) and not self._kept.has_hope()
        is_idle = self._queue.counts()[State.ASSIGNED] == stuck
        return is_held or (is_idle and (self._registry.are_all_excluded() or bool(self._needs_unmet())))

    def _needs_unmet(self) -> str:
        """Return what none of the workers has, where no others will come."""
        is_final = self._has_all_workers and self._unmet.is_for_good
        return self._unmet.why if is_final else ""

    def _why_not(self, *, has_pending: bool) -> str:
        known = "; ".join(filter(None, [self._dispatcher.held_text(), self._needs_unmet()]))
        return known or (NO_IMPORT if has_pending else NO_END)
