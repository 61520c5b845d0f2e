"""A terminal that shows a view at its foot, and lines that scroll above it.

The view is asked for outside of any lock of the terminal's: whoever holds the queue may write a line.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distexp.cli.render import render
from distexp.system.logs import log_to, stop_logging_to
from distexp.system.long_work import Step
from distexp.wire.messages import ViewReply

REFRESH_S = 1.0  # a view takes some ms to draw
MIN_LINES = 6  # of a view, however small the terminal
BESIDE_LINES = 0.6  # share of a terminal that a view takes below log lines
BAR_CELLS = 40  # of a start that takes long
KEPT_LINES = 100  # of the log, to be written again on a terminal that was resized


class Screen:
    """The terminal, while its `with` lasts. The last view stays on it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._size = self._console.size
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._lines: deque[Text] = deque(maxlen=KEPT_LINES)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, ValueError):
            self._live.stop()

    def show(self, view: ViewReply, note: str = "", share: float = 1.0) -> None:
        """Draw a view in place of the last one, on at most this share of the terminal's lines."""
        width, height = size = self._console.size
        lines = max(MIN_LINES, int(share * (height - 1)))
        drawn = Group(render(view, width, lines, note), " ")  # the last line is for the terminal's ^C
        with suppress(OSError, ValueError):  # the terminal is gone, or cannot show these characters
            if size != self._size:  # lines drawn at another width have wrapped: nothing on it is known
                self._size = size
                self._console.control(Control.clear(), Control.home())
                self._live.update(drawn)
                for line in [*self._lines][-max(1, height - lines) :]:
                    self._console.print(line, soft_wrap=True)
            self._live.update(drawn, refresh=True)

    def write(self, line: Text) -> None:
        """Write a line above the view."""
        self._lines.append(line)
        self._console.print(line, soft_wrap=True)

    def relay(self, source: int) -> None:
        """Write the lines that come from a file descriptor above the view, until it is closed."""

        def read() -> None:
            # No buffered file: its lock would hold up the end of Python.
            while data := os.read(source, 65536):
                for line in data.decode(errors="replace").splitlines():
                    self.write(Text(line))

        threading.Thread(target=read, name="relay", daemon=True).start()

    @contextmanager
    def following(
        self, view: Callable[[], ViewReply | None], starting: Callable[[], Step | None]
    ) -> Iterator[None]:
        """Show what `view` returns, asked for in a thread, and log lines above it.

        While that is None, the step of what `starting` returns.
        """
        is_over = threading.Event()

        def draw() -> None:
            if (now := view()) is not None:
                self.show(now, share=BESIDE_LINES)
            elif (step := starting()) is not None:
                line = Table.grid(padding=(0, 1))
                bar = ProgressBar(step.total or None, step.done, width=BAR_CELLS, pulse=not step.total)
                line.add_row(bar, step.text)
                self._live.update(line, refresh=True)

        def follow() -> None:
            while not is_over.wait(REFRESH_S):
                draw()

        handler = log_to(_Above(self.write))
        thread = threading.Thread(target=follow, name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            draw()
            stop_logging_to(handler)


class _Above(logging.Handler):
    """Writes lines above the view."""

    def __init__(self, write: Callable[[Text], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record as it is."""
        try:
            self._write(Text(self.format(record), style=style_of(record)))
        except (OSError, ValueError):  # the terminal is gone
            self.handleError(record)


def style_of(record: logging.LogRecord) -> str:
    """Return how a line looks: what goes wrong is red, what each task does dim."""
    message = record.getMessage()
    if record.levelno >= logging.WARNING or " failed on " in message:
        return "red"
    return "dim" if message.startswith(("Assigned task ", "Task ", "Progress ")) else ""
