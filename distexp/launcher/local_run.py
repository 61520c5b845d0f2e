"""Processes that are started, signalled and ended together: N workers, or a manager with its workers.

Each leads a session of its own (a process group on Windows): a terminal's Ctrl+C reaches the launcher alone,
which passes it on, so each gets every signal exactly once, wherever it came from.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from distexp.system.exit_codes import code_text
from distexp.system.files import SMALL_BYTES, private, regular
from distexp.system.logs import MAX_BYTES
from distexp.system.process import ProcessMark, end_tree
from distexp.system.shorten import shorten
from distexp.text import count_text
from distexp.workdir import Workdir, info_in

LEAVE_S = 2.0  # for workers to leave by themselves once the manager has ended, before they are asked to
FINISH_S = 10.0  # for the manager to see that all is done once the last worker has left
HEARD_S = 40.0  # the same where none failed: if all is done, it waits for other clients, 30 s at most
END_S = 30.0  # from SIGTERM to a kill: a worker takes up to 20 s to save a checkpoint
LOOK_S = 5.0  # between two looks at the sizes of logs
KILL_S = 5.0  # from a third Ctrl+C to a kill
PAGE_AT = "Live page: "  # how the line begins in which a page tells its address
RELAY = "DISTEXP_RELAY"  # set: a manager shows the lines of its standard input above its view
BAD_GPU_CODE = 2  # of a worker that cannot start, or whose GPU torch cannot use
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
        """Send it a signal, unless it has ended. Windows has only Ctrl+Break for another process.

        Without a console there is not even that: then it is ended, which journal and rows stand.
        """
        if not self.is_running:
            return
        if sys.platform != "win32":
            self.process.send_signal(number)
            return
        try:
            self.process.send_signal(signal.CTRL_BREAK_EVENT)
        except OSError:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                self.process.terminate()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        if root := ProcessMark.of(self.process.pid):
            end_tree(root)
        self.process.wait()


@dataclass
class ProcessGroup:
    """The processes, and the signals that arrived for them. Leaving its `with` block kills who still runs."""

    processes: list[GroupProcess] = field(default_factory=list)
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
        for process in self.running:
            process.kill()
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
        """The processes that have not ended."""
        return [process for process in self.processes if process.is_running]

    def start(
        self, name: str, command: Sequence[str], log: Path | None = None, *, is_relay: bool = False
    ) -> GroupProcess:
        """Start a process; its output goes to `log`, or where the launcher's own goes.

        A relay shows the lines that are written to its standard input; that of others is empty.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
        output = open(log, "ab", opener=private) if log is not None else None  # noqa: SIM115 - closed below
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if is_relay else subprocess.DEVNULL,
                env={**os.environ, RELAY: "1"} if is_relay else None,
                stdout=output,
                stderr=output,
                start_new_session=sys.platform != "win32",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                preexec_fn=_end_with_launcher(),  # noqa: PLW1509  the launcher has one thread
            )
        finally:
            if output is not None:
                output.close()
        process = GroupProcess(name, started, log)
        self.processes.append(process)
        return process


def _end_with_launcher() -> Callable[[], object] | None:
    """Return what a new process does first on Linux: ask for SIGTERM should the launcher be killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: a child between fork and exec may not load anything
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Address:
    """Where a manager says it is, and when it wrote that."""

    pid: int
    host: str
    port: int
    written_ns: int


def read_address(workdir: Path) -> Address | None:
    """Return what the manager of `workdir` wrote down, None if nothing whole. It may be long dead."""
    try:
        with open(Workdir(workdir).info, "rb", opener=regular) as file:  # a new manager may replace it now
            written_ns, told = os.fstat(file.fileno()).st_mtime_ns, info_in(file.read(SMALL_BYTES))
        return Address(told["pid"], told["host"], told["port"], written_ns)
    except (OSError, KeyError):
        return None


class Stopping:
    """Signals passed on to the processes: how many came, and when patience ends."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.count = 0
        self.kill_at_s: float | None = None

    def pass_on(self, number: signal.Signals, receivers: Sequence[GroupProcess], now_s: float) -> None:
        """Send the signal to the receivers; SIGTERM, or a third Ctrl+C, also sets the time of the kill."""
        self.first = self.first or number
        self.count += 1
        if number is not signal.SIGINT:
            number = signal.SIGTERM  # a closed terminal means the same
            self.kill_by(now_s + END_S)
        elif self.count >= 3:
            self.kill_by(now_s + KILL_S)
        for process in receivers:
            process.send(number)

    def kill_by(self, at_s: float) -> None:
        """Set the time of the kill, unless it is set for earlier."""
        self.kill_at_s = at_s if self.kill_at_s is None else min(at_s, self.kill_at_s)

    def is_over(self, now_s: float) -> bool:
        """Return whether the time of the kill has come."""
        return self.kill_at_s is not None and now_s >= self.kill_at_s


class LocalRun:
    """The manager of a sweep and, once it says where it is, `count` workers.

    `turn` is one look at processes and signals, made until all is done. One Ctrl+C: the workers finish their
    task and report it, then the manager stops.
    """

    def __init__(
        self,
        group: ProcessGroup,
        workdir: Path,
        manager: Sequence[str],
        worker: Sequence[str],
        count: int,
        *,
        is_relay: bool = False,
        page: Sequence[str] = (),
    ) -> None:
        """Start the manager.

        Args:
            group: What ends all processes together.
            workdir: The working folder.
            manager: The manager's command.
            worker: The command that host, port and working folder are added to.
            count: How many workers are started.
            is_relay: The manager draws a view, and shows the launcher's lines above it.
            page: The command of a live page, which is started with the workers; empty: none.
        """
        self._group = group
        self._workdir = workdir
        self._worker = worker
        self._count = count
        self._page_command, self._page = page, _Page()
        self._old_address = read_address(workdir)
        self._stopping = Stopping()
        self._workers: list[GroupProcess] = []
        self._manager_ended_s: float | None = None
        self._workers_ended_s: float | None = None
        self._has_asked_manager = False
        self._has_asked_workers = False
        self._next_look_s = 0.0  # at the sizes of the workers' logs
        self.why_cut_short = ""  # how the workers ended before the sweep
        self._manager = group.start("manager", manager, is_relay=is_relay)

    @property
    def has_workers(self) -> bool:
        """Whether the manager came so far that workers were started."""
        return bool(self._workers)

    @property
    def exit_code(self) -> int:
        """The manager's, unless a signal (128 + its number) or the workers' early end (1) ended the run."""
        if self._stopping.first is not None:
            return 128 + self._stopping.first
        return 1 if self.why_cut_short else self._manager.exit_code

    def turn(self, now_s: float) -> bool:
        """Do what the processes and signals ask for now; return whether every process has ended."""
        for number in self._group.take_signals():
            self._on_signal(number, now_s)
        if not self._group.running:
            return True
        self._page.turn(self._say, is_over=self._group.running == [self._page.process])
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_S
            self._shorten_logs()
        if self._stopping.is_over(now_s):
            for process in self._group.running:
                process.kill()
        elif not self._manager.is_running:
            self._after_manager(now_s)
        elif not self._workers:
            self._await_address()
        elif not any(process.is_running for process in self._workers):
            self._after_workers(now_s)
        return False

    def _shorten_logs(self) -> None:
        for log in [process.log for process in self._workers if process.log]:
            with contextlib.suppress(OSError):  # a full disk: the next look tries again
                shorten(log, MAX_BYTES)

    def _on_signal(self, number: signal.Signals, now_s: float) -> None:
        receivers = [process for process in self._workers if process.is_running] or [self._manager]
        is_first = self._stopping.first is None
        self._stopping.pass_on(number, receivers, now_s)
        if is_first and self._workers:  # said once it is so: nobody begins another task
            self._say(
                "Stopping: workers finish their tasks, then the manager ends (again: give the tasks back)"
            )

    def _await_address(self) -> None:
        address = read_address(self._workdir)
        if address is None or address == self._old_address or self._stopping.first is not None:
            return
        where = [address.host, str(address.port), "--workdir", str(self._workdir)]
        self._worker = [*self._worker, *where]
        self._start_workers()
        if self._page_command:
            self._page = _Page.start(
                self._group, self._page_command, Workdir(self._workdir).state / "web.log"
            )
        started = count_text(self._count, "worker")
        self._say(f"Started {started} (output: {Workdir(self._workdir).state / 'worker-*.log'})")

    def _say(self, line: str) -> None:
        """Print a line, above the view of a manager that draws one."""
        pipe = self._manager.process.stdin
        try:
            if pipe is None or not self._manager.is_running:
                say(line)
            else:
                pipe.write(f"{line}\n".encode())
                pipe.flush()
        except OSError:  # the manager has just ended
            say(line)

    def _start_workers(self) -> None:
        first = len(self._workers)
        for index in range(first, first + self._count):
            log = Workdir(self._workdir).state / f"worker-{index}.log"
            self._workers.append(self._group.start(f"worker {index}", self._worker, log))

    def _fall_back(self) -> bool:
        """Start CPU workers in place of those whose GPUs torch cannot use; return whether that was done."""
        devices = [after for word, after in pairwise(self._worker) if word == "--device"]
        if devices[-1:] != ["auto"] or any(each.exit_code != BAD_GPU_CODE for each in self._workers):
            return False
        self._say(f"No worker can use its GPU, so CPU workers are started: {_ending(self._workers[0])}")
        self._worker = [*self._worker, "--device", "cpu"]
        self._start_workers()
        return True

    def _after_manager(self, now_s: float) -> None:
        """The manager tells its workers when all is done; ask those to leave that did not hear it."""
        if self._manager_ended_s is None:
            self._manager_ended_s = now_s
        if now_s >= self._manager_ended_s + LEAVE_S and not self._has_asked_workers:
            self._has_asked_workers = True
            for process in self._workers:
                process.send(signal.SIGINT)

    def _after_workers(self, now_s: float) -> None:
        if self._stopping.first is None and self._fall_back():
            return
        if self._workers_ended_s is None:
            self._workers_ended_s = now_s
        have_left = all(each.exit_code == 0 for each in self._workers)
        waited = now_s >= self._workers_ended_s + (HEARD_S if have_left else FINISH_S)
        if self._has_asked_manager or not (self._stopping.first or waited):
            return
        if not self._stopping.first:
            ends = "; ".join(map(_ending, self._workers))
            self.why_cut_short = f"All workers have ended before the sweep: {ends}"
        self._has_asked_manager = True
        self._stopping.kill_by(now_s + END_S)
        self._manager.send(signal.SIGINT)


class _Page:
    """The live page beside a run, if there is one: told of once, ended last."""

    def __init__(self, process: GroupProcess | None = None) -> None:
        self.process = process
        self._is_told = process is None

    @classmethod
    def start(cls, group: ProcessGroup, command: Sequence[str], log: Path) -> Self:
        log.unlink(missing_ok=True)
        log.touch(0o600)  # the address in it holds the page's token
        return cls(group.start("page", command, log))

    def turn(self, say: Callable[[str], None], *, is_over: bool) -> None:
        """Say the address once it is there, or why there is none; end the page where nothing else runs."""
        if self.process is None or self.process.log is None:
            return
        if is_over:
            self.process.send(signal.SIGTERM)
        elif not self._is_told:
            lines = self.process.log.read_text(encoding="utf-8", errors="replace").splitlines()
            told = next((line for line in lines if line.startswith(PAGE_AT)), "")
            if told or not self.process.is_running:
                self._is_told = True
                say(told or f"No live page: {_ending(self.process)}")


def _ending(process: GroupProcess) -> str:
    """Return how it ended: its exit code, its log, the last line of that."""
    lines = process.log.read_text(encoding="utf-8", errors="replace").split("\n") if process.log else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{process.name}: exit code {code_text(process.exit_code)}, {last} ({process.log})"


def say(line: str) -> None:
    """Print a line of the launcher's own among the manager's."""
    print(line, file=sys.stderr, flush=True)
