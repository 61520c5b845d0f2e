"""Reads a results file as it grows: which tasks its rows complete, and why the others do not count.

It never writes. A reader knows how far it has read and whose rows it has seen. If what it read no longer
stands there (another file, a shorter one, other text before the bookmark), it reads everything again and says
which rows are gone.
"""

import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from distexp.results.csv_format import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    Block,
    Header,
    blocks,
    columns_of_lines,
    decimal_comma,
    judge_tail,
    line_at,
    read_header,
)
from distexp.results.groups import Row
from distexp.results.matching import Found, Matcher, TaskIndex, keys_of
from distexp.results.problems import SHOWN_CHARS, Explainer, Problem, header_reason
from distexp.results.row import CODE, STOPPED_AT
from distexp.results.stops import StoppingPhases, tells_of_stop
from distexp.system.code import is_code
from distexp.system.files import regular
from distexp.task import Bookmark

MAX_REASONS = 100  # per look: each of a million rows may name another phase
MAX_REMEMBERED_WARNINGS = 10_000
BEFORE_BYTES = 256  # compared to notice an edit in place: about two rows
MAX_LINES_ABOVE = 10  # of comments or a title, among which the header is looked for

OnRead = Callable[[int], None]
OnRow = Callable[[Row, tuple[str, ...]], str]  # gets cells and keys; returns why it does not count


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the file brought."""

    complete: frozenset[str] = frozenset()  # keys of tasks whose row stands in what was read now
    pruned: frozenset[str] = frozenset()  # keys of tasks whose row says that they were stopped early
    vanished: frozenset[str] = frozenset()  # keys whose row this reader had seen, and which is gone
    warnings: tuple[str, ...] = ()  # one line each, said once: what does not count, why, what would help
    notes: tuple[str, ...] = ()  # one line each, said once, that warn of nothing


class Torn(msgspec.Struct, frozen=True, kw_only=True):
    """A last line that its writer did not finish."""

    offset: int
    text: bytes


class _Refusal(msgspec.Struct):
    """Rows of one look that do not count for one reason."""

    reason: str
    offset: int  # of the block that holds the first
    line: int  # of the first, within that block
    rows: int = 0


class Reader:
    """Reads one results file on from its bookmark. Caller holds a lock."""

    def __init__(
        self,
        path: Path,
        index: TaskIndex,
        folder: str,
        bookmark: Bookmark | None,
        *,
        on_read: OnRead | None = None,
        warns: bool = True,
    ) -> None:
        """Read the file at `path`, which is that of tasks whose `output_dir` is `folder`.

        `on_read` gets the number of bytes, whenever some more have been read. With `warns`, looks tell what
        does not count: for the number of its line, the file is read from its beginning.
        """
        self.path = path
        self.bookmark = bookmark
        self.header: Header | None = None  # at the last look
        self.seen: set[str] = set()  # keys of tasks with a row
        self.pruned: set[str] = set()  # those of them whose row says that they were stopped early
        self.torn: Torn | None = None  # to be set aside by who may write
        self.unusable = ""  # why nothing is to be written to it
        self._problems: list[Problem] | None = None  # gets what looks meet; None: nobody wants it
        self._index, self._folder, self._on_read, self._warns = index, folder, on_read, warns
        self._known_header = bookmark.header if bookmark else ""  # that whoever handed the bookmark could use
        self._matched: tuple[Sequence[str], Matcher] | None = None  # of these columns
        self._identity: tuple[int, ...] | None = None  # device, inode, size, mtime at the last look
        self._before = b""  # what stood just before the bookmark; of a handed one it is not known
        self._pending: tuple[int, int] | None = None  # offset and size of a last line that may still grow
        self._warned: set[Hashable] = set()
        self.stopping = StoppingPhases(path.parent, index)
        self.stopped_place: int | None = None  # of the column that says so
        self.code_place: int | None = None  # of the column `code`, unless that is a parameter
        self.codes: dict[str, set[str]] = {}  # code -> keys of tasks whose row was made with it
        self.superseded: set[str] = set()  # keys of tasks whose row is there, and is to be replaced
        self.strays = 0  # rows of no task that were ever met, and that a search may take up

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
        match = self._matcher(self.header)
        keys = [match.one(row) for row in rows]
        found = {key: self.is_pruned(row) for row, held in zip(rows, keys, strict=True) for key in held}
        pruned = frozenset([key for key, is_pruned in found.items() if is_pruned])
        self.bookmark = Bookmark(offset=offset, header=self.header.digest)
        self._before = (self._before + text)[-BEFORE_BYTES:]
        self._identity = now
        self.seen.update(found)  # not `|=`, which with keys copies all that was seen
        self.pruned |= pruned
        for row, held in zip(rows, keys, strict=True):
            self.note_code(row, held)
        return Scan(complete=frozenset(found) - pruned, pruned=pruned)

    def is_pruned(self, row: Row) -> bool:
        """Return whether a row of the file says that its task was stopped early."""
        if self.stopped_place is None or self.header is None or not tells_of_stop(row[self.stopped_place]):
            return False
        return self.stopping.hold_any(self._matcher(self.header).phases(row))

    def keys_of(self, row: Row) -> list[str]:
        """Return the keys of the tasks that a row of the file completes, or shows as stopped early."""
        return self._matcher(self.header).one(row) if self.header else []

    def note_code(self, row: Row, keys: Iterable[str]) -> None:
        """Remember with which code the row of these tasks was made."""
        if self.code_place is not None and (code := row[self.code_place].strip()):
            self.codes.setdefault(code, set()).update(keys)

    def is_superseded(self, key: str, row: Row) -> bool:
        """Return whether this row of a task no longer completes it: the task was asked for again."""
        code = self._index.superseded.get(key)
        return code is not None and self.code_place is not None and row[self.code_place].strip() == code

    def may_supersede(self, keys: Sequence[Hashable]) -> bool:
        """Return whether a row of one of these tasks may count no more."""
        return bool(self._index.superseded) and not self._index.superseded.keys().isdisjoint(keys)

    def supersede(self, key: str) -> None:
        """Let the row that a task has count no more; the index knows its code."""
        self.seen.discard(key)
        self.superseded.add(key)

    def accept(self) -> None:
        """Take the file as it is for what was read: its torn last line was cut off, under the lock."""
        self.torn = self._pending = None
        self._identity = _identity(os.stat(self.path))

    def look(self, *, locked: bool, on_row: OnRow | None = None, only: Set[str] = frozenset()) -> Scan:
        """Read on if the bookmark fits, else everything; a file that is gone has no rows.

        Args:
            locked: No writer that honours the lock is at work, so a last line that is whole stays as it is.
            on_row: Called for each row that counts unless it says why not: the first of each of its tasks.
            only: Rows of other tasks than these need not be handed to `on_row`; empty: all are.

        Raises:
            OSError: The file is there and cannot be read now.
        """
        seen_before = self.seen
        complete, pruned, warnings = set[str](), set[str](), list[str]()
        try:
            with open(self.path, "rb", opener=regular) as file:
                complete, pruned, warnings = self._look_at(file, locked, on_row, only)
        except FileNotFoundError:
            self.header = self._identity = self._pending = None
            self.unusable = ""
            self._forget_rows()
        forgotten = frozenset[str]() if self.seen is seen_before else seen_before
        if self.seen or pruned:
            self.seen |= complete  # in place: a look costs what is new, not what has been seen
            self.seen |= pruned
        else:
            self.seen = complete
        return Scan(
            complete=frozenset(complete),
            pruned=frozenset(pruned),
            vanished=frozenset(key for key in forgotten - self.seen if key in self._index),
            warnings=tuple(text for text in warnings if self.is_new(text)),
        )

    def _look_at(
        self, file: BinaryIO, locked: bool, on_row: OnRow | None, only: Set[str]
    ) -> tuple[set[str], set[str], list[str]]:
        """Return the keys of tasks that are complete and of those stopped early, and what is to be said."""
        status = os.fstat(file.fileno())
        self.header = read_header(file)
        if self.header is None or not self._fits(file, status, self.header):
            self._forget_rows()
        self._identity = _identity(status)
        self.unusable = self._why_unusable(file, self.header)
        complete, pruned, warnings = set[str](), set[str](), list[str]()
        if self.header and not self.unusable and self.header.closed:
            self.stopped_place = self._place_of_stops(self.header)
            self.code_place = self._place_of_code(self.header)
            judge = _Judge(self, self._matcher(self.header), self.header.columns, on_row, only)
            self._read(file, self.header, judge, locked)
            complete, pruned = judge.complete, judge.pruned
            warnings = self._told(file, self.header, judge.refusals)
        if self.unusable:
            self._pending = None
            waits = " and its tasks wait" if self._index.writers(self._folder) else ""
            warnings = [f"{self.path} {self.unusable}; its rows do not count{waits}"]
        return complete, pruned, warnings

    def _forget_rows(self) -> None:
        """Know of no row: what was read is there no more, or is not what it was."""
        self.bookmark = None
        self.seen, self.pruned, self.superseded, self.codes = set(), set(), set(), {}

    def look_through(self, on_row: OnRow, only: Set[str] = frozenset()) -> list[Problem]:
        """Read everything now, for one who will not look again; return what does not count, and why.

        Raises:
            OSError: The file is there and cannot be read now.
        """
        self.reset()
        self._problems = problems = list[Problem]()
        self.look(locked=True, on_row=on_row, only=only)
        while self.awaits_more:  # a quote that is never closed hides nothing below it
            self.look(locked=True, on_row=on_row, only=only)
        return problems

    def _matcher(self, header: Header) -> Matcher:
        known = self._matched
        if known is None or known[0] != header.columns or known[1].groups is not self._index.groups:
            matcher = self._index.matcher(header.columns, self._folder)
            self._matched = known = header.columns, matcher
        return known[1]

    def _place_of_code(self, header: Header) -> int | None:
        place = header.columns.index(CODE) if CODE in header.columns else None
        return None if place in self._matcher(header).parameter_places else place

    def _place_of_stops(self, header: Header) -> int | None:
        """Return where the column stands that tells stopped tasks; one of that name may also be a metric."""
        if STOPPED_AT not in header.columns:
            return None
        place = header.columns.index(STOPPED_AT)
        is_parameter = place in self._matcher(header).parameter_places
        return place if self.stopping.are_any() and not is_parameter else None

    def _why_unusable(self, file: BinaryIO, header: Header | None) -> str:
        if header is None or header.problem:
            return header.problem if header else ""
        matcher = self._matcher(header)
        if header.digest == self._known_header or matcher.knows_columns:
            return ""
        file.seek(header.stop)
        for columns in islice(columns_of_lines(file.read(HEADER_BYTES)), MAX_LINES_ABOVE):
            if self._index.matcher(columns, self._folder).knows_columns:
                names = ", ".join(columns)[:SHOWN_CHARS]
                return f"has text above its header ({names}); delete what is above"
        return header_reason(matcher, header.columns)

    def _fits(self, file: BinaryIO, status: os.stat_result, header: Header) -> bool:
        bookmark, known, now = self.bookmark, self._identity, _identity(status)
        if bookmark is None or bookmark.header != header.digest or bookmark.offset > status.st_size:
            return False
        if known is not None:
            replaced = now[:2] != known[:2] or now[2] < known[2]
            if replaced or (now[2] == known[2] and now[3] != known[3]):
                return False  # a same size at another time: edited in place
        text = _before(file, bookmark.offset)
        return text.endswith(header.dialect.end) and self._before in (b"", text)

    # -- rows ----------------------------------------------------------------------------------------------

    def _read(self, file: BinaryIO, header: Header, judge: "_Judge", locked: bool) -> None:
        """Take the rows after the bookmark, and move it."""
        first_look = self.bookmark is None
        offset = header.stop if self.bookmark is None else self.bookmark.offset
        matcher = self._matcher(header)
        texts = matcher.text_places
        numbers = matcher.parameter_places - texts
        skipped = -1
        while offset != skipped:
            for block in blocks(file, offset, len(header.columns), header.dialect):
                if header.dialect.separator != "," and (cell := decimal_comma(block, numbers, texts)):
                    self.unusable = f"has numbers with a decimal comma ({cell}); save it with decimal points"
                    judge.complete.clear()
                    judge.pruned.clear()
                    return
                judge.take(block)
                offset = block.offset + block.used
                if self._on_read is not None:
                    self._on_read(block.used)
            skipped = offset
            last, offset = self._read_last_line(file, offset, header, judge, first_look or locked)
            if last is not None:
                judge.take(Block([(cell,) for cell in last], [0], [], 0, offset))
        self.bookmark = Bookmark(offset=offset, header=header.digest)
        self._before = _before(file, offset)

    def _read_last_line(
        self, file: BinaryIO, offset: int, header: Header, judge: "_Judge", at_once: bool
    ) -> tuple[list[str] | None, int]:
        """Judge what follows the last whole record; return its cells if it counts, and where to read on."""
        file.seek(offset)
        tail = file.read(MAX_RECORD_BYTES)
        kind, fields = judge_tail(tail, len(header.columns), header.dialect)
        waited, self._pending = self._pending, None
        if kind == "whole":
            is_last_open = len(header.columns) - 1 in self._matcher(header).parameter_places
            if at_once or waited == (offset, len(tail)) or not is_last_open:
                return fields, offset
        elif kind == "wide":
            judge.refuse(kind, "the last line has too many cells, or is no text", offset)
        elif kind == "torn" and waited == (offset, len(tail)):
            self.torn = Torn(offset=offset, text=tail)
            judge.refuse(kind, "the last line is torn; it moves to the .torn file", offset)
            return None, offset
        elif kind == "open" and waited is not None and waited[0] == offset:
            judge.refuse(kind, "the line has a quote that is never closed", offset)
            return None, offset + tail.index(header.dialect.end) + 1
        if kind in ("whole", "torn", "open"):
            self._pending = (offset, len(tail))
        return None, offset

    def _told(self, file: BinaryIO, header: Header, refusals: Mapping[Hashable, _Refusal]) -> list[str]:
        """Keep what was met as problems, and return a line for each of a new kind."""
        warnings = []
        for kind, refusal in refusals.items():
            is_new = self._warns and self.is_new(kind)
            if not is_new and self._problems is None:
                continue
            line = line_at(file, refusal.offset, header.dialect.end) + refusal.line
            problem = Problem(refusal.reason, line, refusal.rows)
            if is_new:
                warnings.append(problem.told(self.path))
            if self._problems is not None:
                self._problems.append(problem)
        return warnings

    def is_new(self, warning: Hashable) -> bool:
        """Return whether the warning has not been given yet, and remember it as given."""
        if warning in self._warned:
            return False
        if len(self._warned) >= MAX_REMEMBERED_WARNINGS:
            self._warned.clear()
        self._warned.add(warning)
        return True


class _Judge:
    """Takes the rows of one look: those that count, and those that do not with their reason."""

    def __init__(
        self,
        reader: Reader,
        matcher: Matcher,
        columns: Sequence[str],
        on_row: OnRow | None,
        only: Set[str],
    ) -> None:
        self.complete: set[str] = set()
        self.pruned: set[str] = set()
        self.refusals: dict[Hashable, _Refusal] = {}  # by what the rows have in common
        self._matcher, self._explainer = matcher, Explainer(matcher, columns)
        self._reader, self._on_row, self._only = reader, on_row, only

    def take(self, block: Block) -> None:
        """Compare the rows of a block with the tasks."""
        for line, problem in block.bad:
            self.refuse(re.sub(r"\d+", "N", problem), f"the line {problem}", block.offset, line)
        found = self._matcher.found(block.columns)
        is_quick = self._on_row is None or (self._only and self._only.isdisjoint(found))
        if (place := self._reader.stopped_place) is not None and block.columns:
            is_quick = is_quick and not any(map(tells_of_stop, block.columns[place]))
        is_quick = is_quick and not self._reader.may_supersede(found)
        if is_quick and {*map(type, found)} == {str}:
            keys: set[str] = set(found)  # type: ignore[arg-type]
            if (
                len(keys) == len(found)
                and keys.isdisjoint(self._reader.seen)
                and keys.isdisjoint(self.complete)
            ):
                self.complete |= keys
                self._note_codes(block, found)
                return
        for at, each in enumerate(found):
            self._take_row(block, at, each)

    def _take_row(self, block: Block, at: int, found: Found) -> None:
        keys = keys_of(found)
        row = [column[at] for column in block.columns]
        is_pruned = self._reader.is_pruned(row)
        if old := [key for key in keys if self._reader.is_superseded(key, row)]:
            self._reader.superseded.update(old)
            return
        new = tuple([key for key in keys if self._is_new(key, is_pruned)])
        if new:
            self._reader.note_code(row, new)
            self._take_new(new, is_pruned)
            if self._on_row is not None and (reason := self._on_row(row, new)):
                self.refuse(reason, reason, block.offset, block.lines[at])
            return
        if not keys and not any(map(str.strip, row)):
            return  # a blank line of a spreadsheet
        self._reader.strays += not keys and self._matcher.may_join(row)
        kind = "again" if keys else "several" if found == () else self._explainer.kind(row)
        if kind not in self.refusals and len(self.refusals) >= MAX_REASONS:
            kind = "other"
        reason = "" if kind in self.refusals else self._explainer.text(kind, row)
        self.refuse(kind, reason, block.offset, block.lines[at])

    def _note_codes(self, block: Block, found: Sequence[Found]) -> None:
        place = self._reader.code_place
        if place is None:
            return
        known: dict[str, set[str] | None] = {}  # cell -> keys of that code; None: another program's column
        for key, cell in zip(found, block.columns[place], strict=True):
            if cell not in known:
                code = cell.strip()
                known[cell] = self._reader.codes.setdefault(code, set()) if is_code(code) else None
            if (keys := known[cell]) is not None:
                keys.add(key)  # type: ignore[arg-type]

    def _is_new(self, key: str, is_pruned: bool) -> bool:
        """Return whether the task has no row yet, or none but one that says it was stopped early."""
        if key in self.complete:
            return False
        if key in self._reader.pruned:
            return not is_pruned
        return key not in self._reader.seen

    def _take_new(self, keys: Sequence[str], is_pruned: bool) -> None:
        if is_pruned:
            self.pruned.update(keys)
            self._reader.pruned.update(keys)
        else:
            self.complete.update(keys)
            self.pruned.difference_update(keys)
            self._reader.pruned.difference_update(keys)

    def refuse(self, kind: Hashable, reason: str, offset: int, line: int = 0) -> None:
        """Note a line that does not count."""
        self.refusals.setdefault(kind, _Refusal(reason, offset, line)).rows += 1


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _before(file: BinaryIO, offset: int) -> bytes:
    start = max(0, offset - BEFORE_BYTES)
    file.seek(start)
    return file.read(offset - start)
