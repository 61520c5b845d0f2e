"""Send log lines to the console and to files, in one format."""

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from distexp.text import one_line


class OneLine(logging.Formatter):
    """Keeps a message, which may quote a peer, from looking like two, or from steering a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record; the traceback of a bug follows on lines of its own."""
        return one_line(super().formatMessage(record))


FORMAT = OneLine("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


def is_terminal() -> bool:
    """Return whether standard output is a terminal on which a view can be drawn."""
    can_draw = (sys.stdout.encoding or "").lower().startswith("utf")  # bars and borders
    return sys.stdout.isatty() and can_draw and os.environ.get("TERM") != "dumb"


def log_to_console() -> None:
    """Show log lines on standard output, from INFO up."""
    _add(logging.StreamHandler(sys.stdout))


def log_to_file(path: Path) -> logging.Handler:
    """Append log lines to `path`, too, until the handler is closed; a full disk costs lines, nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _add(logging.FileHandler(path, encoding="utf-8", delay=True))


def log_to(handler: logging.Handler) -> logging.Handler:
    """Hand log lines to the handler, too."""
    return _add(handler)


def stop_logging_to(handler: logging.Handler) -> None:
    """End what `log_to_file` or `log_to` began; lines that a full disk has not taken are lost."""
    logging.getLogger().removeHandler(handler)
    with suppress(OSError):
        handler.close()


class WorkerLog:
    """`worker_<id>.log` in the results folder of the task that runs."""

    def __init__(self, worker_id: str) -> None:
        self._name = f"worker_{worker_id}.log"
        self._folder: Path | None = None
        self._handler: logging.Handler | None = None

    def follow(self, folder: Path) -> None:
        """Write to the log in this folder from now on."""
        if folder != self._folder:
            self.close()
            self._folder, self._handler = folder, log_to_file(folder / self._name)

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
