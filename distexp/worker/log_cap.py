"""Keeps the log of a task within its limit, while the task writes to it and after its end."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distexp.run_folder import LOG_FILE
from distexp.system.beside import Latest
from distexp.system.shorten import shorten
from distexp.worker.task_main import Run

MAX_LOG_MB = 100
LOOK_S = 1.0  # between two looks at the size: what a task prints meanwhile lies on the disk


class LogCap:
    """The logs of a worker's tasks.  For one thread."""

    def __init__(self, max_mb: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_mb * 1_000_000
        self._hint = f" (--max-log-mb {max_mb})"
        self._clock = clock
        self._run: Run | None = None
        self._lock = threading.Lock()  # the last look may still be at it when the task has ended
        self._last_look = Latest(self._look, None)
        self.next_look_s = 0.0

    def begin(self, run: Run | None) -> None:
        """Look at the log of this attempt from now on."""
        self._run = run
        self.next_look_s = self._clock() + LOOK_S

    def look(self) -> None:
        """Cut the log's middle out if it has become too long. Returns at once: it is done beside."""
        if self._clock() >= self.next_look_s:
            self.next_look_s = self._clock() + LOOK_S
            self._last_look.read(0.0)

    def _look(self) -> None:
        if (run := self._run) is None:
            return
        for path in (Path(run.log), Path(run.run_folder, LOG_FILE)):  # before and after the folder was made
            with suppress(OSError), self._lock:  # a full disk: the next look tries again
                shorten(path, self._max_bytes, hint=self._hint)

    def close(self, log: Path) -> None:
        """Bring the log of an attempt that has ended to its last form."""
        with suppress(OSError), self._lock:  # a full disk: the log is as it was
            shorten(log, self._max_bytes, has_ended=True, hint=self._hint)
