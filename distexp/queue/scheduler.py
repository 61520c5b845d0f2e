"""Which pending task is lent next: the sweep in its order, retries to other workers, twins one at a time.

Opens `entry`, `grid`, `task`. It looks at states and changes none; that is for `task_queue`, which calls it
under its lock. Two tasks are twins when they ask for the same work: while one runs or is complete, the other
waits. Tasks wait by what they need of a device and by
phase, so that those that do not fit a worker, or its time, stand in nobody's way.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from distexp.queue.entry import Borrower, Entry
from distexp.sweep.grid import GridPoint, Planned, twins_among
from distexp.task import Need, State, Task

RETRY_LOOK = 16  # retries looked at per request and line: keeps lending at a constant cost


class Lines:
    """Keys of tasks of one need and phase; stale ones are dropped when met."""

    def __init__(self) -> None:
        self.fresh: deque[str] = deque()  # in the order of the sweep
        self.retry: deque[str] = deque()  # came back: lent before, withdrawn, twins, edited


class Waiting:
    """The pending tasks, in two lines for each need and phase.  Caller holds the lock."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        """Look into `entries`, by key, which grow and change meanwhile."""
        self._entries = entries
        self._lines: dict[tuple[Need, str], Lines] = {}  # the greatest need first, then phases as they joined
        self._twins: dict[str, list[str]] = {}  # key -> keys that ask for the same work, if there are several

    def join(self, tasks: Sequence[Planned]) -> None:
        """Put new tasks at the end of the sweep."""
        for kind, group in itertools.groupby(tasks, lambda t: t.grid if isinstance(t, GridPoint) else t):
            self._of(kind.need, kind.phase).fresh.extend([task.key for task in group])

    def come_back(self, key: str) -> None:
        """Put a task that is pending again, has been lent before or has another need, among the retries."""
        entry = self._entries[key]
        self._of(entry.need, entry.planned.phase).retry.append(key)

    def came_back(self) -> list[Entry]:
        """Return the pending tasks among the retries, by a walk: those lent before that wait for no twin."""
        keys = dict.fromkeys(itertools.chain.from_iterable(lines.retry for lines in self._lines.values()))
        return [entry for key in keys if (entry := self._entries[key]).state is State.PENDING]

    def _of(self, need: Need, phase: str) -> Lines:
        if (need, phase) not in self._lines:
            self._lines[need, phase] = Lines()
            in_order = sorted(self._lines, key=lambda each: each[0], reverse=True)
            self._lines = {each: self._lines[each] for each in in_order}
        return self._lines[need, phase]

    def sync(self, tasks: Sequence[Planned]) -> None:
        """Find the twins among the tasks of the sweep; those whose twin has left wait for nobody now."""
        for key in self._twins:
            self.come_back(key)
        self._twins = twins_among(tasks)

    def take(self, borrower: Borrower) -> Entry | None:
        """Take the next task for this borrower out of its line; None when none is free for it.

        The greatest need that it meets comes first: others can do the rest. Retries go first to workers
        other than the one that had them; when nothing else is left, to anyone.
        """
        met = [
            (need, lines)
            for (need, phase), lines in self._lines.items()
            if borrower.meets(need) and phase not in borrower.too_long
        ]

        def is_for_me(entry: Entry) -> bool:
            return entry.last_worker != borrower.worker and entry.fits(borrower)

        for need, group in itertools.groupby(met, lambda pair: pair[0]):
            some = [lines for _, lines in group]
            retries = (self._first(lines.retry, need, is_for_me) for lines in some)
            fresh = (self._first(lines.fresh, need) for lines in some)
            entry = next((entry for entry in itertools.chain(retries, fresh) if entry is not None), None)
            if entry is not None:
                return entry
        left = (self._first(lines.retry, need, lambda e: e.fits(borrower)) for need, lines in met)
        return next((entry for entry in left if entry is not None), None)

    def is_short_of_time(self, borrower: Borrower) -> bool:
        """Return whether a task waits that this borrower would be lent if it had the time."""
        for (need, phase), lines in self._lines.items():
            if phase in borrower.too_long and borrower.meets(need):
                if (entry := self._first(lines.fresh, need)) is not None:
                    lines.fresh.appendleft(entry.key)
                    return True
                if (entry := self._first(lines.retry, need, lambda e: e.fits(borrower))) is not None:
                    lines.retry.appendleft(entry.key)
                    return True
        return False

    def _first(
        self, line: deque[str], need: Need, accept: Callable[[Entry], bool] | None = None
    ) -> Entry | None:
        """Return the first that is accepted; without `accept`, the first that has never been lent."""
        looked = 0
        while line and looked < RETRY_LOOK:
            key = line.popleft()
            entry = self._entries[key]
            if entry.state is not State.PENDING or entry.need != need or self.waits_for_twin(entry):
                continue  # stale; it comes back to its line when it becomes eligible, or its need changes
            if accept is None and entry.attempts:
                continue  # stale; it stands among the retries
            if accept is None or accept(entry):
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
        """Return how many pending tasks of its need are looked at first, by a walk; for people."""
        some = [lines for (need, _), lines in self._lines.items() if need == entry.need]
        lines = [*(each.retry for each in some), *(each.fresh for each in some)]
        keys = dict.fromkeys(itertools.chain(*lines))  # a key may stand in two, or twice
        ahead = itertools.takewhile(entry.key.__ne__, keys)
        return sum(self._entries[key].state is State.PENDING for key in ahead)

    def wake_twins(self, entry: Entry) -> None:
        """Let the twins of a task that neither runs nor is complete be lent."""
        for twin in self._twins_of(entry):
            if twin.state is State.PENDING:
                self.come_back(twin.key)

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
