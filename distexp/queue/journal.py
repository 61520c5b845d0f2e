"""What must survive the manager: attempts, failures and live leases, in SQLite.

CSV rows win over the journal: it never says that a task is complete, only what happened on the way.
One table, one JSON record a task, the last record wins. The file belongs to one process at a time.
"""

import sqlite3
import uuid
from contextlib import suppress
from pathlib import Path

import msgspec

from distexp.errors import JournalUnwritable
from distexp.system.group_commit import GroupCommit
from distexp.task import TaskRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""
_BUSY_S = 1.0  # the folder has one manager: who else reads the file is soon done, or stays
_REMEDY = "end the process that uses it, or move the file away to start without attempts and leases"
_UPSERT = "INSERT INTO tasks VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET record = excluded.record"


class Journal:
    """The journal of one folder.  Safe from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal.

        Raises:
            JournalUnwritable: The file is locked by another process, damaged, or on a full disk.
        """
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._commits: GroupCommit[TaskRecord] = GroupCommit(self._commit)
        self._unwritten: dict[str, TaskRecord] = {}  # what a failed commit left; bounded by the tasks
        try:
            self._database = sqlite3.connect(
                path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
        except sqlite3.Error as error:
            raise JournalUnwritable(f"{path}: {error}; {_REMEDY}") from None
        try:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # before WAL: then no shared-memory file
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")  # a lease survives a power cut, too
            self._database.executescript(_SCHEMA)
            self._database.execute("INSERT OR IGNORE INTO about VALUES ('sweep_id', ?)", (uuid.uuid4().hex,))
            row = self._database.execute("SELECT value FROM about WHERE name = 'sweep_id'").fetchone()
        except sqlite3.Error as error:
            self._database.close()
            raise JournalUnwritable(f"{path}: {error}; {_REMEDY}") from None
        self.sweep_id: str = row[0]

    def load(self) -> list[TaskRecord]:
        """Return the last record of every task ever recorded; unreadable ones are left out.

        Raises:
            JournalUnwritable: The file is damaged.
        """
        decoder = msgspec.json.Decoder(TaskRecord)
        records = []
        try:
            blobs = self._database.execute("SELECT record FROM tasks").fetchall()
        except sqlite3.Error as error:
            raise JournalUnwritable(f"{self._path}: {error}; {_REMEDY}") from None
        for (blob,) in blobs:
            try:
                records.append(decoder.decode(blob))
            except msgspec.MsgspecError:
                continue  # of a later version; the task is then merely new
        return records

    def record(self, record: TaskRecord) -> None:
        """Queue a record; returns at once. `flush` makes it durable."""
        self._commits.add(record)

    def flush(self) -> None:
        """Return once everything recorded so far is on disk.

        Raises:
            JournalUnwritable: It is not; the records stay queued for the next flush.
        """
        self._commits.wait()

    def _commit(self, records: list[TaskRecord]) -> None:
        self._unwritten.update((record.key, record) for record in records)
        if not self._unwritten:
            return
        rows = [(key, self._encoder.encode(record)) for key, record in self._unwritten.items()]
        try:
            self._database.execute("BEGIN")
            self._database.executemany(_UPSERT, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.ProgrammingError):  # it is closed: the manager stops while it answers
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            raise JournalUnwritable(f"{self._path}: {error}; the records are kept and tried again") from None
        self._unwritten.clear()

    def close(self) -> None:
        """Write what is queued and close the file."""
        try:
            self.flush()
        finally:
            self._database.close()
