"""Sends everything a task prints to its log; what a full disk does not take is dropped and fails no task."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # line ends are as written


class LogWriter(io.RawIOBase):
    """Writes to the log's descriptor, and drops what it does not take."""

    def __init__(self, descriptor: int, begin: Callable[[], None], lost: Callable[[OSError], None]) -> None:
        """Call `begin` before each write, and `lost` each time that output is dropped."""
        self._descriptor, self._begin, self._lost = descriptor, begin, lost

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor, for programs that the task starts."""
        return self._descriptor

    def write(self, data: Any) -> int:
        """Write as much as the log takes; return as if it were all when it takes nothing."""
        try:
            self._begin()
            return os.write(self._descriptor, data)
        except OSError as error:
            self._lost(error)
            return len(data)


def redirect_output(path: Path, begin: Callable[[], None], lost: Callable[[OSError], None]) -> None:
    """Append everything this process prints, at any level, to a log.

    Args:
        path: Of the log.
        begin: Called before the first output that Python prints: it moves the log to where people look.
        lost: Called once if the log does not take the output; the rest of that is dropped.
    """
    losses: list[OSError] = []
    begun: list[None] = []

    def begin_once() -> None:
        if not begun:
            begin()
            begun.append(None)

    def lose(error: OSError) -> None:
        if not losses:
            losses.append(error)
            lost(error)

    try:
        log = os.open(path, APPEND, 0o666)
    except OSError as error:  # the disk has filled up since the folder was made
        lose(error)
        log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout, sys.stderr = (_text_stream(LogWriter(number, begin_once, lose)) for number in (1, 2))


def _text_stream(writer: LogWriter) -> io.TextIOWrapper:
    """Return a stream of lines: the last one before a crash tells most."""
    buffer = io.BufferedWriter(writer)
    return io.TextIOWrapper(
        buffer, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )


def warn(text: str) -> None:
    """Print a warning of ours between the lines of the task, which may have replaced its streams."""
    with contextlib.suppress(Exception):
        print(f"warning: {text}", flush=True)


def end_output(error: str = "") -> None:
    """Print how the task failed, if it has, and flush what it has printed; broken streams fail no task."""
    with contextlib.suppress(Exception):
        if error:
            print(error, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
