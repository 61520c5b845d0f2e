"""A working folder on Windows, and what a user does there: verbs, processes that go on, a console."""

import os
import pty
import queue
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.windows.machine import WINE, Machine, on_windows

PATIENCE_S = 120.0  # a verb takes 2 s; a busy machine needs ten times that
SCRIPTS = ("experiment_manager.py", "experiment_runner_gpu.py", "launch_distributed.bat")


@dataclass
class Running:
    """A process on Windows, and what it has said."""

    process: "subprocess.Popen[bytes]"
    output: int  # a descriptor: a pipe's, or that of a terminal
    text: str = ""
    _lines: "queue.SimpleQueue[bytes]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self.output, 65536):
                self._lines.put(data)
        except OSError:  # of a terminal that nobody writes to any more
            pass
        os.close(self.output)
        self._lines.put(b"")

    def await_text(self, *wanted: str) -> None:
        """Return once it has said all of this; fail with all it said when that takes too long."""
        until_s = time.monotonic() + PATIENCE_S
        while not all(each in self.text for each in wanted):
            if not self._take(until_s):
                pytest.fail(f"never said {wanted}: {self.text}")

    def await_end(self) -> int:
        """Return its exit code once it has ended."""
        until_s = time.monotonic() + PATIENCE_S
        while self._take(until_s):
            pass
        return self.process.wait(max(0.0, until_s - time.monotonic()))

    def kill(self) -> None:
        """End it as a crash would; it can do nothing about that."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _take(self, until_s: float) -> bool:
        try:
            data = self._lines.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"nothing more came: {self.text}")
        self.text += data.decode(errors="replace").replace("\r", "")
        return bool(data)


@dataclass(frozen=True)
class Lab:
    """A working folder below the project, in a path that is hard to quote."""

    windows: Machine
    folder: Path
    started: list[Running] = field(default_factory=list)

    def batch(self, *words: str) -> tuple[int, str]:
        """Return exit code and output of `launch_distributed.bat` with these words, line ends as here."""
        process = self._popen(["cmd", "/c", f"..\\{SCRIPTS[2]}", *words], *os.pipe(), subprocess.DEVNULL)
        return process.await_end(), process.text

    def verb(self, *words: str) -> tuple[int, str]:
        """Return exit code and output of `experiment_manager.py` with these words."""
        process = self.start(SCRIPTS[0], *words)
        return process.await_end(), process.text

    def start(self, script: str, *words: str) -> Running:
        """Start a script of the project with the Windows Python."""
        return self._popen(self._python(script, *words), *os.pipe(), subprocess.DEVNULL)

    def start_in_console(self, script: str, *words: str) -> Running:
        """Start it in a console of its own, as a terminal shows that."""
        master, slave = pty.openpty()
        return self._popen(self._python(script, *words), master, slave, slave)

    def write(self, name: str, text: str) -> None:
        """Write a file of the working folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _python(self, script: str, *words: str) -> list[str]:
        return [str(self.windows.python), on_windows(self.folder.parent / script), *words]

    def _popen(self, command: list[str], source: int, target: int, typed: int) -> Running:
        process = subprocess.Popen(
            [str(WINE), *command],
            cwd=self.folder,
            env=self.windows.environment(DISTEXP_PYTHON=on_windows(self.windows.python)),
            stdin=typed,
            stdout=target,
            stderr=target,
            start_new_session=True,
        )
        os.close(target)
        self.started.append(Running(process, source))
        return self.started[-1]
