"""Every task that a queue knows, to look at; no I/O.

Nothing here changes a state: that is for `task_queue`, under the same lock.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Set

from distexp.errors import UnknownTask
from distexp.queue.entry import Entry, Lease, WorkerInfo
from distexp.queue.lookup import Labels
from distexp.queue.scheduler import Scheduler
from distexp.task import State, Task


class Register:
    """What is known of every task of the sweep.  Safe from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Read time (seconds, monotonic) from `clock`."""
        self._clock = clock
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._scheduler = Scheduler(self._entries)
        self._leases: dict[str, str] = {}  # live lease id -> key
        self._labels: Labels | None = None  # of the sweep; made when first asked for
        self._counts: Counter[State] = Counter()
        self._failed_ever = 0

    def duplicate_copies(self) -> list[tuple[Task, Task]]:
        """Return (complete task, pending duplicate) pairs: the duplicate's row is a copy of the other's."""
        with self._lock:
            return self._scheduler.duplicate_copies()

    def now_s(self) -> float:
        """Return the time on the queue's clock, by which leases are counted."""
        return self._clock()

    def counts(self) -> dict[State, int]:
        """Return the number of tasks in each state."""
        with self._lock:
            return {state: self._counts[state] for state in State}

    def failed_ever(self) -> int:
        """Return how often a task has become failed: unlike the number of failed ones, it never falls."""
        with self._lock:
            return self._failed_ever

    def entry(self, key: str) -> Entry:
        """Return a copy of the entry.

        Raises:
            UnknownTask: No task has this key.
        """
        with self._lock:
            return self._entry(key).copy()

    def knows(self, key: str) -> bool:
        """Return whether a task has this key."""
        with self._lock:
            return key in self._entries

    def key_of(self, task_id: str) -> str:
        """Return the key of the task that has this label now.

        Raises:
            UnknownTask: None has.
        """
        with self._lock:
            if self._labels is None:
                self._labels = Labels([each.planned for each in self._entries.values() if each.is_wanted])
            key = self._labels.key_of(task_id)
            if key is None:
                raise UnknownTask(
                    f"task {task_id!r}: not in this sweep, expected a task id such as exp1_width_0_42"
                )
            return key

    def entries(self, state: State | None = None) -> list[Entry]:
        """Return copies of all entries, or of those in one state, in the order of the sweep."""
        with self._lock:
            return [entry.copy() for entry in self._entries.values() if state in (None, entry.state)]

    def page(self, accept: Callable[[Entry], bool], offset: int, limit: int) -> tuple[list[Entry], int]:
        """Return copies of the accepted entries from the `offset`th on, at most `limit`, and of how many.

        The sweep goes on while it looks: a task may have moved since it was accepted.
        """
        with self._lock:
            entries = list(self._entries.values())
        found = [entry for entry in entries if accept(entry)]
        with self._lock:
            return [entry.copy() for entry in found[offset : offset + limit]], len(found)

    def place(self, key: str) -> tuple[Entry | None, int]:
        """Return what a pending task waits for: a duplicate that runs or is complete, and how many before it.

        Raises:
            UnknownTask: No task has this key.
        """
        with self._lock:
            entry = self._entry(key)
            duplicate = self._scheduler.duplicate_ahead(entry)
            return duplicate and duplicate.copy(), self._scheduler.before(entry)

    def is_short_of_time(self, worker: WorkerInfo) -> bool:
        """Return whether a task waits that this worker would be assigned if it had the time."""
        with self._lock:
            return self._scheduler.is_short_of_time(worker)

    def sample(self, limit: int) -> list[Task]:
        """Return at most `limit` tasks, picked at random among the pending ones.

        It walks through the whole sweep. Not every so-manyth: the axes of a sweep repeat, too.
        """
        with self._lock:
            left = [entry for entry in self._entries.values() if entry.state is State.PENDING]
        return [entry.task for entry in (left if len(left) <= limit else random.sample(left, limit))]

    def pending_among(self, tasks: Iterable[Task]) -> list[Task]:
        """Return those of the tasks that are pending now."""
        with self._lock:
            found = ((task, self._entries.get(task.key)) for task in tasks)
            return [task for task, entry in found if entry is not None and entry.state is State.PENDING]

    def is_over(self) -> bool:
        """Return whether every task of the sweep is complete, failed or cancelled."""
        with self._lock:
            return not self._counts[State.PENDING] and not self._counts[State.ASSIGNED]

    def overdue(self) -> list[Lease]:
        """Return the leases whose time is up; `lose` ends them, once their results file has been read."""
        with self._lock:
            return [lease for lease in self.leases() if lease.until_s <= self._clock()]

    def leases(self) -> list[Lease]:
        """Return the live leases."""
        with self._lock:
            found = (self._entries[key].lease for key in self._leases.values())
            return [lease for lease in found if lease is not None]

    def is_live(self, lease: Lease) -> bool:
        """Return whether the lease has not ended."""
        with self._lock:
            return lease.lease_id in self._leases

    def _known(self, keys: Set[str]) -> list[Entry]:
        """Return the entries of those keys that there are.  Caller holds the lock."""
        if len(keys) > len(self._entries) / 8:  # memory is read much faster in its order
            return [entry for key, entry in self._entries.items() if key in keys]
        return [self._entries[key] for key in keys if key in self._entries]

    def _entry(self, key: str) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise UnknownTask(f"task {key}: not in this sweep; `status` and `tasks` list what is")
        return entry
