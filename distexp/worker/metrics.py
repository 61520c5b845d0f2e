"""Records what a task reports over time: `metrics.csv` in its run folder, and TensorBoard files if installed.

Runs in the task's child. A full disk or a broken TensorBoard does not fail the task: its log gets a warning,
and the recording ends there.
"""

import csv
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distexp.results.csv_format import Dialect, line_of
from distexp.run_folder import METRICS_FILE
from distexp.system.files import regular
from distexp.task import Number, Reportable
from distexp.text import cell_text
from distexp.worker.output import warn

MAX_DENSE_LINES = 10_000  # every report up to here, then one a second: a million steps stay a small file
MAX_COLUMNS = 1000  # further metrics are left out
FLUSH_EVERY_S = 1.0  # what a crash may cost
BOARD = "distexp.experiments.board"  # imports torch
_BOARD_PROBLEMS = (
    ImportError,
    OSError,
    AttributeError,
    TypeError,
    ValueError,
)  # of one that does not fit torch


class MetricsFile:
    """The reports of one attempt.  For one thread."""

    def __init__(
        self,
        folder: Path,
        attempt: int,
        clock: Callable[[], float] = time.monotonic,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Write nothing yet: the first report does, after it has called `begin`, which makes the folder."""
        self._path, self._folder, self._attempt, self._clock = folder / METRICS_FILE, folder, attempt, clock
        self._begin = begin
        self._began_s = self._flushed_s = clock()
        self._columns: list[str] = []
        self._file: BinaryIO | None = None
        self._board: Any = None
        self._lines = 0
        self._has_ended = False

    def add(self, step: Number, total: Number | None, metrics: Mapping[str, Reportable]) -> None:
        """Append one report."""
        now_s = self._clock()
        is_last = total is not None and step >= total
        is_due = now_s - self._flushed_s >= FLUSH_EVERY_S or is_last
        if self._has_ended or (self._lines >= MAX_DENSE_LINES and not is_due):
            return
        try:
            if self._file is None:
                self._begin()
                self._file = self._open()
                self._board = _open_board(self._folder, step)
            elapsed_s = round(now_s - self._began_s, 3)
            about = {"attempt": self._attempt, "step": step, "total": total, "elapsed_s": elapsed_s}
            self._write(about | {_beside(name, about): value for name, value in metrics.items()})
            if self._board is not None:
                for name, value in metrics.items():
                    if value is not None and not isinstance(value, str):
                        self._board.add_scalar(name, value, int(step))
            if is_due:
                self._flush(now_s)
        except OSError as error:
            self._end(error)

    def close(self) -> None:
        """Bring what is left to the disk; later reports, of a thread that goes on, are left out."""
        self._has_ended = True
        try:
            if self._board is not None:
                self._board.close()
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        self._has_ended = True
        warn(f"{self._path}: cannot be written ({error.strerror or error}); the curve ends")

    def _open(self) -> BinaryIO:
        """Open the file of this and earlier attempts; a last line that a kill has torn is cut off."""
        file = open(self._path, "a+b", opener=regular)  # noqa: SIM115 - open until the task ends
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            file.truncate(len(whole))
        first = whole.partition(b"\n")[0].decode(errors="replace")
        self._columns = next(csv.reader([first]), [])
        return file

    def _write(self, row: Mapping[str, Reportable]) -> None:
        added = [name for name in row if name not in self._columns][: MAX_COLUMNS - len(self._columns)]
        if added:
            self._widen(added)
        assert self._file is not None
        cells = [_cell(row[name]) if name in row else "" for name in self._columns]
        self._file.write(line_of(cells, Dialect()))
        self._lines += 1

    def _widen(self, added: Sequence[str]) -> None:
        """Give the file more columns, empty in the lines that are there."""
        assert self._file is not None
        self._file.close()
        had = bool(self._columns)
        self._columns += added
        old = self._path.read_bytes().split(b"\n")[had:-1]
        copy = self._path.with_name(f"{METRICS_FILE}.tmp")
        lines = [line + b"," * len(added) + b"\n" for line in old]
        copy.write_bytes(line_of(map(_cell, self._columns), Dialect()) + b"".join(lines))
        os.replace(copy, self._path)
        self._file = open(self._path, "ab", opener=regular)  # noqa: SIM115 - open until the task ends

    def _flush(self, now_s: float) -> None:
        self._flushed_s = now_s
        if self._file is not None:
            self._file.flush()
        if self._board is not None:
            self._board.flush()


def _beside(name: str, taken: Mapping[str, Reportable]) -> str:
    """Return the column of a metric; one that is called like a column of ours gets another name."""
    return f"metric_{name}" if name in taken else name


def _cell(value: Reportable) -> str:
    """Return one line: a record is a line of the file, whatever a text holds."""
    if value is None:
        return ""
    return " ".join(cell_text(value).splitlines()) if isinstance(value, str) else cell_text(value)


def import_board() -> Any:
    """Return the module that writes for TensorBoard; None without it, or for a task that has no torch."""
    try:
        found = importlib.util.find_spec("tensorboard") if "torch" in sys.modules else None
        is_installed = found is not None and found.origin is not None  # not a mere folder of that name
        return importlib.import_module(BOARD) if is_installed else None
    except _BOARD_PROBLEMS as error:
        print(f"warning: no curves for TensorBoard: {error}", file=sys.stderr, flush=True)
        return None


def block_board() -> None:
    """Let `import_board` find none from now on: it has failed in a way of its own."""
    sys.modules[BOARD] = None  # type: ignore[assignment]  # Python's own sign for a module not to be imported


def _open_board(folder: Path, first_step: Number) -> Any:
    board = import_board()
    return None if board is None else board.open_board(folder, int(first_step))
