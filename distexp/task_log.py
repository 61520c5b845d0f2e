"""Reads a task's log (all it printed): its last lines, or pieces that fit into a message.

A piece ends between two characters, so pieces joined are the text, also while the task still writes.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path

from distexp.errors import ProtocolError
from distexp.system.files import regular

PIECE_BYTES = 128 * 1024  # six bytes of JSON for one of text at worst: below MAX_MESSAGE_BYTES
TAIL_BYTES = 16_000  # read from the log's end for its last lines


@dataclass(frozen=True)
class Piece:
    """A part of a log."""

    text: str
    offset: int  # in bytes: where the next piece begins
    size: int  # of the whole log now, in bytes


def read_piece(path: Path, offset: int) -> Piece | None:
    """Return the log from `offset` (bytes) on, at most `PIECE_BYTES`; None when there is no log.

    A log that is shorter than `offset` was begun anew, and is read from its start.

    Raises:
        ProtocolError: It is there, and cannot be read now.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            size = file.seek(0, 2)
            offset = offset if offset <= size else 0
            file.seek(offset)
            data = file.read(PIECE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read now ({error.strerror})") from error
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    unfinished, _ = decoder.getstate()
    return Piece(text, offset + len(data) - len(unfinished), size)


def last_lines(path: Path, lines: int, start: int = 0) -> list[str]:
    """Return the last lines of a task's log from `start` (bytes) on, as far as it can be read."""
    try:
        with open(path, "rb", opener=regular) as file:
            size = file.seek(0, 2)
            start = start if start <= size else 0  # its middle was cut out
            file.seek(max(start, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")  # no more, however fast the task writes
    except OSError:
        return []
    return text.splitlines()[-lines:]
