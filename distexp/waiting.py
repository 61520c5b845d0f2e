"""Which pending task is lent next: the sweep in its order, retries to other workers, twins one at a time.

Opens `entry`, `grid`, `task`. It looks at states and changes none; that is for `task_queue`, which calls it
under its lock. Two tasks are twins when they ask for the same work: while one runs or is complete, the other
waits.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from distexp.entry import Borrower, Entry, State
from distexp.grid import Planned, twins_among
from distexp.task import Task

TIME_LOOK = 1000  # tasks passed over, for one request, that take longer than a worker has: some 10 ms
RETRY_LOOK = 16  # retries looked at per request: keeps lending at a constant cost


class Waiting:
    """The pending tasks, in two lines.  Caller holds the lock."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        """Look into `entries`, by key, which grow and change meanwhile."""
        self._entries = entries
        self._fresh: deque[str] = deque()  # keys in the order of the sweep; stale ones are dropped when met
        self._retry: deque[str] = deque()  # keys that came back: lent before, withdrawn, twins; some stale
        self._twins: dict[str, list[str]] = {}  # key -> keys that ask for the same work, if there are several

    def join(self, keys: Iterable[str]) -> None:
        """Put new tasks at the end of the sweep."""
        self._fresh.extend(keys)

    def come_back(self, key: str) -> None:
        """Put a task that is pending again, or has been lent before, among the retries."""
        self._retry.append(key)

    def sync(self, tasks: Sequence[Planned]) -> None:
        """Find the twins among the tasks of the sweep; those whose twin has left wait for nobody now."""
        self._retry += self._twins
        self._twins = twins_among(tasks)

    def take(self, borrower: Borrower) -> Entry | None:
        """Take the next task for this borrower out of its line; None when none is free for it."""
        passed: list[Entry] = []
        found = self._take(borrower)
        while found is not None and found.planned.phase in borrower.too_long:
            passed.append(found)
            found = self._take(borrower) if len(passed) < TIME_LOOK else None
        for entry in reversed(passed):
            (self._retry if entry.attempts else self._fresh).appendleft(entry.key)
        return found

    def _take(self, borrower: Borrower) -> Entry | None:
        """Take the next task whose device this borrower has.

        Retries go first to workers other than the one that had them; when nothing else is left, to anyone.
        """
        return (
            self._first(self._retry, lambda e: e.last_worker != borrower.worker and e.fits(borrower))
            or self._first(self._fresh, lambda e: True)
            or self._first(self._retry, lambda e: e.fits(borrower))
        )

    def _first(self, line: deque[str], accept: Callable[[Entry], bool]) -> Entry | None:
        looked = 0
        while line and looked < RETRY_LOOK:
            key = line.popleft()
            entry = self._entries[key]
            if entry.state is not State.PENDING or self.waits_for_twin(entry):
                continue  # stale; a twin comes back to the line when it becomes eligible
            if line is self._fresh and entry.attempts:
                continue  # stale; it stands among the retries
            if accept(entry):
                return entry
            looked += 1
            line.append(key)
        return None

    def waits_for_twin(self, entry: Entry) -> bool:
        """Return whether a twin runs or is complete."""
        return self.twin_ahead(entry) is not None

    def twin_ahead(self, entry: Entry) -> Entry | None:
        """Return the twin that runs or is complete."""
        twins = self._twins_of(entry)
        return next((twin for twin in twins if twin.state in (State.ASSIGNED, State.COMPLETE)), None)

    def before(self, entry: Entry) -> int:
        """Return how many pending tasks are looked at first, by a walk through the lines; for people."""
        keys = dict.fromkeys([*self._retry, *self._fresh])  # a key may stand in both, or twice
        ahead = itertools.takewhile(entry.key.__ne__, keys)
        return sum(self._entries[key].state is State.PENDING for key in ahead)

    def wake_twins(self, entry: Entry) -> None:
        """Let the twins of a task that neither runs nor is complete be lent."""
        for twin in self._twins_of(entry):
            if twin.state is State.PENDING:
                self._retry.append(twin.key)

    def _twins_of(self, entry: Entry) -> Iterator[Entry]:
        keys = self._twins.get(entry.key, ())
        return (self._entries[key] for key in keys if key != entry.key)

    def twin_copies(self) -> list[tuple[Task, Task]]:
        """Return (complete task, pending twin) pairs: the twin's row is a copy of the other's."""
        pairs = []
        for keys in {id(keys): keys for keys in self._twins.values()}.values():
            twins = [self._entries[key] for key in keys]
            done = next((entry.task for entry in twins if entry.state is State.COMPLETE), None)
            if done is not None:
                pairs += [(done, entry.task) for entry in twins if entry.state is State.PENDING]
        return pairs
