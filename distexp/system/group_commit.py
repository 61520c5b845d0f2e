"""Many threads, one commit: whoever comes first commits for all that wait.

A commit (one fsync) costs the same for one item and for fifty, so items that arrive while a commit runs
go together into the next one.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from distexp.errors import DistexpError, JournalUnwritable

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """Items that are committed together; `GroupCommit.wait` takes it as a ticket."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.is_over = False
        self.error: DistexpError | None = None


class GroupCommit(Generic[Item]):
    """Commit items in the order in which they were added.  Safe from any thread."""

    def __init__(self, commit: Callable[[list[Item]], None]) -> None:
        """Call `commit(items)` from one thread at a time; a DistexpError it raises reaches all who wait.

        It is also called for a wait with nothing new (no items), to finish what an earlier call left.
        """
        self._commit = commit
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._open: Batch[Item] = Batch()

    def add(self, item: Item) -> Batch[Item]:
        """Queue `item` without waiting and return the batch that it will be committed with."""
        with self._lock:
            self._open.items.append(item)
            return self._open

    def wait(self, batch: Batch[Item] | None = None) -> None:
        """Return once `batch` (default: all that was added so far) is committed.

        Raises:
            DistexpError: What `commit` raised for this batch; its items are then forgotten.
        """
        with self._lock:
            batch = batch or self._open
        with self._committing:
            if not batch.is_over:
                with self._lock:
                    self._open = Batch()  # `batch` was the open one: an older one is over by now
                self._run(batch)
        if batch.error is not None:
            raise batch.error

    def _run(self, batch: Batch[Item]) -> None:
        batch.error = JournalUnwritable("the commit was broken off; nothing is acknowledged")  # by a bug
        try:
            self._commit(batch.items)
            batch.error = None
        except DistexpError as error:
            batch.error = error
        finally:
            batch.is_over = True
