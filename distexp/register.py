"""Every task that a queue knows, to look at: states, labels, leases; no I/O. Opens `entry`, `waiting`.

Nothing here changes a state: that is for `task_queue`, under the same lock.
"""

import threading
from collections import Counter
from collections.abc import Callable

from distexp.entry import Entry, Lease, State
from distexp.errors import UnknownTask
from distexp.task import Task
from distexp.waiting import Waiting


class Register:
    """What is known of every task of the sweep.  Safe from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Read time (seconds, monotonic) from `clock`."""
        self._clock = clock
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._waiting = Waiting(self._entries)
        self._leases: dict[str, str] = {}  # live lease id -> key
        self._labels: dict[str, str] = {}  # task id -> key; made when first asked for
        self._counts: Counter[State] = Counter()

    def twin_copies(self) -> list[tuple[Task, Task]]:
        """Return (complete task, pending twin) pairs: the twin's row is a copy of the other's."""
        with self._lock:
            return self._waiting.twin_copies()

    def counts(self) -> dict[State, int]:
        """Return the number of tasks in each state."""
        with self._lock:
            return {state: self._counts[state] for state in State}

    def entry(self, key: str) -> Entry:
        """Return a copy of the entry.

        Raises:
            UnknownTask: No task has this key.
        """
        with self._lock:
            return self._entry(key).copy()

    def key_of(self, task_id: str) -> str:
        """Return the key of the task that has this label now.

        Raises:
            UnknownTask: None has.
        """
        with self._lock:
            if not self._labels:
                wanted = (entry for entry in self._entries.values() if entry.is_wanted)
                self._labels = {entry.planned.task_id: entry.key for entry in wanted}
            if task_id not in self._labels:
                raise UnknownTask(
                    f"task {task_id!r}: not in this sweep, expected a task id such as exp1_width_0_42"
                )
            return self._labels[task_id]

    def entries(self, state: State | None = None) -> list[Entry]:
        """Return copies of all entries, or of those in one state, in the order of the sweep."""
        with self._lock:
            return [entry.copy() for entry in self._entries.values() if state in (None, entry.state)]

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

    def _entry(self, key: str) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise UnknownTask(f"task {key}: not in this sweep; `status` and `tasks` list what is")
        return entry
