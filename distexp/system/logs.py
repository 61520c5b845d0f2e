"""Send log lines to the console and to files, in one format."""

import logging
import logging.handlers
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distexp.system.files import private
from distexp.system.shorten import shorten
from distexp.text import one_line


class OneLine(logging.Formatter):
    """Keeps a message, which may quote a peer, from looking like two, or from steering a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record; the traceback of a bug follows on lines of its own."""
        return one_line(super().formatMessage(record))


FORMAT = OneLine("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


MAX_BYTES = 10_000_000  # of a log; then it is named `.1`, the one before `.2`, ...
KEPT = 5  # earlier ones
LOOK_EVERY = 100  # lines between two looks at its size and name: each costs as much as a line
CLOSE_S = 2.0  # for the last lines to be written


JOB_LOG = "DISTEXP_JOB_LOG"  # set: standard output is a file of this process alone, which nobody rotates


class _Console(logging.StreamHandler[Any]):
    """Standard output; of a job, whose file is appended to, the middle is cut out once it is a long log."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._is_job = bool(os.environ.pop(JOB_LOG, ""))  # not for the tasks that this process starts
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        super().emit(record)
        self._lines += 1
        if self._is_job and self._lines % LOOK_EVERY == 0:
            with suppress(OSError):  # it is a pipe, say
                shorten(Path("/dev/stdout"), MAX_BYTES)


class BesideHandler(logging.Handler):
    """Lets a thread write the lines: the disk below a log, or a console that is a file, may hang."""

    def __init__(self, target: logging.Handler) -> None:
        """Write them by `target`, which nobody else uses."""
        super().__init__()
        self._target = target
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Let `target` write them in this form."""
        self._target.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record in line."""
        self._records.put(record)

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            with suppress(Exception):  # a file that cannot be opened costs lines, nothing else
                self._target.emit(record)

    def close(self) -> None:
        """Write what is left; returns after `CLOSE_S` at most."""
        self._records.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            _hanging.append(self)
        else:
            self._target.close()
        super().close()


_hanging: list[BesideHandler] = []


def is_hanging() -> bool:
    """Return whether lines were left that no disk took: the interpreter would wait for them at its end."""
    return bool(_hanging)


def is_terminal() -> bool:
    """Return whether standard output is a terminal on which a view can be drawn."""
    can_draw = (sys.stdout.encoding or "").lower().startswith("utf")  # bars and borders
    return sys.stdout.isatty() and can_draw and os.environ.get("TERM") != "dumb"


def log_to_console() -> None:
    """Show log lines on standard output, from INFO up."""
    _add(_Console())


@contextmanager
def logging_to_console_beside() -> Iterator[None]:
    """Do the same meanwhile, for a process that must not wait for a console."""
    handler = _add(BesideHandler(_Console()))
    try:
        yield
    finally:
        stop_logging_to(handler)


def log_to_file(path: Path) -> logging.Handler:
    """Append log lines to `path`, too, until the handler is closed; a full disk costs lines, nothing else."""
    return _add(_file_handler(path))


def _file_handler(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _RotatingFile(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """A log that its owner alone may read. On a shared disk, workers of several hosts may write to one."""

    _lines = 0

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors="replace", opener=private)

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Return whether the file is long; one that somebody else has renamed is left, and begun anew."""
        self._lines += 1
        if self._lines % LOOK_EVERY != 1 % LOOK_EVERY:
            return False
        stream = self.stream
        if stream is not None and not _is_at(self.baseFilename, stream.fileno()):
            stream.close()
            self.stream = None
        return bool(super().shouldRollover(record))

    def doRollover(self) -> None:
        """Name the file `.1`, the one before `.2`, ...; begin a new one.

        Where another program has it open, on Windows, it keeps its name, and its text goes to `.1`. Older
        ones move once that has worked: each failure would push one of them out.
        """
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        newest = f"{self.baseFilename}.0"
        with suppress(OSError):  # a full disk, say: the file goes on
            try:
                os.replace(self.baseFilename, newest)
            except PermissionError:
                shutil.copy2(self.baseFilename, newest)
                os.truncate(self.baseFilename, 0)
            for number in reversed(range(KEPT)):
                with suppress(OSError):  # there are fewer, or another program has one open
                    os.replace(f"{self.baseFilename}.{number}", f"{self.baseFilename}.{number + 1}")


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def log_to(handler: logging.Handler) -> logging.Handler:
    """Hand log lines to the handler, too."""
    return _add(handler)


def stop_logging_to(handler: logging.Handler) -> None:
    """End what `log_to_file` or `log_to` began; lines that a full disk has not taken are lost."""
    logging.getLogger().removeHandler(handler)
    with suppress(OSError):
        handler.close()


class WorkerLog:
    """A worker's log in the results folder of the task that runs; written beside, since disks may hang."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._folder: Path | None = None
        self._handler: logging.Handler | None = None

    def follow(self, folder: Path) -> None:
        """Write to the log in this folder from now on."""
        if folder != self._folder:
            self.close()
            handler = BesideHandler(_file_handler(folder / self._name))
            self._folder, self._handler = folder, _add(handler)

    def close(self) -> None:
        """Write to no folder until the next `follow`."""
        if self._handler is not None:
            stop_logging_to(self._handler)
        self._folder = self._handler = None


def _add(handler: logging.Handler) -> logging.Handler:
    logging.raiseExceptions = False  # a line that cannot be written is no reason to print a traceback
    handler.setFormatter(FORMAT)
    logging.getLogger("distexp").setLevel(logging.INFO)  # of others, warnings are enough
    logging.getLogger().addHandler(handler)
    return handler
