"""Bytes onto the disk: whole or not at all, and there after a power cut.

Caller holds the lock of the file. Every function raises OSError as it came and then has changed nothing.
"""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from distexp.results.csv_format import BOM, Header, line_of, whole_file
from distexp.system.files import sync_folder

TORN_SUFFIX = ".torn"
LAST_COLUMN = "duration_s"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


def append_durably(path: Path, data: bytes) -> os.stat_result:
    """Append `data` in one write and sync it, or cut off what fits only in part; return the file's status.

    Raises:
        OSError: Nothing was appended.
    """
    created = not path.exists()
    descriptor = os.open(path, _APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # a device has no size; the first error is the one that tells
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if created:
        sync_folder(path.parent)
    return os.stat(path)  # of the closed file: an open one has no final time on Windows


def set_aside(path: Path, offset: int, tail: bytes) -> bool:
    """Move the torn last line to the `.torn` file beside; return False if it is no longer the last line."""
    with open(path, "r+b") as file:
        file.seek(offset)
        if file.read(len(tail) + 1) != tail:
            return False
        append_durably(path.with_name(path.name + TORN_SUFFIX), tail + b"\n")
        file.truncate(offset)
        os.fsync(file.fileno())
    return True


def widen(path: Path, header: Header, added: tuple[str, ...]) -> tuple[str, ...]:
    """Give the file more columns, empty in every row, by replacing it with a copy; return all columns.

    A `duration_s` at the end stays there: a torn write may cost digits of the last cell. Bad lines are kept,
    and stay bad, since every record grows by the same number of fields.
    """
    at = len(header.columns) - (header.columns[-1] == LAST_COLUMN)
    columns = header.columns[:at] + added + header.columns[at:]
    target = Path(os.path.realpath(path))  # a link stays a link
    copy = target.with_name(target.name + ".tmp")
    try:
        with open(target, "rb") as old, open(copy, "wb") as new:
            new.write(BOM if old.read(len(BOM)) == BOM else b"")
            new.write(line_of(columns, header.newline))
            for raw, fields in whole_file(old, header):
                new.write(_lengthened(raw, fields, len(added), before_last=at < len(header.columns)))
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(target, copy)
        os.replace(copy, target)
    except OSError:
        with suppress(OSError):
            copy.unlink()
        raise
    sync_folder(target.parent)
    return columns


def _lengthened(raw: bytes, fields: list[str] | None, count: int, *, before_last: bool) -> bytes:
    text = raw.rstrip(b"\r\n")
    line_end, commas = raw[len(text) :], b"," * count
    if not text.strip():
        return raw
    if fields is None or not before_last:
        return text + commas + line_end
    if text.endswith(b'"'):
        return line_of([*fields[:-1], *[""] * count, fields[-1]], line_end)
    head, comma, last = text.rpartition(b",")
    return head + commas + comma + last + line_end


def lacks_newline(path: Path) -> bool:
    """Return whether the file has a last line without its newline."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
