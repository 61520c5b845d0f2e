"""Keeps rows whose file cannot be written now, so that their workers go on, and writes them once it can."""

import logging
import threading
import time
from collections.abc import Callable, KeysView, Mapping
from pathlib import Path

import msgspec

from distexp.errors import ResultsUnwritable
from distexp.results.spool import Spool
from distexp.results.store import ResultsStore
from distexp.task import Task

PATIENCE_S = 60.0  # for somebody to close a spreadsheet; then a sweep may end without the row

log = logging.getLogger("distexp.manager")


class KeptRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that waits for its file."""

    task: Task
    row: dict[str, str]
    worker: str  # who has computed it


class KeptRows:
    """The rows that wait, each in a file that a restarted manager finds.  Safe from any thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Take up what an earlier manager has kept in `folder`."""
        self._spool, self._clock = Spool(folder), clock
        self._lock = threading.Lock()
        self._rows: dict[str, KeptRow] = {}  # by key of the task
        self._since_s: dict[str, float] = {}
        for name, payload in self._spool.items():
            try:
                self._take(msgspec.json.decode(payload, type=KeptRow))
            except msgspec.MsgspecError as error:
                log.warning("Kept row %s: not of this version (%s); left alone", name, error)

    def _take(self, kept: KeptRow) -> None:
        self._rows[kept.task.key] = kept
        self._since_s.setdefault(kept.task.key, self._clock())

    @property
    def keys(self) -> KeysView[str]:
        """The keys of tasks that have run and wait for their row alone; it follows what comes and goes."""
        return self._rows.keys()

    def keep(self, task: Task, row: Mapping[str, str], worker: str) -> None:
        """Keep a row, on disk.

        Raises:
            ResultsUnwritable: It was not kept: that disk is full, too, or cannot be written.
        """
        kept = KeptRow(task=task, row=dict(row), worker=worker)
        with self._lock:
            self._spool.put(task.key, msgspec.json.encode(kept))
            self._take(kept)

    def has_hope(self) -> bool:
        """Return whether a row has waited for less than `PATIENCE_S`: its file may soon be free."""
        with self._lock:
            return any(self._clock() - since_s < PATIENCE_S for since_s in self._since_s.values())

    def write(self, store: ResultsStore, about_to_write: Callable[[KeptRow], None]) -> None:
        """Write the rows whose files can be written now; a task that has its row by now gets no second."""
        with self._lock:
            waiting = list(self._rows.values())
        unwritable = {*store.problems()} if waiting else set()
        for kept in waiting:
            if kept.task.output_dir in unwritable:
                continue
            about_to_write(kept)
            try:
                store.append([(kept.task, kept.row)])
            except ResultsUnwritable:
                unwritable.add(kept.task.output_dir)  # waiting for its lock once is enough
                continue
            with self._lock:
                self._spool.remove(kept.task.key)
                del self._rows[kept.task.key], self._since_s[kept.task.key]
