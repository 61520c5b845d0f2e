"""Cut the middle out of a log that other processes append to, and leave of progress bars their last state.

The file stays the same one, so whoever has it open goes on writing; what is written in the instant of the cut
may be lost. Its writers open it to append.
"""

import os
import re
from collections import deque
from pathlib import Path
from typing import BinaryIO

from distexp.system.files import regular

READ_BYTES = 1 << 20
MARK_BYTES = 200  # of the line that says what was cut
LEFT_OUT = re.compile(rb"\n?# (\d+) bytes of output are left out here[^\n]*\n")


class _Ends:
    """The beginning and the end of a text that comes in pieces."""

    def __init__(self, max_bytes: int) -> None:
        self.head = bytearray()
        self._pieces: deque[bytes] = deque()
        self._max_bytes, self._head_bytes = max_bytes, max_bytes // 2
        self.left_out = 0  # bytes between the two
        self._held = 0  # bytes in the pieces

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        if room := self._head_bytes - len(self.head):
            self.head += piece[:room]
            piece = piece[room:]
        self._pieces.append(piece)
        self._held += len(piece)
        while self._head_bytes + self._held - len(self._pieces[0]) > self._max_bytes:
            self.left_out += len(self._pieces[0])
            self._held -= len(self._pieces.popleft())

    def joined(self, hint: str) -> bytes:
        """Return the text, or where it is too long its two ends, with a line that says so."""
        tail = b"".join(self._pieces)
        total = self.left_out + len(self.head) + len(tail)
        if total <= self._max_bytes:
            return bytes(self.head) + tail
        earlier = LEFT_OUT.search(self.head + tail[:MARK_BYTES])
        until = earlier.start() if earlier else self.head.rfind(b"\n", len(self.head) // 2) + 1
        head = bytes(self.head[: until or None])
        kept = tail[max(0, len(tail) - self._max_bytes // 4) :]
        kept = kept[kept.find(b"\n", 0, len(kept) // 2) + 1 :]  # from the beginning of a line on
        left_out = total - len(head) - len(kept)
        left_out += int(earlier[1]) - len(earlier[0]) if earlier else 0
        end = b"" if head.endswith(b"\n") else b"\n"
        return head + end + b"# %d bytes of output are left out here%s\n" % (left_out, hint.encode()) + kept


def shorten(path: Path, max_bytes: int, *, has_ended: bool = False, hint: str = "") -> None:
    """Bring a log that is longer than `max_bytes` to three quarters of that at most; else leave it.

    Args:
        path: Of the log; nothing happens where there is none.
        max_bytes: What it may hold.
        has_ended: Nobody writes to it any more: also replace each line by its last state, as a terminal
            shows it: what follows its last carriage return.
        hint: Stands behind the count of bytes that are left out.

    Raises:
        OSError: It cannot be read or written.
    """
    try:
        file = open(path, "r+b", opener=_to_append)  # noqa: SIM115 - the file may not be there
    except FileNotFoundError:
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        if size <= max_bytes and not (has_ended and _has_carriage_return(file)):
            return
        ends = _Ends(max_bytes)
        _take(file, 0, size, ends)
        late = os.fstat(file.fileno()).st_size
        start = max(size, late - max_bytes // 4)  # a program that writes faster than this reads is not chased
        ends.left_out += start - size
        _take(file, start, late, ends)
        text = ends.joined(hint)
        same = _common_start(file, text)
        file.seek(late)
        latest = file.read(max_bytes)
        file.truncate(same)
        file.write(text[same:] + latest)


def _to_append(path: str | os.PathLike[str], flags: int) -> int:
    return regular(path, flags | os.O_APPEND)


def _take(file: BinaryIO, start: int, until: int, ends: _Ends) -> None:
    file.seek(start)
    rest = b""
    while piece := file.read(min(READ_BYTES, until - file.tell())):
        whole, rest = _collapsed(rest + piece)
        ends.add(whole)
    ends.add(rest)


def _has_carriage_return(file: BinaryIO) -> bool:
    return any(b"\r" in piece for piece in iter(lambda: file.read(READ_BYTES), b""))


def _collapsed(text: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines of a text, and what follows them, each in its last state."""
    at = text.rfind(b"\n") + 1
    whole, rest = text[:at], text[at:]
    if b"\r" in whole:
        whole = b"\n".join(map(_last_state, whole.split(b"\n")))
    rest = _last_state(rest) if b"\r" in rest else rest
    return (whole + rest, b"") if len(rest) > READ_BYTES else (whole, rest)


def _last_state(line: bytes) -> bytes:
    """Return what a terminal shows of a line; a carriage return at its end stays, for what may follow."""
    end = b"\r" if line.endswith(b"\r") else b""
    return line.rstrip(b"\r").rpartition(b"\r")[2] + end


def _common_start(file: BinaryIO, text: bytes) -> int:
    """Return up to where file and text are equal; what comes in the instant of the cut stands after that."""
    file.seek(0)
    for at in range(0, len(text), READ_BYTES):
        piece = text[at : at + READ_BYTES]
        if (there := file.read(len(piece))) != piece:
            pairs = enumerate(zip(there, piece, strict=False))
            return at + next((n for n, (one, other) in pairs if one != other), len(there))
    return len(text)
