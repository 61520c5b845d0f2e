"""Rows <-> `final_results.csv`: what it holds, and rows more. The file belongs to its user:
other programs write it too, with other columns; editors rewrite it; kills and full disks tear it. So whatever
stands in it is read or named in a warning, and nothing is thrown away. Writers agree by a lock on a file
beside it, of the kernel.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from distexp.errors import ResultsUnwritable
from distexp.results.csv_disk import append_durably, lacks_newline, set_aside, widen
from distexp.results.csv_format import line_of, read_header, whole_file
from distexp.results.matching import TaskIndex, first_places
from distexp.results.reader import Reader, Scan
from distexp.system import locks
from distexp.task import Bookmark, Task

__all__ = ["RESULTS_FILE", "Appended", "ResultsFile", "Scan"]

RESULTS_FILE = "final_results.csv"
LOCK_TIMEOUT_S = 10.0  # a holder writes some rows, or copies the file once: longer means that it hangs
UNFINISHED_S = 0.2  # for a program without our lock to end the line it is at: a buffer is flushed in one go

MAX_COLUMNS = 2000  # of a file: what a spreadsheet or a table still shows
MAX_HEADER_BYTES = 1 << 20  # every reader takes the header whole

Row = Mapping[str, str]  # cell by column

_log = logging.getLogger(__name__)


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
        path: Path,
        index: TaskIndex,
        bookmark: Bookmark | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._index = index
        self._reader = Reader(path, index, bookmark)
        self._lock = f"{path}.lock"
        self._lock_timeout_s = lock_timeout_s

    @property
    def bookmark(self) -> Bookmark | None:
        """How far this reader has read, for another one to go on from; None before it met a header."""
        return self._reader.bookmark

    def reset(self) -> None:
        """Let the next scan read everything again: the set of tasks has changed."""
        self._reader.reset()

    def scan(self) -> Scan:
        """Return what is new; when nothing is, without opening the file. No content makes it raise.

        A torn last line that has not changed since the scan before is moved to `final_results.csv.torn`.
        """
        try:
            return Scan() if self._reader.unchanged() else self._look()
        except OSError as error:
            text = f"{self.path}: cannot be read now ({error.strerror}); the next scan tries again"
            return Scan(warnings=(text,) if self._reader.is_new(text) else ())

    def read_again(self) -> Scan:
        """Return what the whole file holds now; `has_row` speaks of that.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        self.reset()
        try:
            return self._look()
        except OSError as error:
            raise ResultsUnwritable(f"{self.path}: cannot be read now ({error.strerror})") from error

    def _look(self) -> Scan:
        scan = self._reader.look(locked=False)
        if self._reader.torn is not None:
            with suppress(OSError, ResultsUnwritable), self._held():  # busy or read-only: it stays, uncounted
                self._set_aside()
        return scan

    def has_row(self, key: str) -> bool:
        """Return whether the last look, or one before it, found the row of this task."""
        return key in self._reader.seen

    def append(self, rows: Sequence[tuple[Task, Row]]) -> Appended:
        """Append, durably and in one write, the row of each task that has none yet.

        The first of two rows for one task wins, in the file as well as within `rows`.

        Raises:
            ResultsUnwritable: No row was written. One line: file, cause, what happens next.
        """
        try:
            with self._held():
                return self._append(rows)
        except ResultsUnwritable:
            self.reset()  # nobody was told what the looks of this append brought
            raise
        except OSError as error:
            self.reset()
            cause = error.strerror or error
            raise ResultsUnwritable(
                f"{self.path}: cannot be written now ({cause}); the row is kept and tried again"
            ) from error

    def find(self, tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
        """Return by key the rows of those tasks that have one, from one full read; each task's first.

        A row is cells by column.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        found: dict[str, dict[str, str]] = {}
        try:
            with open(self.path, "rb") as file:
                header = read_header(file)
                if header is None or header.problem:
                    return found
                match, places = TaskIndex(tasks).matcher(header.columns), first_places(header.columns)
                for _, fields in whole_file(file, header):
                    if fields is None:
                        continue
                    for key in match.one(fields):
                        found.setdefault(key, {name: fields[at] for name, at in places.items()})
                    if len(found) == len(tasks):
                        break
        except FileNotFoundError:
            return found
        except OSError as error:
            raise ResultsUnwritable(f"{self.path}: cannot be read now ({error.strerror})") from error
        return found

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            lock = locks.acquire(self._lock, self._lock_timeout_s)
        except TimeoutError as error:
            raise ResultsUnwritable(f"{error}; the row is kept and tried again") from None
        with lock:
            yield

    def _append(self, rows: Sequence[tuple[Task, Row]]) -> Appended:
        for task, _ in rows:
            if task.key not in self._index:  # withdrawn while it ran: its row may stand anywhere in the file
                self._index.add(task)
                self._reader.reset()
        scans = self._look_locked()
        new: dict[str, Row] = {}
        for task, row in rows:
            if task.key not in self._reader.seen:
                new.setdefault(task.key, row)
        if new:
            scans += self._write(list(new.values()))
            self._reader.seen.update(new)  # not `|=`, which with keys copies all that was seen
        scan = Scan(
            complete=frozenset(task.key for task, _ in rows).union(*(scan.complete for scan in scans)),
            vanished=frozenset().union(*(scan.vanished for scan in scans)) - self._reader.seen,
            warnings=sum((scan.warnings for scan in scans), ()),
        )
        return Appended(written=frozenset(new), scan=scan)

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
                f"{self.path}: found a last line that another program still writes, expected its end in "
                f"{UNFINISHED_S:g} s; the row is kept and tried again"
            )
        if self._reader.torn is not None:
            self._set_aside()
        return scans

    def _set_aside(self) -> None:
        torn = self._reader.torn
        if torn is not None and set_aside(self.path, torn.offset, torn.text):
            self._reader.accept()
        self._reader.torn = None

    def _write(self, rows: Sequence[Row]) -> list[Scan]:
        """Append rows; return what was new in the file, theirs among it."""
        wanted = tuple(dict.fromkeys(column for row in rows for column in row))
        header, goes_on = self._reader.header, self._reader.is_at_end
        if header is None:
            columns, newline, above = wanted, b"\n", line_of(wanted, b"\n")
        elif header.problem:
            raise ResultsUnwritable(f"{self.path}:1: {header.problem}; move the file away: the row is kept")
        else:
            added = tuple(column for column in wanted if column not in header.columns)
            added = _fitting(self.path, header.columns, added)
            columns = widen(self.path, header, added) if added else header.columns
            newline, above = header.newline, b""
            goes_on = goes_on and not added
        places = first_places(columns)
        cells = [
            [row.get(column, "") if places[column] == at else "" for at, column in enumerate(columns)]
            for row in rows
        ]
        text = above + b"".join([line_of(each, newline) for each in cells])
        if not goes_on and lacks_newline(self.path):
            text = newline + text
        status = append_durably(self.path, text)
        scan = self._reader.follow(cells, text, status) if goes_on else None
        return self._look_locked() if scan is None else [scan]


def _fitting(path: Path, columns: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `added` for which the header has room; the log names those left out."""
    size, fitting = len(line_of(columns, b"\n")), list[str]()
    for column in added:
        size += len(line_of([column], b"\n"))
        if len(columns) + len(fitting) < MAX_COLUMNS and size <= MAX_HEADER_BYTES:
            fitting.append(column)
    if left_out := [column for column in added if column not in fitting]:
        _log.warning(
            "%s: has %d columns, and gets no more than %d: %d metrics are left out, %s among them",
            *(path, len(columns), MAX_COLUMNS, len(left_out), left_out[0]),
        )
    return tuple(fitting)
