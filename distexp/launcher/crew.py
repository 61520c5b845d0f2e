"""Processes that are started together, signalled together and never left behind.

Each member leads a session of its own (a process group on Windows): a terminal's Ctrl+C reaches the launcher
alone, which passes it on, so every member gets each signal exactly once, wherever it came from.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that the system knows


@dataclass(frozen=True)
class GroupProcess:
    """One started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    @property
    def exit_code(self) -> int:
        """As a shell counts it: 128 + signal for a killed process. Only once it has ended."""
        code = self.process.poll()
        assert code is not None, f"{self.name} still runs"
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended. Windows has only Ctrl+Break for another process."""
        if not self.is_running:
            return
        if sys.platform == "win32":
            self.process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        try:
            leader = psutil.Process(self.process.pid)
            family = [*leader.children(recursive=True), leader]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@dataclass
class ProcessGroup:
    """The members, and the signals that arrived for them. Leaving its `with` block kills who still runs."""

    members: list[GroupProcess] = field(default_factory=list)
    _arrived: list[signal.Signals] = field(default_factory=list)
    _before: dict[signal.Signals, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for name in PASSED_ON:
            number = getattr(signal.Signals, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue  # started under nohup: a closed terminal is to change nothing
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.running:
            member.kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(signal.Signals(number))

    def take_signals(self) -> list[signal.Signals]:
        """Return the signals that arrived since the last call."""
        taken = []
        while self._arrived:
            taken.append(self._arrived.pop(0))
        return taken

    @property
    def running(self) -> list[GroupProcess]:
        """The members that have not ended."""
        return [member for member in self.members if member.is_running]

    def start(self, name: str, command: Sequence[str], log: Path | None = None) -> GroupProcess:
        """Start a member; its output goes to `log`, or where the launcher's own goes."""
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb") if log is not None else None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=sys.platform != "win32",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                preexec_fn=_end_with_launcher(),  # noqa: PLW1509  the launcher has one thread
            )
        finally:
            if output is not None:
                output.close()
        member = GroupProcess(name, process, log)
        self.members.append(member)
        return member


def _end_with_launcher() -> Callable[[], object] | None:
    """Return what a new process does first on Linux: ask for SIGTERM should the launcher be killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: a child between fork and exec may not load anything
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
