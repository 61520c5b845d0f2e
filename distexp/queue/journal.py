"""What must survive the manager: attempts, failures and live leases, in SQLite.

CSV rows win over the journal: it never says that a task is complete, only what happened on the way. So the
record of a task goes when its row has come, and the file stays as large as what is under way, or has failed.
One JSON record a task, a phase whose priority somebody chose, or whose memory was measured, a configuration
that a search has chosen, a pause, a worker that is drained; the last record wins. The file belongs to one
process at a time.
"""

import errno
import itertools
import logging
import os
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from distexp.errors import JournalUnwritable
from distexp.queue.records import (
    DrainRecord,
    PauseRecord,
    PeakRecord,
    PhaseRecord,
    SuggestionRecord,
    TaskRecord,
)
from distexp.system.files import private
from distexp.system.group_commit import GroupCommit

_BUSY_S = 1.0  # the folder has one manager: who else reads the file is soon done, or stays
_REMEDIES = {  # by how SQLite calls the error
    ("SQLITE_BUSY", "SQLITE_LOCKED"): "end the process that uses it",
    ("SQLITE_FULL", "SQLITE_IOERR"): "make room on its disk, or see why that cannot be written",
    ("SQLITE_CANTOPEN", "SQLITE_READONLY"): "see that its folder is there and that you may write to it",
}
_DAMAGED = "move the file away to start without attempts and leases"
Record = TaskRecord | PhaseRecord | SuggestionRecord | PeakRecord | PauseRecord | DrainRecord
_Record = TypeVar("_Record", TaskRecord, PhaseRecord, SuggestionRecord, PeakRecord, PauseRecord, DrainRecord)
_TABLES: dict[type[Record], str] = {
    TaskRecord: "tasks",
    PhaseRecord: "phases",
    SuggestionRecord: "suggestions",
    PeakRecord: "peaks",
    PauseRecord: "pauses",
    DrainRecord: "drains",
}
FREE_PAGES = 1000  # of 4 KiB: more than these, unused, are given back when the journal is closed
_log = logging.getLogger(__name__)
_CREATE_ABOUT = "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
_CREATE = "CREATE TABLE IF NOT EXISTS {} (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"
_DELETE = "DELETE FROM {} WHERE key = ?"
_UPSERT = "INSERT INTO {} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET record = excluded.record"


class Journal:
    """The journal of one folder.  Safe from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal.

        Raises:
            JournalUnwritable: The file is locked by another process, damaged, or on a full disk.
        """
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._commits: GroupCommit[Record] = GroupCommit(self._commit)
        self._unwritten: dict[tuple[str, str], Record] = {}  # what a failed commit left; bounded by the tasks
        self._is_failing = False
        try:
            for each in (path, path.with_name(f"{path.name}-wal")):
                if each == path or os.path.exists(each):
                    os.close(private(each, os.O_RDWR | os.O_CREAT))  # SQLite makes files that others can lock
            self._database = sqlite3.connect(
                path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from None
        try:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # before WAL: then no shared-memory file
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")  # a lease survives a power cut, too
            self._database.execute("PRAGMA fullfsync=ON")  # on macOS as well, where fsync alone is not enough
            for statement in (_CREATE_ABOUT, *map(_CREATE.format, _TABLES.values())):
                self._database.execute(statement)
            self._database.execute("INSERT OR IGNORE INTO about VALUES ('sweep_id', ?)", (uuid.uuid4().hex,))
            row = self._database.execute("SELECT value FROM about WHERE name = 'sweep_id'").fetchone()
        except sqlite3.Error as error:
            self._database.close()
            raise _unusable(path, error) from None
        self.sweep_id: str = row[0]

    def load(self, kind: type[_Record]) -> list[_Record]:
        """Return the last record of this kind of each task, phase, ... that is not settled.

        Unreadable ones are left out.

        Raises:
            JournalUnwritable: The file is damaged.
        """
        decoder = msgspec.json.Decoder(kind)
        records = []
        try:
            blobs = self._database.execute(f"SELECT record FROM {_TABLES[kind]}").fetchall()
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from None
        for (blob,) in blobs:
            try:
                records.append(decoder.decode(blob))
            except msgspec.MsgspecError:
                continue  # of a later version; the task is then merely new
        return records

    def record(self, record: Record) -> None:
        """Queue a record; returns at once. `flush` makes it durable."""
        self._commits.add(record)

    def flush(self) -> None:
        """Return once everything recorded so far is on disk.

        The log says once that it cannot be written, and once that it can again.

        Raises:
            JournalUnwritable: It is not; the records stay queued for the next flush.
        """
        self._commits.wait()

    def _commit(self, records: Sequence[Record]) -> None:
        for record in records:
            self._unwritten[_TABLES[type(record)], record.key] = record
        if not self._unwritten:
            return
        by_table = sorted(self._unwritten.items(), key=lambda each: each[0][0])
        try:
            self._database.execute("BEGIN")
            for table, found in itertools.groupby(by_table, lambda each: each[0][0]):
                kept, settled = list[tuple[str, bytes]](), list[tuple[str]]()
                for (_, key), record in found:
                    if record.is_settled:
                        settled.append((key,))
                    else:
                        kept.append((key, self._encoder.encode(record)))
                self._database.executemany(_UPSERT.format(table), kept)
                self._database.executemany(_DELETE.format(table), settled)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.ProgrammingError):  # it is closed: the manager stops while it answers
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            message = f"{self._path}: {error}; the records are kept and tried again"
            if not self._is_failing:
                _log.warning("%s; no task is assigned until they are written", message)
            self._is_failing = True
            raise JournalUnwritable(message) from None
        self._unwritten.clear()
        if self._is_failing:
            _log.info("%s: can be written again", self._path)
        self._is_failing = False

    def close(self) -> None:
        """Write what is queued and close the file, as small as it can be."""
        try:
            self.flush()
            with suppress(sqlite3.Error):  # a full disk: it stays as large as it is
                if self._database.execute("PRAGMA freelist_count").fetchone()[0] > FREE_PAGES:
                    self._database.execute("VACUUM")
        finally:
            self._database.close()


def _unusable(path: Path, error: sqlite3.Error | OSError) -> JournalUnwritable:
    """Return what to say of a journal that cannot be opened or read, and what to do."""
    if isinstance(error, OSError):
        name = "SQLITE_FULL" if error.errno == errno.ENOSPC else "SQLITE_CANTOPEN"
        why = error.strerror or str(error)
    else:
        name, why = getattr(error, "sqlite_errorname", ""), str(error)
    remedy = next((text for names, text in _REMEDIES.items() if name.startswith(names)), _DAMAGED)
    return JournalUnwritable(f"{path}: {why}; {remedy}")
