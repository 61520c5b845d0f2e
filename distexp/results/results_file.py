"""One `final_results.csv`: reads what it holds, and appends rows under a lock, durably.

The file belongs to its user: other programs write it too, with other columns; editors rewrite it; kills and
full disks tear it. So whatever stands in it is read or named in a warning, and nothing is thrown away.
Writers agree by a kernel lock on a file beside it.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from distexp.errors import ResultsUnwritable
from distexp.results.csv_format import Dialect, Header, lengthened, line_of, read_header, whole_file
from distexp.results.left_out import keep_left_out
from distexp.results.matching import TaskIndex, first_places
from distexp.results.problems import Problem
from distexp.results.reader import OnRead, OnRow, Reader, Scan
from distexp.results.row import STOPPED_AT
from distexp.system import locks
from distexp.system.files import regular, sync, sync_folder
from distexp.system.network_drives import lock_of
from distexp.task import Bookmark, Task

__all__ = ["RESULTS_FILE", "Appended", "ResultsFile", "Scan"]

RESULTS_FILE = "final_results.csv"
LOCK_TIMEOUT_S = 10.0  # a holder writes some rows, or copies the file once: longer means that it hangs
READING = "Reading the results"  # as people are told while it lasts
TORN_SUFFIX = ".torn"
LAST_COLUMN = "duration_s"
UNFINISHED_S = 0.2  # for a program without our lock to end the line it is at: a buffer is flushed in one go

MAX_COLUMNS = 2000  # of a file: what a spreadsheet or a table still shows
MAX_HEADER_BYTES = 1 << 20  # every reader takes the header whole

Row = Mapping[str, str]  # cell by column

_log = logging.getLogger(__name__)

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What an append did."""

    written: frozenset[str]  # keys; a task that is not among them has its row already
    scan: Scan  # of what was new, by anyone; every task that was handed in is complete in it


class ResultsFile:
    """One `final_results.csv`, read as it grows and appended to, at most one row per task.

    Caller holds a lock; one instance is not for two threads. Any number of processes may have one each.
    """

    def __init__(
        self,
        root: Path,
        folder: str,
        index: TaskIndex,
        bookmark: Bookmark | None = None,
        *,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        on_read: OnRead | None = None,
        warns: bool = True,
    ) -> None:
        """Look at the file of `folder`, the `output_dir` of some tasks, below the working folder `root`.

        For `on_read` and `warns` see `Reader`.
        """
        self.path = root / folder / RESULTS_FILE
        self._root, self._index, self._folder, self._on_read = root, index, folder, on_read
        self._reader = Reader(self.path, index, folder, bookmark, on_read=on_read, warns=warns)
        self._lock, self._lock_timeout_s = lock_of(self.path), lock_timeout_s

    @property
    def bookmark(self) -> Bookmark | None:
        """How far this reader has read, for another one to go on from; None before it met a header."""
        return self._reader.bookmark

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in its header, as of the last look."""
        return self._reader.header.columns if self._reader.header else ()

    @property
    def unusable(self) -> str:
        """Why nothing can be written to it, as of the last look; empty where something can."""
        return self._reader.unusable

    @property
    def strays(self) -> int:
        """How many rows of no task were ever met that a search may take up; never less than before."""
        return self._reader.strays

    def is_pruned(self, row: Sequence[str]) -> bool:
        """Return whether a row, as the last look met it, says that its task was stopped early."""
        return self._reader.is_pruned(row)

    def is_writable(self) -> bool:
        """Return whether the lock is free and the file lets us read and write now, or its folder write."""
        try:
            with locks.acquire(self._lock):
                target = os.path.realpath(self.path)  # the lock lies beside a link, not beside its target
                if os.path.exists(target):
                    os.close(regular(target, os.O_RDWR | os.O_APPEND))
                    return not self.unusable
                return os.access(os.path.dirname(target), os.W_OK)
        except (OSError, TimeoutError):
            return False

    def reset(self) -> None:
        """Let the next scan read everything again: the set of tasks has changed."""
        self._reader.reset()

    def scan(self) -> Scan:
        """Return what is new; when nothing is, without opening the file. No content makes it raise.

        A torn last line that has not changed since the scan before is moved to `final_results.csv.torn`.
        """
        try:
            return self.look()
        except ResultsUnwritable as error:
            return self._warning(str(error))

    def look(self) -> Scan:
        """Return what `scan` does, for a caller who has to know that nothing else is there.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        try:
            return Scan() if self._reader.unchanged() else self._look()
        except OSError as error:
            why = f"{self.path}: cannot be read now ({error.strerror})"
            if isinstance(error, NotADirectoryError):  # so there is no file
                return self._warning(why)
            raise ResultsUnwritable(why) from error

    def _warning(self, why: str) -> Scan:
        text = f"{why}; the next scan tries again"
        return Scan(warnings=(text,) if self._reader.is_new(text) else ())

    def read_again(self) -> Scan:
        """Return what the whole file holds now; `has_row` speaks of that.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        self.reset()
        return self.look()

    def audit(self, on_row: OnRow) -> list[Problem]:
        """Read the whole file; call `on_row` for each row that could count, and return why others do not.

        It writes nothing, and takes no lock.

        Raises:
            OSError: The file is there and cannot be read now.
        """
        return self._reader.look_through(on_row)

    def _look(self) -> Scan:
        scan = self._reader.look(locked=False)
        if self._reader.torn is not None:
            with suppress(OSError, ResultsUnwritable), self._held():  # busy or read-only: it stays, uncounted
                self._set_aside()
        return scan

    def has_row(self, key: str) -> bool:
        """Return whether the last look, or one before it, found the row of this task."""
        return key in self._reader.seen

    def code_of(self, key: str) -> str:
        """Return with which code the row of this task was made; empty where that is not known."""
        known = list(self._reader.codes.items())  # another thread may read on meanwhile
        return next((code for code, keys in known if key in keys), "")

    def codes(self) -> dict[str, str]:
        """Return with which code the rows were made, by key of their tasks, as far as that is known."""
        return {key: code for code, keys in self._reader.codes.items() for key in keys}

    def supersede(self, key: str) -> None:
        """Let the row that a task has count no more; the index knows its code."""
        self._reader.supersede(key)

    def with_row(self, keys: Set[str]) -> Set[str]:
        """Return those of the keys for which `has_row` is true."""
        return keys & self._reader.seen

    def append(self, rows: Sequence[tuple[Task, Row]]) -> Appended:
        """Append, durably and in one write, the row of each task that has none yet.

        The first of two rows for one task wins, in the file as well as within `rows`.

        Raises:
            ResultsUnwritable: No row was written. One line: file, cause, what happens next.
        """
        try:
            with self._held() as lock:
                return self._append(rows, lock)
        except ResultsUnwritable:
            self.reset()  # nobody was told what the looks of this append brought
            raise
        except OSError as error:
            self.reset()
            why = f"cannot be written now ({error.strerror or error}); the row is kept and tried again"
            raise ResultsUnwritable(f"{self.path}: {why}") from error

    def find(self, keys: Set[str]) -> dict[str, dict[str, str]]:
        """Return by key the rows of those tasks that have one, from one full read; each task's first.

        A row is cells by column.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        found: dict[str, dict[str, str]] = {}
        reader = Reader(self.path, self._index, self._folder, None, on_read=self._on_read)

        def keep(row: Sequence[str], held: tuple[str, ...]) -> str:
            for key in keys & {*held}:
                places = first_places(reader.header.columns) if reader.header else {}
                found[key] = {name: row[at] for name, at in places.items()}
            return ""

        try:
            reader.look_through(keep, keys)
        except OSError as error:
            raise ResultsUnwritable(f"{self.path}: cannot be read now ({error.strerror})") from error
        return found

    @contextmanager
    def _held(self) -> Iterator[locks.FileLock]:
        try:
            lock = locks.acquire(self._lock, self._lock_timeout_s)
        except TimeoutError as error:
            raise ResultsUnwritable(f"{error}; the row is kept and tried again") from None
        with lock:
            yield lock

    def _append(self, rows: Sequence[tuple[Task, Row]], lock: locks.FileLock) -> Appended:
        for task, _ in rows:
            if task.key not in self._index:  # withdrawn while it ran: its row may stand anywhere in the file
                self._index.add(task)
                self._reader.reset()
        scans = self._look_locked()
        new: dict[str, tuple[Task, Row]] = {}
        for task, row in rows:
            if task.key not in self._reader.seen or task.key in self._reader.pruned:
                new.setdefault(task.key, (task, row))
        if new:
            scans += self._write(list(new.values()), lock)
            self._note(new)
        handed = frozenset(task.key for task, _ in rows)
        pruned = handed & self._reader.pruned
        complete = (handed - pruned).union(*(scan.complete for scan in scans))
        scan = Scan(
            complete=complete,
            pruned=pruned.union(*(scan.pruned for scan in scans)) - complete,
            vanished=frozenset().union(*(scan.vanished for scan in scans)) - self._reader.seen,
            warnings=sum((scan.warnings for scan in scans), ()),
        )
        return Appended(written=frozenset(new), scan=scan)

    def _note(self, written: Mapping[str, tuple[Task, Row]]) -> None:
        self._reader.seen.update(written)  # not `|=`, which with keys copies all that was seen
        stopped = [
            key
            for key, (task, row) in written.items()
            if row.get(STOPPED_AT) and self._reader.stopping.hold_any([task.phase])
        ]
        self._reader.pruned.difference_update(written)
        self._reader.pruned.update(stopped)

    def _look_locked(self) -> list[Scan]:
        """Look, and once more if a program without our lock may be at the last line; set a torn one aside."""
        if self._reader.is_at_end and self._reader.unchanged():
            return []
        scans = [self._reader.look(locked=True)]
        if self._reader.awaits_more:
            time.sleep(UNFINISHED_S)
            scans.append(self._reader.look(locked=True))
        if self._reader.awaits_more:
            raise ResultsUnwritable(
                f"{self.path}: another program still writes its last line; the row is kept and tried again"
            )
        if self._reader.torn is not None:
            self._set_aside()
        return scans

    def _set_aside(self) -> None:
        torn = self._reader.torn
        if torn is not None and set_aside(self.path, torn.offset, torn.text):
            self._reader.accept()
        self._reader.torn = None

    def _write(self, new: Sequence[tuple[Task, Row]], lock: locks.FileLock) -> list[Scan]:
        """Append rows, in place of those that say their tasks were stopped early; return what was new."""
        if self.unusable:
            raise ResultsUnwritable(f"{self.path} {self.unusable}, or move the file away: the row is kept")
        wanted = tuple(dict.fromkeys(column for _, row in new for column in row))
        header, goes_on = self._reader.header, self._reader.is_at_end
        if header is None:
            columns, dialect = _fitting(self.path, (), wanted), Dialect()
            above = line_of(columns, dialect)
        else:
            added = tuple(column for column in wanted if column not in header.columns)
            added = _fitting(self.path, header.columns, added)
            columns = widen(self.path, header, added, lock) if added else header.columns
            dialect, above = header.dialect, b""
            goes_on = goes_on and not added
        places = first_places(columns)
        rows = [row for _, row in new]
        if not places.keys() >= set(wanted):
            rows = [keep_left_out(self._root, task, row, places.keys()) for task, row in new]
        cells = [
            [row.get(column, "") if places[column] == at else "" for at, column in enumerate(columns)]
            for row in rows
        ]
        text = above + b"".join([line_of(each, dialect) for each in cells])
        replaced = {task.key for task, _ in new} & (self._reader.pruned | self._reader.superseded)
        if replaced:
            replace_rows(self.path, lambda row: self._is_replaced(row, replaced), text, lock)
            self._index.forget_superseded(replaced)
            return self._look_locked()
        if not goes_on and lacks_line_end(self.path, dialect):
            text = dialect.newline + text
        self._index.forget_superseded([task.key for task, _ in new])
        status = append_durably(self.path, text)
        if not lock.is_at(self._lock):
            raise ResultsUnwritable(f"{self._lock} was deleted meanwhile; the row is kept and tried again")
        scan = self._reader.follow(cells, text, status) if goes_on else None
        return self._look_locked() if scan is None else [scan]

    def _is_replaced(self, row: Sequence[str], keys: Set[str]) -> bool:
        """Return whether these tasks, and no other, were stopped early, or asked for again, by this row."""
        held = self._reader.keys_of(row)
        is_old = self._reader.is_pruned(row) or all(self._reader.is_superseded(key, row) for key in held)
        return bool(held) and keys >= {*held} and is_old


def _fitting(path: Path, columns: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `added` for which the header has room; the log names those left out."""
    size, fitting = len(line_of(columns, Dialect())), list[str]()
    for column in added:
        size += len(line_of([column], Dialect()))
        if len(columns) + len(fitting) < MAX_COLUMNS and size <= MAX_HEADER_BYTES:
            fitting.append(column)
    if left_out := [column for column in added if column not in fitting]:
        _log.warning(
            "%s: has no room for more columns: %d metrics are left out, %s among them; "
            "they stand in result.json of the run folder",
            *(path, len(left_out), left_out[0]),
        )
    return tuple(fitting)


def append_durably(path: Path, data: bytes) -> os.stat_result:
    """Append `data` in one write and sync it, or cut off what fits only in part; return the file's status.

    Raises:
        OSError: Nothing was appended.
    """
    created = not os.path.exists(path)
    descriptor = regular(path, _APPEND)
    try:
        opened = os.fstat(descriptor)
        size = opened.st_size
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)
        except OSError:
            with suppress(OSError):  # a device has no size; the first error is the one that tells
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if created:
        sync_folder(path.parent)
    now = os.stat(path)  # of the closed file: an open one has no final time on Windows
    if now.st_ino != opened.st_ino:
        raise OSError(errno.ESTALE, "the file was replaced meanwhile")
    return now


def set_aside(path: Path, offset: int, tail: bytes) -> bool:
    """Move the torn last line to the `.torn` file beside; return False if it is no longer the last line."""
    with open(path, "r+b", opener=regular) as file:
        file.seek(offset)
        if file.read(len(tail) + 1) != tail:
            return False
        append_durably(path.with_name(path.name + TORN_SUFFIX), tail + b"\n")
        file.truncate(offset)
        sync(file.fileno())
    return True


def widen(path: Path, header: Header, added: tuple[str, ...], lock: locks.FileLock) -> tuple[str, ...]:
    """Give the file more columns, empty in every row, by replacing it with a copy; return all columns.

    Each line stays what it was, byte for byte, but for the empty cells; they come before a last `duration_s`.

    Raises:
        OSError: Nothing was changed.
    """
    at = len(header.columns) - (header.columns[-1] == LAST_COLUMN)
    is_before_last = at < len(header.columns)
    with _rewritten(path, lock) as (old, new):
        new.write(old.read(header.start) + _wider_header(header, added, is_before_last))
        for raw, fields in whole_file(old, header):
            is_good = fields is not None
            new.write(lengthened(raw, len(added), header.dialect, before_last=is_good and is_before_last))
    return header.columns[:at] + added + header.columns[at:]


def replace_rows(
    path: Path, is_replaced: Callable[[Sequence[str]], bool], text: bytes, lock: locks.FileLock
) -> None:
    """Replace the file by a copy without some rows, and with `text`, whole lines, at its end.

    Every other line stays what it was, byte for byte.

    Args:
        path: Of the file.
        is_replaced: Called with the cells of each row: whether the copy lacks it.
        text: Lines that come in their place.
        lock: That of the file, which is held.

    Raises:
        OSError: Nothing was changed.
    """
    with _rewritten(path, lock) as (old, new):
        header = read_header(old)
        if header is None:
            raise OSError(errno.ESTALE, "the file has lost its header meanwhile")
        old.seek(0)
        last = old.read(header.stop)
        new.write(last)
        for raw, fields in whole_file(old, header):
            if fields is None or not is_replaced(fields):
                new.write(raw)
                last = raw
        new.write(text if last.endswith(header.dialect.end) else header.dialect.newline + text)


@contextmanager
def _rewritten(path: Path, lock: locks.FileLock) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield the file, and a copy to be written, which replaces it at the end, durably.

    Raises:
        OSError: Nothing was changed.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    copy = target.with_name(target.name + ".tmp")
    try:
        with open(target, "rb", opener=regular) as old, open(copy, "wb", opener=regular) as new:
            yield old, new
            new.flush()
            sync(new.fileno())
        shutil.copymode(target, copy)
        if not lock.is_at(lock_of(path)):
            raise OSError(errno.ESTALE, "its lock file was deleted meanwhile")
        os.replace(copy, target)
    except OSError:
        with suppress(OSError):
            copy.unlink()
        raise
    sync_folder(target.parent)


def _wider_header(header: Header, added: tuple[str, ...], is_before_last: bool) -> bytes:
    """Return the header's line with these names more, where `lengthened` puts empty cells."""
    separator = header.dialect.separator.encode()
    names = line_of(added, Dialect(header.dialect.separator, b""))
    head, _, last = header.raw.rpartition(separator)
    if is_before_last and len(header.columns) > 1:
        line = separator.join([head, names, last])
    else:
        line = separator.join([names, header.raw] if is_before_last else [header.raw, names])
    return line + header.dialect.newline


def lacks_line_end(path: Path, dialect: Dialect) -> bool:
    """Return whether the file has a last line without its end."""
    if not os.path.exists(path) or not path.stat().st_size:
        return False
    with open(path, "rb", opener=regular) as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != dialect.end
