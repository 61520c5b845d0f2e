"""Questions about many tasks of the queue, which change nothing."""

import random
import threading
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from distexp.queue.counts import StateCounts
from distexp.queue.entry import Entry, WorkerInfo
from distexp.queue.scheduler import Scheduler
from distexp.sweep.grid import Planned
from distexp.task import Need, State, Task


class Queries:
    """Looks through the entries of a queue, under its lock.  Safe from any thread."""

    def __init__(
        self, lock: threading.RLock, entries: Mapping[str, Entry], scheduler: Scheduler, counts: StateCounts
    ) -> None:
        """Look into what belongs to the queue, and changes meanwhile."""
        self._lock, self._entries, self._scheduler, self._counts = lock, entries, scheduler, counts

    def counts_by_phase(self) -> Mapping[str, Mapping[State, int]]:
        """Return the number of tasks in each state, by phase."""
        with self._lock:
            return self._counts.by_phase()

    def phases_left(self) -> set[str]:
        """Return the phases of which a task is pending, assigned or to come."""
        with self._lock:
            return self._counts.left()

    def page(
        self,
        accept: Callable[[Entry], bool] | None,
        offset: int,
        limit: int,
        *,
        order: Callable[[Entry], Any] | None = None,
        is_descending: bool = False,
    ) -> tuple[list[Entry], int]:
        """Return copies of the entries accepted (None: all), `limit` from the `offset`th; of how many.

        They come by `order`, else in the order of the sweep.

        The sweep goes on while it looks: a task may have moved since it was accepted.
        """
        with self._lock:
            found = list(self._entries.values())
        if accept is not None:
            found = [entry for entry in found if accept(entry)]
        if order is not None:
            found.sort(key=order, reverse=is_descending)
        elif is_descending:
            found.reverse()
        with self._lock:
            return [entry.copy() for entry in found[offset : offset + limit]], len(found)

    def place(self, key: str) -> tuple[Entry | None, int]:
        """Return the duplicate, running or complete, that a task waits for; how many are before it."""
        with self._lock:
            entry = self._entries[key]
            duplicate = self._scheduler.duplicate_ahead(entry)
            return duplicate and duplicate.copy(), self._scheduler.before(entry)

    def is_short_of_time(self, worker: WorkerInfo) -> bool:
        """Return whether a task waits that this worker would be assigned if it had the time."""
        with self._lock:
            return self._scheduler.is_short_of_time(worker)

    def is_short_of_memory(self, worker: WorkerInfo) -> bool:
        """Return whether a task waits that this worker could be assigned if more of its GPUs were free."""
        with self._lock:
            return self._scheduler.is_short_of_memory(worker)

    def may_have_work(self, worker: WorkerInfo) -> bool:
        """Return whether a task is left, or to come, that the worker's version knows, by a walk."""
        if worker.earlier is None:
            return True
        with self._lock:
            entries, left = list(self._entries.values()), self._counts.left()
        if left - worker.earlier.lacks.keys():
            return True
        unended = (each for each in entries if each.state in (State.PENDING, State.ASSIGNED))
        return any(worker.earlier.can_run(each.planned) for each in unended)

    def unmet_needs(self, is_met: Callable[[Need], bool]) -> list[tuple[str, Need]]:
        """Return phase and need of the tasks that could run on other workers.

        There is none while a need is met, or a search is about to bring tasks.
        """
        with self._lock:
            return self._scheduler.unmet_needs(is_met, self._counts.coming())

    def sample(self, limit: int, without: Container[str] = ()) -> list[Task]:
        """Return at most `limit` tasks, picked at random among the pending ones but `without` these phases.

        It walks through the whole sweep. Not every so-manyth: the axes of a sweep repeat, too.
        """
        with self._lock:
            left = [entry for entry in self._entries.values() if entry.state is State.PENDING]
        if without:
            left = [entry for entry in left if entry.planned.phase not in without]
        return [entry.task for entry in (left if len(left) <= limit else random.sample(left, limit))]

    def fresh(self, keys: Iterable[str]) -> list[str]:
        """Return those of these tasks that are pending, wait for no duplicate, and were never assigned."""
        with self._lock:
            entries = [self._entries[key] for key in keys if key in self._entries]
            fresh = [each for each in entries if each.state is State.PENDING and not each.attempts]
            return [each.key for each in fresh if not self._scheduler.waits_for_duplicate(each)]

    def progress(self, keys: Iterable[str]) -> list[tuple[State, int]]:
        """Return the state of each of these tasks, and how many attempts there were."""
        with self._lock:
            entries = [self._entries[key] for key in keys]
            return [(each.state, each.attempts) for each in entries]

    def pending_among(self, tasks: Iterable[Task]) -> list[Task]:
        """Return those of the tasks that are pending now."""
        with self._lock:
            return [t for t in tasks if (e := self._entries.get(t.key)) and e.state is State.PENDING]

    def duplicate_copies(self) -> list[tuple[Planned, Planned]]:
        """Return (complete task, pending duplicate) pairs: the latter's row may be a copy of the other's."""
        with self._lock:
            return self._scheduler.duplicate_copies()
