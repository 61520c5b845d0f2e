"""Many threads, one commit: whoever comes first commits for all that wait.

A commit (one fsync) costs the same for one item and for fifty, so items that arrive while a commit runs
go together into the next one.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from distexp.errors import DistexpError, JournalUnwritable

FEW = 4  # items of a commit that waits for company: of more, enough come together by themselves
MAX_VAIN = 6  # waits in vain; after the n-th in a row, the next 2^n commits do not wait

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """Items that are committed together; `GroupCommit.wait` takes it as a ticket."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.error: DistexpError | None = JournalUnwritable(
            "the commit was broken off; nothing is acknowledged"  # by a bug
        )
        self.is_led = False  # somebody commits it, or is about to
        self.is_full = False  # it need not wait for company
        self.arrival: threading.Event | None = None  # set once it is full, where its leader waits for that
        self._running = threading.Lock()  # held until it is over; a tenth of the cost of an Event
        self._running.acquire()

    def end(self) -> None:
        """Let go those who wait for its end."""
        self._running.release()

    def await_end(self, wait_s: float = -1.0) -> None:
        """Return once it is over, or so many seconds have passed; negative: however long that takes."""
        if self._running.acquire(timeout=wait_s):
            self._running.release()


class GroupCommit(Generic[Item]):
    """Commit items in the order in which they were added.  Safe from any thread."""

    def __init__(
        self,
        commit: Callable[[list[Item]], None],
        *,
        company_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Commit nothing yet.

        Args:
            commit: Called from one thread at a time; a DistexpError it raises reaches all who wait. It is
                also called for a wait with nothing new (no items), to finish what an earlier call left.
            company_s: A commit waits for those whose items were in the one before, since they may be back at
                once: two who take turns would else have a commit each, for ever. So many seconds at most,
                and no longer than the commit before has taken.
            clock: Seconds.
        """
        self._commit, self._company_s, self._clock = commit, company_s, clock
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._open: Batch[Item] = Batch()
        self._expected = 0  # items in the open batch, once those of the commit before are back
        self._waits_until_s = 0.0  # for them
        self._vain = 0  # waits for company, in a row
        self._alone = 0  # commits that will not wait

    def add(self, item: Item) -> Batch[Item]:
        """Queue `item` without waiting and return the batch that it will be committed with."""
        with self._lock:
            self._open.items.append(item)
            if len(self._open.items) >= self._expected:
                self._open.is_full = True
                if self._open.arrival is not None:
                    self._open.arrival.set()
            return self._open

    def wait(self, batch: Batch[Item] | None = None) -> None:
        """Return once `batch` (default: all that was added so far) is committed.

        Raises:
            DistexpError: What `commit` raised for this batch; its items are then forgotten.
        """
        with self._lock:
            batch = batch or self._open
        if self._company_s and not batch.is_full:
            batch.await_end(self._left_s())  # whoever comes last commits: it is awake
        with self._lock:
            leads, batch.is_led = not batch.is_led, True
        if leads:
            self._lead(batch)
        else:
            batch.await_end()
        if batch.error is not None:
            raise batch.error

    def _left_s(self) -> float:
        return max(0.0, self._waits_until_s - self._clock())

    def _lead(self, batch: Batch[Item]) -> None:
        try:
            with self._committing:
                if self._company_s:
                    self._await_company(batch)
                with self._lock:
                    self._open = Batch()  # `batch` was the open one: an older one is over by now
                began_s = self._clock()
                self._run(batch)
                self._expect(len(batch.items), self._clock() - began_s)
        finally:
            batch.end()

    def _await_company(self, batch: Batch[Item]) -> None:
        with self._lock:
            expected, is_full = self._expected, batch.is_full
            arrival = batch.arrival = None if is_full else threading.Event()
        if arrival is not None and not arrival.wait(self._left_s()):
            self._vain = min(self._vain + 1, MAX_VAIN)
            self._alone = 2**self._vain
        elif expected > 1:
            self._vain = 0

    def _run(self, batch: Batch[Item]) -> None:
        try:
            self._commit(batch.items)
            batch.error = None
        except DistexpError as error:
            batch.error = error

    def _expect(self, returning: int, took_s: float) -> None:
        """Let the next commit wait for as many items as this one had, beside those that are there."""
        with self._lock:
            there = len(self._open.items)
            self._expected = there + returning if not self._alone and there + returning <= FEW else 0
            self._alone = max(0, self._alone - 1)
            self._waits_until_s = self._clock() + min(self._company_s, took_s)
            self._open.is_full = there >= self._expected
