"""CSV text: bytes <-> header and records, one bad line never hiding the next.

Nothing is inferred: a field is a str. A newline inside quotes belongs to its record only if the record then
has as many fields as the header; if not, its first line alone is bad, and reading goes on with the next line.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Literal

import msgspec

BLOCK_BYTES = 1 << 16  # read at a time; more rows alive at once would keep the garbage collector busy
MAX_RECORD_BYTES = 4 << 20  # longer is junk: four times the largest message that could bring a row
BOM = b"\xef\xbb\xbf"

csv.field_size_limit(MAX_RECORD_BYTES)  # the module's own 131072 would hide rows with a long list in them

Tail = Literal["blank", "whole", "torn", "wide", "open"]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file that is not blank."""

    columns: tuple[str, ...]
    digest: str
    end: int  # offset of the byte after it
    newline: bytes  # the file's style: b"\n" or b"\r\n"
    closed: bool  # its newline was there
    problem: str = ""  # why no row can be read under it: found and expected


class Record(msgspec.Struct, frozen=True):
    """One record of a block: bytes `start` to `stop`, which begins at line `line` of it, counted from 0."""

    start: int
    stop: int
    line: int
    fields: list[str] | None  # None: a bad line, or a blank one when `found` is empty
    found: str = ""


class Block(msgspec.Struct):
    """What a run of whole lines holds."""

    columns: list[Sequence[str]]  # of the good records; empty: there is none
    bad: list[tuple[int, str]]  # line within the block, counted from 0; what was found there
    used: int  # bytes read; what follows is no whole record yet
    offset: int = 0  # where the block stands in the file


def read_header(file: BinaryIO) -> Header | None:
    """Return the header, or None for a file without text. Reads no more than it must."""
    file.seek(0)
    raw = file.readline(MAX_RECORD_BYTES).removeprefix(BOM)
    while raw and not raw.strip():
        raw = file.readline(MAX_RECORD_BYTES)
    if not raw:
        return None
    while raw.count(b'"') % 2 and len(raw) < MAX_RECORD_BYTES and (more := file.readline(MAX_RECORD_BYTES)):
        raw += more
    text = raw.rstrip(b"\r\n")
    columns, problem = _columns(text)
    return Header(
        columns=columns,
        digest=hashlib.sha256(text).hexdigest()[:20],
        end=file.tell(),
        newline=b"\r\n" if raw.endswith(b"\r\n") else b"\n",
        closed=raw.endswith(b"\n"),
        problem=problem,
    )


def _columns(raw: bytes) -> tuple[tuple[str, ...], str]:
    try:
        text = raw.decode()
        fields = next(csv.reader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError:
        return (), "found bytes that are not UTF-8 text, expected names of columns"
    except csv.Error as error:
        return (), f"found a line that is no CSV ({error}), expected names of columns"
    if "\0" in text:
        return (), "found NUL bytes, expected names of columns"
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(fields) == 1 and separator in text:
            return (), f"found {name} between the columns, expected commas"
    return tuple(field.strip() for field in fields), ""


def blocks(file: BinaryIO, offset: int, width: int) -> Iterator[Block]:
    """Yield what the file holds from `offset`, the start of a line, to its last whole record."""
    rest = b""
    while more := _read_at(file, offset + len(rest)):
        text = rest + more
        block = parse(text, width)
        block.offset = offset
        rest = text[block.used :]
        if len(rest) > MAX_RECORD_BYTES:
            stop = _next_line(file, offset + block.used + len(rest))
            if stop is None:
                return  # one line without an end: looked at again when the file has grown
            line = text.count(b"\n", 0, block.used)
            block.bad.append((line, f"a line of more than {MAX_RECORD_BYTES} bytes"))
            block.used, rest = stop - offset, b""
        yield block
        offset += block.used


def _read_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(BLOCK_BYTES)


def _next_line(file: BinaryIO, offset: int) -> int | None:
    """Return where the line after the one around `offset` begins, or None if it never ends."""
    while more := _read_at(file, offset):
        if at := more.find(b"\n") + 1:
            return offset + at
        offset += len(more)
    return None


def parse(block: bytes, width: int) -> Block:
    """Return the columns of all whole records with `width` fields in `block`, and the bad lines."""
    used = block.rfind(b"\n") + 1
    if b'"' not in block and b"\0" not in block:
        try:
            text = block[:used].decode()
        except UnicodeDecodeError:
            pass  # line by line, then
        else:
            return _plain(text, width, used)
    rows, bad, used = list[list[str]](), list[tuple[int, str]](), 0
    for record in records(block, width):
        used = record.stop
        if record.fields is not None:
            rows.append(record.fields)
        elif record.found:
            bad.append((record.line, record.found))
    return Block(columns=list(zip(*rows, strict=True)), bad=bad, used=used)


def _plain(text: str, width: int, used: int) -> Block:
    """Read lines without quotes: the common case, and five times as fast, more so if all are good."""
    text = text.replace("\r\n", "\n")
    lines, step = text.count("\n"), width + 1
    if lines and width > 1:  # else a blank line looks like a record
        cells = text.replace("\n", ",\n,").split(",")  # of each line, then a newline
        if len(cells) == lines * step + 1 and cells[width::step].count("\n") == lines:
            return Block(columns=[cells[at:-1:step] for at in range(width)], bad=[], used=used)
    rows, bad = list[list[str]](), list[tuple[int, str]]()
    for number, line in enumerate(text.split("\n")):
        fields = line.split(",")
        if len(fields) == width and line:
            rows.append(fields)
        elif line.strip():
            bad.append((number, _fields(fields)))
    return Block(columns=list(zip(*rows, strict=True)), bad=bad, used=used)


def records(block: bytes, width: int) -> Iterator[Record]:
    """Yield every whole record of `block`, blank and bad lines included."""
    start = line = 0
    while stop := block.find(b"\n", start) + 1:
        raw = block[start:stop]
        if not raw.strip():
            record = Record(start, stop, line, None)
        else:
            end, fields, found = _record(block, start, stop)
            if end == 0:
                return
            if fields is not None:
                found = "NUL bytes" if b"\0" in block[start:end] else ""
                found = found or (_fields(fields) if len(fields) != width else "")
            record = Record(start, stop, line, None, found) if found else Record(start, end, line, fields)
        yield record
        line += block.count(b"\n", start, record.stop)
        start = record.stop


def _fields(fields: Sequence[str]) -> str:
    return f"{len(fields)} field{'s' * (len(fields) != 1)}"


def _record(block: bytes, start: int, stop: int) -> tuple[int, list[str] | None, str]:
    """Return end, fields and problem of the record at `start`; end 0: its closing quote is not there yet."""
    end = start
    ran_out = False

    def lines() -> Iterator[str]:
        nonlocal end, ran_out
        while (after := block.find(b"\n", end) + 1) and after - start <= MAX_RECORD_BYTES:
            raw, end = block[end:after], after
            yield raw.decode()
        ran_out = True

    try:
        fields = next(csv.reader(lines(), strict=True))
    except UnicodeDecodeError:
        return stop, None, "bytes that are not UTF-8 text"
    except csv.Error as error:
        if ran_out and len(block) - start <= MAX_RECORD_BYTES:
            return 0, None, ""
        return stop, None, "a quote that is never closed" if ran_out else f"a line that is no CSV ({error})"
    return end, fields, ""


def judge_tail(tail: bytes, width: int) -> tuple[Tail, list[str]]:
    """Say what the bytes after the last whole record are, with the fields if they are whole.

    `whole`: all fields, only the newline lacks. `torn`: too few fields. `wide`: too many, or no text. `open`:
    more than one line since a quote was opened. `blank`: nothing.
    """
    if not tail.strip():
        return "blank", []
    block = parse(tail + b"\n", width)
    if block.columns and not block.bad and block.used > len(tail):
        return "whole", [column[0] for column in block.columns]
    if b"\n" in tail:
        return "open", []
    return ("torn" if tail.count(b",") < width else "wide"), []


def whole_file(file: BinaryIO, header: Header) -> Iterator[tuple[bytes, list[str] | None]]:
    """Yield the bytes of every record below the header, with its fields, or None for a bad or blank line.

    For a file that nobody writes at the moment: an unfinished last line is judged as it is.
    """
    rest, width = b"", len(header.columns)
    file.seek(header.end)
    while more := file.read(BLOCK_BYTES):
        rest += more
        used = 0
        for record in records(rest, width):
            yield rest[record.start : record.stop], record.fields
            used = record.stop
        rest = rest[used:]
        if len(rest) > MAX_RECORD_BYTES:
            yield rest, None
            rest = b""
    while rest:
        kind, fields = judge_tail(rest, width)
        stop = rest.index(b"\n") + 1 if kind == "open" else len(rest)
        yield rest[:stop], fields or None
        rest = rest[stop:]


def line_of(cells: Iterable[str], newline: bytes) -> bytes:
    """Return one line of CSV; quotes only where a reader needs them. Lone surrogates are spelled out."""
    return ",".join(map(_quoted, cells)).encode(errors="backslashreplace") + newline


def _quoted(cell: str) -> str:
    if "," in cell or '"' in cell or "\n" in cell or "\r" in cell:
        return '"' + cell.replace('"', '""') + '"'
    return cell
