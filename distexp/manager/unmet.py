"""Says why workers that have nothing to do get none of the tasks that are left: they lack what those need."""

import logging
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from distexp.manager.explain import unmet_text
from distexp.manager.sweep_state import SweepState
from distexp.queue.entry import WorkerInfo
from distexp.task import Need

LOOK_S = 5.0  # between two looks, which may walk through the whole sweep
UNMET_S = 20.0  # for workers that are just starting
SHOWN = 3  # phases in a line of the log

log = logging.getLogger("distexp.manager")


class UnmetNeeds:
    """Whether all connected workers are idle, and no pending task is for one of them.  For one thread."""

    def __init__(self, sweep: SweepState, is_paused: Callable[[], bool]) -> None:
        """Know of nothing yet. While it `is_paused`, somebody may be changing what the sweep asks for."""
        self._is_paused = is_paused
        self._queue, self._registry = sweep.queue, sweep.registry
        self._next_look_s = 0.0
        self._found, self._since_s = "", 0.0
        self._kind = ""  # of what was found, however much memory is free just now
        self._told = set[str]()
        self.why = ""  # what is needed and what is there, once that has lasted
        self.is_for_good = False  # not for want of memory that others hold now

    def look(self, stuck: Set[str]) -> None:
        """See whether it is so, and say it once for each reason. To be called again and again.

        `stuck` are the ids of leases that cannot end: nobody works on those.
        """
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_S
        before, self._found = self._found, self._look(stuck)
        if not before:
            self._since_s = now_s
        self.why = self._found if now_s >= self._since_s + UNMET_S else ""
        if self.why and self._kind not in self._told:
            self._told.add(self._kind)
            log.warning("No worker that is connected can run what is left: %s", self.why)

    def _look(self, stuck: Set[str]) -> str:
        workers = [worker for worker, excluded in self._registry.available() if not excluded]
        is_busy = any(lease.lease_id not in stuck for lease in self._queue.leases())
        if not workers or is_busy or self._registry.is_listened_to(by_own_client=True) or self._is_paused():
            return ""  # one that listens waits for a GPU
        needs = self._queue.queries.unmet_needs(lambda need: any(each.meets(need) for each in workers))
        self.is_for_good = not any(_may_meet(each, need) for _, need in needs for each in workers)
        self._kind = _needs_text(needs, [replace(each, free_mib=0) for each in workers])
        return _needs_text(needs, workers)


def _needs_text(needs: Sequence[tuple[str, Need]], workers: Sequence[WorkerInfo]) -> str:
    told = [f"phase {phase} {unmet_text(need, workers)}" for phase, need in needs]
    return "; ".join([*told[:SHOWN], *(["..."] if len(told) > SHOWN else [])])


def _may_meet(worker: WorkerInfo, need: Need) -> bool:
    """Return whether a worker would do if nobody else held memory of its GPUs."""
    return need.is_met_by(worker.gpus, worker.memory_mib, worker.device)
