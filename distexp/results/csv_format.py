"""CSV text: bytes to header and records and back, in the file's own dialect.

A dialect is the separator of cells (comma, semicolon or tab) and the end of lines (LF, CRLF or CR), with or
without a byte order mark. Nothing is inferred: a cell is a text. A bad line never hides the next one: a line
end inside quotes belongs to its record only if the record then has as many cells as the header; if not, its
first line alone is bad, and reading goes on with the next line.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import BinaryIO, Literal

import msgspec

from distexp.text import count_text

BLOCK_BYTES = 1 << 17  # read at a time: its cells stay in the cache of the processor
HEADER_BYTES = 1 << 12  # read at first to find the header
MAX_RECORD_BYTES = 4 << 20  # longer is junk: four times the largest message that could bring a row
BOM = b"\xef\xbb\xbf"
SEPARATORS = (",", ";", "\t")

NEVER_CLOSED = "has a quote that is never closed"

csv.field_size_limit(MAX_RECORD_BYTES)  # the module's own 131072 would hide rows with a long list in them

Tail = Literal["blank", "whole", "torn", "wide", "open"]

_QUOTE_OR_END = re.compile(rb'["\r\n]')
_LINE_END = re.compile(rb"\r\n|\r|\n")
_DECIMAL_POINT = re.compile(r"\s*[+-]?\d+\.\d+([eE][+-]?\d+)?\s*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*", re.ASCII)


class Dialect(msgspec.Struct, frozen=True):
    """How a file separates cells and ends lines."""

    separator: str = ","
    newline: bytes = b"\n"  # of lines that are added

    @property
    def end(self) -> bytes:
        """The byte that ends each line."""
        return self.newline[-1:]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file that is not blank."""

    columns: tuple[str, ...]
    digest: str
    raw: bytes  # the line without its end and byte order mark
    start: int  # offset of its first byte
    stop: int  # offset of the byte after its end
    dialect: Dialect
    closed: bool  # its line end was there
    problem: str = ""  # why no row can be read under it


class Record(msgspec.Struct, frozen=True):
    """One record of a block: bytes `start` to `stop`, which begins at line `line` of it, counted from 0."""

    start: int
    stop: int
    line: int
    fields: list[str] | None  # None: a bad line, or a blank one when `problem` is empty
    problem: str = ""


class Block(msgspec.Struct):
    """What a run of whole lines holds."""

    columns: list[Sequence[str]]  # of the good records; empty: there is none
    lines: Sequence[int]  # where each good record begins: lines within the block, counted from 0
    bad: list[tuple[int, str]]  # line within the block, and what is wrong with it
    used: int  # bytes read; what follows is no whole record yet
    offset: int = 0  # where the block stands in the file


def read_header(file: BinaryIO) -> Header | None:
    """Return the header, or None for a file without text. Reads no more than it must."""
    file.seek(0)
    text, offset = file.read(HEADER_BYTES), 0
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _unusable(text[:64], "is UTF-16 text; save it as UTF-8")
    if text.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")):
        return _unusable(text[:64], "is a workbook or compressed, not text; save it as CSV in UTF-8")
    if text.startswith(BOM):
        offset = len(BOM)
    while True:
        stop, newline = _line_end(text, offset)
        if newline is None and len(text) < MAX_RECORD_BYTES and (more := file.read(len(text))):
            text += more
        elif newline is not None and not text[offset:stop].strip():
            offset = stop + len(newline)
        else:
            break
    raw = text[offset:stop]
    if not raw.strip():
        return None
    columns, separator, problem = _columns(raw)
    return Header(
        columns=columns,
        digest=hashlib.sha256(raw).hexdigest()[:20],
        raw=raw,
        start=offset,
        stop=stop + len(newline or b""),
        dialect=Dialect(separator, newline or b"\n"),
        closed=newline is not None,
        problem=problem,
    )


def _unusable(raw: bytes, problem: str) -> Header:
    digest = hashlib.sha256(raw).hexdigest()[:20]
    return Header(
        columns=(), digest=digest, raw=raw, start=0, stop=0, dialect=Dialect(), closed=True, problem=problem
    )


def _line_end(text: bytes, start: int) -> tuple[int, bytes | None]:
    """Return where the line ends and by what; None where it does not end in `text`."""
    is_quoted = False
    for match in _QUOTE_OR_END.finditer(text, start):
        if match[0] == b'"':
            is_quoted = not is_quoted
        elif not is_quoted:
            at = match.start()
            return at, b"\r\n" if text[at : at + 2] == b"\r\n" else match[0]
    return len(text), None


def _columns(raw: bytes) -> tuple[tuple[str, ...], str, str]:
    """Return the names of the columns, what separates them, and why they cannot be used."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return (), ",", "is no UTF-8 text; save it as UTF-8"
    if "\0" in text:
        return (), ",", "holds NUL bytes; save it as CSV in UTF-8"
    if re.fullmatch(r"sep=.?.?", text.strip(), re.IGNORECASE):
        return (), ",", f"begins with the line {text.strip()}; delete that line"
    if text.startswith("#") and not any(separator in text for separator in SEPARATORS):
        return (), ",", "begins with a comment, not with the names of its columns; delete that line"
    found: list[tuple[list[str], str]] = []
    for separator in [each for each in SEPARATORS if each in text] or SEPARATORS[:1]:
        try:
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
        except csv.Error as error:
            problem = f"has a first line that cannot be read: it {_said(error)}"
            continue
        found.append((cells, separator))
    if not found:
        return (), ",", problem
    cells, separator = max(found, key=lambda each: len(each[0]))
    if f'{separator} "' in text and any(cell.lstrip().startswith('"') for cell in cells):
        return (), separator, "has blanks before its quotes; save it without them"
    return tuple([cell.strip() for cell in cells]), separator, ""


def columns_of_lines(text: bytes) -> Iterator[tuple[str, ...]]:
    """Yield for each whole line the names of the columns if it is the header."""
    for line in filter(bytes.strip, _LINE_END.split(text)[:-1]):
        columns, _, problem = _columns(line)
        if not problem:
            yield columns


def blocks(file: BinaryIO, offset: int, width: int, dialect: Dialect) -> Iterator[Block]:
    """Yield what the file holds from `offset`, the start of a line, to its last whole record."""
    rest = b""
    while more := _read_at(file, offset + len(rest)):
        text = rest + more
        block = parse(text, width, dialect)
        block.offset = offset
        rest = text[block.used :]
        if len(rest) > MAX_RECORD_BYTES:
            stop = _next_line(file, offset + block.used + len(rest), dialect)
            if stop is None:
                return  # one line without an end: looked at again when the file has grown
            line = text.count(dialect.end, 0, block.used)
            block.bad.append((line, f"is longer than {MAX_RECORD_BYTES} bytes"))
            block.used, rest = stop - offset, b""
        yield block
        offset += block.used


def _read_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(BLOCK_BYTES)


def _next_line(file: BinaryIO, offset: int, dialect: Dialect) -> int | None:
    """Return where the line after the one around `offset` begins, or None if it never ends."""
    while more := _read_at(file, offset):
        if at := more.find(dialect.end) + 1:
            return offset + at
        offset += len(more)
    return None


def parse(block: bytes, width: int, dialect: Dialect) -> Block:
    """Return the columns of all whole records with `width` cells in `block`, and the bad lines."""
    used = block.rfind(dialect.end) + 1
    if b'"' not in block and b"\0" not in block:
        try:
            text = block[:used].decode()
        except UnicodeDecodeError:
            pass  # line by line, then
        else:
            return _plain(text, width, used, dialect)
    rows, lines, bad, used = list[list[str]](), list[int](), list[tuple[int, str]](), 0
    for record in records(block, width, dialect):
        used = record.stop
        if record.fields is not None:
            rows.append(record.fields)
            lines.append(record.line)
        elif record.problem:
            bad.append((record.line, record.problem))
    return Block(columns=list(zip(*rows, strict=True)), lines=lines, bad=bad, used=used)


def _plain(text: str, width: int, used: int, dialect: Dialect) -> Block:
    """Read lines without quotes: the common case, and five times as fast, more so if all are good."""
    separator, end = dialect.separator, dialect.end.decode()
    if end == "\n":
        text = text.replace("\r\n", "\n")
    count, step = text.count(end), width + 1
    if count and width > 1:  # else a blank line looks like a record
        cells = text.replace(end, f"{separator}{end}{separator}").split(separator)  # a line, then its end
        if len(cells) == count * step + 1 and cells[width::step].count(end) == count:
            columns: list[Sequence[str]] = [cells[at:-1:step] for at in range(width)]
            return Block(columns=columns, lines=range(count), bad=[], used=used)
    rows, lines, bad = list[list[str]](), list[int](), list[tuple[int, str]]()
    for number, line in enumerate(text.split(end)):
        fields = line.split(separator)
        if len(fields) == width and line:
            rows.append(fields)
            lines.append(number)
        elif line.strip():
            bad.append((number, _wrong_width(fields, width)))
    return Block(columns=list(zip(*rows, strict=True)), lines=lines, bad=bad, used=used)


def records(block: bytes, width: int, dialect: Dialect) -> Iterator[Record]:
    """Yield every whole record of `block`, blank and bad lines included."""
    start = line = 0
    end = dialect.end
    while stop := block.find(end, start) + 1:
        raw = block[start:stop]
        if not raw.strip():
            record = Record(start, stop, line, None)
        else:
            after, fields, problem = _record(block, start, stop, dialect)
            if after == 0:
                return
            if fields is not None:
                problem = "holds NUL bytes" if b"\0" in block[start:after] else ""
                problem = problem or (_wrong_width(fields, width) if len(fields) != width else "")
            if problem:
                record = Record(start, stop, line, None, problem)
            else:
                record = Record(start, after, line, fields)
        yield record
        line += block.count(end, start, record.stop)
        start = record.stop


def _wrong_width(fields: Sequence[str], width: int) -> str:
    return f"has {count_text(len(fields), 'cell')}, and the header {width}"


def _said(error: csv.Error) -> str:
    """Return what is wrong with a line that Python's reader refuses, and what to do."""
    if "new-line character" in str(error):
        return "has a line break outside of quotes; put the cell in quotes"
    if "expected after" in str(error):
        return "goes on after a closing quote; put the whole cell in quotes, and write each quote in it twice"
    if "end of data" in str(error):
        return NEVER_CLOSED
    return "is no CSV; save the file as CSV"


def _record(block: bytes, start: int, stop: int, dialect: Dialect) -> tuple[int, list[str] | None, str]:
    """Return end, cells and problem of the record at `start`; end 0: its closing quote is not there yet."""
    end = start
    ran_out = False

    def lines() -> Iterator[str]:
        nonlocal end, ran_out
        while (after := block.find(dialect.end, end) + 1) and after - start <= MAX_RECORD_BYTES:
            raw, end = block[end:after], after
            yield raw.decode()
        ran_out = True

    line = block[start:stop]
    try:
        if b'"' not in line:  # as `_plain` reads it, whatever the lines around it hold
            text = line.decode().removesuffix(dialect.end.decode())
            return stop, text.removesuffix("\r" * (dialect.end == b"\n")).split(dialect.separator), ""
        fields = next(csv.reader(lines(), delimiter=dialect.separator, strict=True), None)
    except UnicodeDecodeError:
        return stop, None, "is no UTF-8 text; save the file as UTF-8"
    except csv.Error as error:
        if ran_out and len(block) - start <= MAX_RECORD_BYTES:
            return 0, None, ""
        return stop, None, NEVER_CLOSED if ran_out else _said(error)
    if fields is None:
        return stop, None, f"has more than {MAX_RECORD_BYTES} bytes"
    return end, fields, ""


def judge_tail(tail: bytes, width: int, dialect: Dialect) -> tuple[Tail, list[str]]:
    """Say what the bytes after the last whole record are, with the cells if they are whole.

    `whole`: all cells, only the line end lacks. `torn`: too few cells. `wide`: too many, or no text. `open`:
    more than one line since a quote was opened. `blank`: nothing.
    """
    if not tail.strip():
        return "blank", []
    block = parse(tail + dialect.end, width, dialect)
    if block.columns and not block.bad and block.used > len(tail):
        return "whole", [column[0] for column in block.columns]
    if dialect.end in tail:
        return "open", []
    return ("torn" if tail.count(dialect.separator.encode()) < width else "wide"), []


def whole_file(file: BinaryIO, header: Header) -> Iterator[tuple[bytes, list[str] | None]]:
    """Yield the bytes of every record below the header, with its cells, or None for a bad or blank line.

    For a file that nobody writes at the moment: an unfinished last line is judged as it is.
    """
    rest, width, dialect = b"", len(header.columns), header.dialect
    file.seek(header.stop)
    while more := file.read(BLOCK_BYTES):
        rest += more
        used = 0
        for record in records(rest, width, dialect):
            yield rest[record.start : record.stop], record.fields
            used = record.stop
        rest = rest[used:]
        if len(rest) > MAX_RECORD_BYTES:
            yield rest, None
            rest = b""
    while rest:  # below a line whose quote is never closed there may be whole records
        used = 0
        for record in records(rest, width, dialect):
            yield rest[record.start : record.stop], record.fields
            used = record.stop
        rest = rest[used:]
        if not rest:
            return
        kind, fields = judge_tail(rest, width, dialect)
        stop = rest.index(dialect.end) + 1 if kind == "open" else len(rest)
        yield rest[:stop], fields or None
        rest = rest[stop:]


def line_of(cells: Iterable[str], dialect: Dialect) -> bytes:
    """Return one line of CSV; quotes only where a reader needs them. Lone surrogates are spelled out."""
    quoted = (_quoted(cell, dialect.separator) for cell in cells)
    return dialect.separator.join(quoted).encode(errors="backslashreplace") + dialect.newline


def _quoted(cell: str, separator: str) -> str:
    if separator in cell or '"' in cell or "\n" in cell or "\r" in cell:
        return '"' + cell.replace('"', '""') + '"'
    return cell


def lengthened(raw: bytes, count: int, dialect: Dialect, *, before_last: bool) -> bytes:
    """Return the line with `count` empty cells more, at its end or before its last cell, else as it was.

    A bad line grows, too, so that it stays bad.
    """
    text = raw.rstrip(b"\r\n")
    line_end, added = raw[len(text) :], dialect.separator.encode() * count
    if not text.strip() or len(text) > MAX_RECORD_BYTES:
        return raw
    if not before_last:
        return text + added + line_end
    at = _last_separator(text, dialect.separator.encode())
    return text[:at] + added + text[at:] + line_end


def _last_separator(text: bytes, separator: bytes) -> int:
    """Return where the last separator outside quotes stands; the end of the text if there is none."""
    at = len(text)
    pieces = text.split(b'"')
    for number in range(len(pieces) - 1, -1, -1):
        at -= len(pieces[number])
        if number % 2 == 0 and (found := pieces[number].rfind(separator)) >= 0:
            return at + found
        at -= 1
    return len(text)


def line_at(file: BinaryIO, offset: int, end: bytes) -> int:
    """Return the number of the line that begins at this offset, counted from 1."""
    file.seek(0)
    line = 1
    while offset > 0 and (piece := file.read(min(offset, BLOCK_BYTES))):
        offset -= len(piece)
        line += piece.count(end)
    return line


def decimal_comma(block: Block, numbers: Set[int], texts: Set[int]) -> str:
    """Return a number that is written with a comma; empty if there is none.

    `numbers` and `texts` are the places of parameters in the header that are numbers, and that are texts.
    In columns that are no parameters a cell such as `0,1` may be a list, where others have decimal points.
    """
    for places in (numbers, {*range(len(block.columns))} - numbers - texts):
        cells = (cell for place in sorted(places) if block.columns for cell in block.columns[place])
        found = next(filter(_DECIMAL_COMMA.fullmatch, cells), "")
        if found and (places is numbers or not _has_decimal_point(block)):
            return found
    return ""


def _has_decimal_point(block: Block) -> bool:
    return any(_DECIMAL_POINT.fullmatch(cell) for column in block.columns for cell in column)
