"""Says on standard error how far long work is: a bar on a terminal, else a line every 10 s.

Standard library alone, but for the bar: the launchers use it before anything is installed.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET_S = 1.0  # of work in all, in which nothing is said: most sweeps take no longer
LINE_S = 10.0  # between two lines where there is no terminal
CLEAR_LINE = "\r\x1b[2K"
TICK_S = 0.25  # between two looks: a bar that moves

Clock = Callable[[], float]


@dataclass(frozen=True)
class Step:
    """What is done now."""

    what: str
    done: int
    total: int  # 0: not known
    seconds: float  # since the work began

    @property
    def now(self) -> str:
        """How far it is, and for how long the work has lasted."""
        share = f"{100 * min(self.done, self.total) // self.total} %, " if self.total else ""
        return f"{share}{self.seconds:.0f} s"

    @property
    def text(self) -> str:
        """The step as a line."""
        return f"{self.what}: {self.now}"


class LongWork:
    """Work in steps, which is told of while its `with` lasts; without one, nothing is said."""

    def __init__(self, say: Callable[[str], None] | None = None, *, clock: Clock = time.monotonic) -> None:
        """Say nothing yet.

        Args:
            say: Gets a line every 10 s, in place of standard error.
            clock: Tells the seconds.
        """
        self._clock, self._say = clock, say
        self._what, self._done, self._total = "", 0, 0
        self._began_s = self._said_s = 0.0  # the latter since the former
        self._bar: _Bar | None = None
        self._lock = threading.Lock()  # of what is shown
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, what: str, total: int = 0) -> None:
        """Go on to the next step, of which `total` pieces are to be done; 0: nobody knows."""
        self._what, self._done, self._total = what, 0, total

    def advance(self, pieces: int) -> None:
        """Note that so many more pieces are done."""
        self._done += pieces

    def now(self) -> Step | None:
        """Return what is done now; None where that has not taken long yet.  Safe from any thread."""
        seconds = self._clock() - self._began_s
        if self._thread is None or seconds < QUIET_S or not self._what:
            return None
        return Step(self._what, self._done, self._total, seconds)

    def tick(self) -> None:
        """Show what is due by now.  Safe from any thread."""
        step = self.now()
        with self._lock, suppress(OSError, ValueError):  # the terminal is gone
            if step is None:
                return
            if self._say is None and _is_terminal():
                self._bar = self._bar or _Bar()
                self._bar.draw(step)
            elif step.seconds - self._said_s >= LINE_S:
                self._said_s = step.seconds
                (self._say or _print)(step.text)

    def __enter__(self) -> Self:
        self._began_s, self._said_s = self._clock(), 0.0
        self._is_over.clear()
        self._thread = threading.Thread(target=self._follow, name="long work", daemon=True)
        self._thread.start()
        return self

    def _follow(self) -> None:
        while not self._is_over.wait(TICK_S):
            self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._is_over.set()
        self._thread.join()
        self._thread = None
        if self._bar is not None:
            with suppress(OSError, ValueError):  # the terminal is gone
                self._bar.clear()
            self._bar = None


class _Bar:
    """A bar at the foot of the terminal; while rich is not installed, a line."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        with suppress(ImportError):
            from rich import progress  # a tenth of a second, which only long work has to wait for
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[now]}"),
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,  # which may go to a file
            )
            self._bar.start()
            self._task = self._bar.add_task("", now="")

    def draw(self, step: Step) -> None:
        """Show the step."""
        if self._bar is None:
            print(f"{CLEAR_LINE}{step.text}", end="", file=sys.stderr, flush=True)
            return
        self._bar.update(
            self._task,
            description=step.what,
            total=step.total or None,
            completed=step.done,
            now=step.now,
            refresh=True,
        )

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is None:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
        else:
            self._bar.stop()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
