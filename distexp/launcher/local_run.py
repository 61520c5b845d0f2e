"""A sweep on this machine: one manager, its workers, from the first to the last process.

`LocalRun.turn` is one look at processes and signals, made until all is done.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distexp.launcher.crew import GroupProcess, ProcessGroup
from distexp.workdir import Workdir

LEAVE_S = 2.0  # for workers to leave by themselves once the manager has ended, before they are asked to
FINISH_S = 10.0  # for the manager to see that all is done once the last worker has left
END_S = 30.0  # from SIGTERM to a kill: a worker takes up to 20 s to save a checkpoint
KILL_S = 5.0  # from a third Ctrl+C to a kill


@dataclass(frozen=True)
class Address:
    """Where a manager says it is, and when it wrote that."""

    pid: int
    host: str
    port: int
    written_ns: int


def read_address(workdir: Path) -> Address | None:
    """Return what the manager of `workdir` wrote down, None if nothing whole. It may be long dead."""
    folder = Workdir(workdir)
    told = folder.read_info()
    try:
        return Address(int(told["pid"]), str(told["host"]), int(told["port"]), folder.info.stat().st_mtime_ns)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class Stopping:
    """Signals passed on to the members: how many came, and when patience ends."""

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
        for member in receivers:
            member.send(number)

    def kill_by(self, at_s: float) -> None:
        """Set the time of the kill, unless it is set for earlier."""
        self.kill_at_s = at_s if self.kill_at_s is None else min(at_s, self.kill_at_s)

    def is_over(self, now_s: float) -> bool:
        """Return whether the time of the kill has come."""
        return self.kill_at_s is not None and now_s >= self.kill_at_s


class LocalRun:
    """The manager and, once it says where it is, `count` workers.

    One Ctrl+C: the workers finish their task and report it, then the manager stops.
    """

    def __init__(
        self, group: ProcessGroup, workdir: Path, manager: Sequence[str], worker: Sequence[str], count: int
    ) -> None:
        """Start the manager. `worker` is the command that host, port and working folder are added to."""
        self._group = group
        self._workdir = workdir
        self._worker = worker
        self._count = count
        self._old_address = read_address(workdir)
        self._stopping = Stopping()
        self._workers: list[GroupProcess] = []
        self._manager_ended_s: float | None = None
        self._workers_ended_s: float | None = None
        self._has_asked_manager = False
        self._has_asked_workers = False
        self.is_cut_short = False
        self._manager = group.start("manager", manager)

    @property
    def has_workers(self) -> bool:
        """Whether the manager came so far that workers were started."""
        return bool(self._workers)

    @property
    def exit_code(self) -> int:
        """The manager's, unless a signal (128 + its number) or the workers' early end (1) ended the run."""
        if self._stopping.first is not None:
            return 128 + self._stopping.first
        return 1 if self.is_cut_short else self._manager.exit_code

    def turn(self, now_s: float) -> bool:
        """Do what the processes and signals ask for now; return whether every process has ended."""
        for number in self._group.take_signals():
            self._on_signal(number, now_s)
        if not self._group.running:
            return True
        if self._stopping.is_over(now_s):
            for member in self._group.running:
                member.kill()
        elif not self._manager.is_running:
            self._after_manager(now_s)
        elif not self._workers:
            self._await_address()
        elif not any(member.is_running for member in self._workers):
            self._after_workers(now_s)
        return False

    def _on_signal(self, number: signal.Signals, now_s: float) -> None:
        receivers = [member for member in self._workers if member.is_running] or [self._manager]
        if self._stopping.first is None and self._workers:
            say("Stopping: workers finish their tasks, then the manager ends (again: give the tasks back)")
        self._stopping.pass_on(number, receivers, now_s)

    def _await_address(self) -> None:
        address = read_address(self._workdir)
        if address is None or address == self._old_address or self._stopping.first is not None:
            return
        where = [address.host, str(address.port), "--workdir", str(self._workdir)]
        for index in range(self._count):
            log = Workdir(self._workdir).state / f"worker-{index}.log"
            self._workers.append(self._group.start(f"worker {index}", [*self._worker, *where], log))
        say(f"Started {self._count} workers (their output: {Workdir(self._workdir).state}/worker-*.log)")

    def _after_manager(self, now_s: float) -> None:
        """The manager tells its workers when all is done; ask those to leave that did not hear it."""
        if self._manager_ended_s is None:
            self._manager_ended_s = now_s
        if now_s >= self._manager_ended_s + LEAVE_S and not self._has_asked_workers:
            self._has_asked_workers = True
            for member in self._workers:
                member.send(signal.SIGINT)

    def _after_workers(self, now_s: float) -> None:
        if self._workers_ended_s is None:
            self._workers_ended_s = now_s
        waited = now_s >= self._workers_ended_s + FINISH_S
        if self._has_asked_manager or not (self._stopping.first or waited):
            return
        if not self._stopping.first:
            self.is_cut_short = True
            say(f"All workers have ended before the sweep: {'; '.join(map(_ending, self._workers))}")
        self._has_asked_manager = True
        self._stopping.kill_by(now_s + END_S)
        self._manager.send(signal.SIGINT)


def _ending(member: GroupProcess) -> str:
    """Return how it ended: its exit code, its log, the last line of that."""
    lines = member.log.read_text(encoding="utf-8", errors="replace").split("\n") if member.log else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{member.name}: exit code {member.exit_code}, {last} ({member.log})"


def say(line: str) -> None:
    """Print a line of the launcher's own among the manager's."""
    print(line, file=sys.stderr, flush=True)
