"""What a results file holds, read as it grows; never writes.

A reader knows how far it has read and whose rows it has seen. If what it read no longer stands there (another
file, a shorter one, other text before the bookmark), it reads everything again and says which rows are gone.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from distexp.results.csv_format import MAX_RECORD_BYTES, Header, blocks, judge_tail, read_header
from distexp.results.matching import Row, TaskIndex
from distexp.task import Bookmark

MAX_WARNINGS = 10  # of bad lines, per look: a binary file has thousands
MAX_REMEMBERED_WARNINGS = 10_000
BEFORE_BYTES = 256  # compared to notice an edit in place: about two rows
_COUNT_BYTES = 1 << 20


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the file brought."""

    complete: frozenset[str] = frozenset()  # keys of tasks whose row stands in what was read now
    vanished: frozenset[str] = frozenset()  # keys whose row this reader had seen, and which is gone
    warnings: tuple[str, ...] = ()  # one line each: file and line, found, expected


class Torn(msgspec.Struct, frozen=True, kw_only=True):
    """A last line that its writer did not finish."""

    offset: int
    text: bytes


class Reader:
    """Reads one results file on from its bookmark. Caller holds a lock."""

    def __init__(self, path: Path, index: TaskIndex, bookmark: Bookmark | None) -> None:
        self.path = path
        self.bookmark = bookmark
        self.header: Header | None = None  # at the last look
        self.seen: set[str] = set()  # keys of tasks with a row
        self.torn: Torn | None = None  # to be set aside by who may write
        self._index = index
        self._identity: tuple[int, ...] | None = None  # device, inode, size, mtime at the last look
        self._before = b""  # what stood just before the bookmark; of a handed one it is not known
        self._pending: tuple[int, int] | None = None  # offset and size of a last line that may still grow
        self._bad: list[
            tuple[int, int, str]
        ] = []  # bad lines of this look: block's offset, line in it, found
        self._bad_count = 0
        self._warned: set[str] = set()

    def reset(self) -> None:
        """Let the next look read everything again."""
        self.bookmark = self._identity = None

    def unchanged(self) -> bool:
        """Return whether a look could bring nothing.

        Raises:
            OSError: The file is there and cannot be reached now.
        """
        try:
            return self._pending is None and self._identity == _identity(os.stat(self.path))
        except FileNotFoundError:
            return not self.seen and self._identity is None

    @property
    def awaits_more(self) -> bool:
        """Whether the last line was unfinished at the last look, and the look before did not find it so."""
        return self._pending is not None

    @property
    def is_at_end(self) -> bool:
        """Whether the last look has read the file to its last byte, the end of a line."""
        bookmark, identity = self.bookmark, self._identity
        return bookmark is not None and identity is not None and bookmark.offset == identity[2]

    def follow(self, rows: Sequence[Row], text: bytes, status: os.stat_result) -> Scan | None:
        """Take over rows that were appended as `text`, under the lock, where the last look was at the end.

        None when something stands between, so that the file has to be looked at.
        """
        if self.header is None or self.bookmark is None:
            return None
        offset, known, now = self.bookmark.offset + len(text), self._identity, _identity(status)
        if known is None or now[:3] != (*known[:2], offset):  # another file, or of another size
            return None
        match = self._index.matcher(self.header.columns)
        complete = frozenset([key for row in rows for key in match.one(row)])
        self.bookmark = Bookmark(offset=offset, header=self.header.digest)
        self._before = (self._before + text)[-BEFORE_BYTES:]
        self._identity = now
        self.seen |= complete
        return Scan(complete=complete)

    def accept(self) -> None:
        """Take the file as it is for what was read: its torn last line was cut off, under the lock."""
        self.torn = self._pending = None
        self._identity = _identity(os.stat(self.path))

    def look(self, *, locked: bool) -> Scan:
        """Read on if the bookmark fits, else everything; a file that is gone has no rows.

        Args:
            locked: No writer that honours the lock is at work, so a last line that is whole stays as it is.

        Raises:
            OSError: The file is there and cannot be read now.
        """
        seen_before, complete, warnings = set[str](), set[str](), list[str]()
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                self.header = read_header(file)
                if self.header is None or not self._fits(file, status, self.header):
                    self.bookmark, self.seen, seen_before = None, set(), self.seen
                self._identity = _identity(status)
                if self.header and self.header.problem:
                    warnings = [f"{self.path}:1: {self.header.problem}; its rows do not count"]
                    self._pending = None
                elif self.header and self.header.closed:
                    if self.bookmark is None:
                        warnings = self._missing_columns(self.header)
                    complete = self._read(file, self.header, locked)
                    warnings += self._bad_lines(file, len(self.header.columns))
        except FileNotFoundError:
            self.header = self.bookmark = self._identity = self._pending = None
            self.seen, seen_before = set(), self.seen
        if self.seen:
            self.seen |= complete  # in place: a look costs what is new, not what has been seen
        else:
            self.seen = complete
        return Scan(
            complete=frozenset(complete),
            vanished=frozenset(key for key in seen_before - self.seen if key in self._index),
            warnings=tuple(text for text in warnings if self.is_new(text)),
        )

    def _fits(self, file: BinaryIO, status: os.stat_result, header: Header) -> bool:
        bookmark, known, now = self.bookmark, self._identity, _identity(status)
        if bookmark is None or bookmark.header != header.digest or bookmark.offset > status.st_size:
            return False
        if known is not None:
            replaced = now[:2] != known[:2] or now[2] < known[2]
            if replaced or (now[2] == known[2] and now[3] != known[3]):
                return False  # a same size at another time: edited in place
        text = _before(file, bookmark.offset)
        return text.endswith(b"\n") and self._before in (b"", text)

    def _read(self, file: BinaryIO, header: Header, locked: bool) -> set[str]:
        """Return the tasks whose rows stand after the bookmark, and move it."""
        width, match = len(header.columns), self._index.matcher(header.columns)
        first_look = self.bookmark is None
        offset = header.end if self.bookmark is None else self.bookmark.offset
        complete: set[str] = set()
        skipped = -1
        while offset != skipped:
            for block in blocks(file, offset, width):
                complete |= match.all(block.columns)
                for line, found in block.bad:
                    self._add_bad(block.offset, line, found)
                offset = block.offset + block.used
            skipped = offset
            last, offset = self._read_last_line(file, offset, header, first_look or locked)
            if last is not None:
                complete.update(match.one(last))
        self.bookmark = Bookmark(offset=offset, header=header.digest)
        self._before = _before(file, offset)
        return complete

    def _read_last_line(
        self, file: BinaryIO, offset: int, header: Header, at_once: bool
    ) -> tuple[list[str] | None, int]:
        """Judge what follows the last whole record; return its fields if it counts, and where to read on."""
        file.seek(offset)
        tail = file.read(MAX_RECORD_BYTES)
        kind, fields = judge_tail(tail, len(header.columns))
        waited, self._pending = self._pending, None
        if kind == "whole":
            if at_once or waited == (offset, len(tail)) or not self._index.is_parameter(header.columns[-1]):
                return fields, offset
        elif kind == "wide":
            self._add_bad(offset, 0, "a last line of too many fields or no text")
        elif kind == "torn" and waited == (offset, len(tail)):
            self.torn = Torn(offset=offset, text=tail)
            self._add_bad(offset, 0, "a torn last line, moved to the .torn file")
            return None, offset
        elif kind == "open" and waited is not None and waited[0] == offset:
            self._add_bad(offset, 0, "a quote that is never closed")
            return None, offset + tail.index(b"\n") + 1
        if kind in ("whole", "torn", "open"):
            self._pending = (offset, len(tail))
        return None, offset

    def _missing_columns(self, header: Header) -> list[str]:
        return [
            f"{self.path}:1: found no column {', '.join(columns)}, expected what {phase} varies; "
            f"its rows complete nothing of {phase}"
            for phase, columns in self._index.missing_columns(header.columns).items()
        ]

    def _add_bad(self, offset: int, line: int, found: str) -> None:
        self._bad_count += 1
        if len(self._bad) < MAX_WARNINGS:
            self._bad.append((offset, line, found))

    def _bad_lines(self, file: BinaryIO, width: int) -> list[str]:
        """Return a warning per bad line; only now is it worth counting the lines before it."""
        warnings = []
        for offset, line, found in self._bad:
            where = f"{self.path}:{_lines_before(file, offset) + line + 1}"
            if self.is_new(where):  # a file that was rewritten is not complained about again
                warnings.append(f"{where}: found {found}, expected {width} fields; the line does not count")
        if self._bad_count > len(self._bad):
            more = self._bad_count - len(self._bad)
            warnings.append(f"{self.path}: found {more} more such lines, expected {width} fields in each")
        self._bad, self._bad_count = [], 0
        return warnings

    def is_new(self, warning: str) -> bool:
        """Return whether the warning has not been given yet, and remember it as given."""
        if warning in self._warned:
            return False
        if len(self._warned) >= MAX_REMEMBERED_WARNINGS:
            self._warned.clear()
        self._warned.add(warning)
        return True


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _before(file: BinaryIO, offset: int) -> bytes:
    start = max(0, offset - BEFORE_BYTES)
    file.seek(start)
    return file.read(offset - start)


def _pieces(file: BinaryIO, stop: int) -> Iterator[bytes]:
    file.seek(0)
    while stop > 0 and (piece := file.read(min(stop, _COUNT_BYTES))):
        stop -= len(piece)
        yield piece


def _lines_before(file: BinaryIO, offset: int) -> int:
    return sum(piece.count(b"\n") for piece in _pieces(file, offset))
