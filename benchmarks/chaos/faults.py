"""Does what an event says, and returns how to undo it."""

import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.chaos.experiments import score
from benchmarks.chaos.findings import marks_of
from benchmarks.chaos.plan import Event, Kind, Placement
from benchmarks.chaos.stage import Actor, Stage
from distexp.results.csv_format import line_of, read_header
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.results.row import row_for
from distexp.system import locks
from distexp.task import Provenance, Task

Undo = Callable[[], object]
Thing = TypeVar("Thing")
CLOCK_STEP_S = 7200.0  # at most, back or forth
FULL_BYTES = 400  # a disk has room for less than this: about two rows
REAP_S = 10.0
TEMPLATE = "multiprocessing.forkserver"  # stands in its command line, and so in that of its forks

_SIGNALS = {
    Kind.KILL_MANAGER: signal.SIGKILL,
    Kind.KILL_WORKER: signal.SIGKILL,
    Kind.TERM_WORKER: signal.SIGTERM,
    Kind.INTERRUPT_WORKER: signal.SIGINT,
    Kind.HANG_UP_MANAGER: signal.SIGHUP,
    Kind.HANG_UP_WORKER: signal.SIGHUP,
}

WORKER_KINDS = (
    Kind.KILL_WORKER, Kind.STOP_WORKER, Kind.TERM_WORKER, Kind.INTERRUPT_WORKER, Kind.HANG_UP_WORKER
)  # fmt: skip
STANDBY_SHARE = 4  # one of so many faults may hit a child that waits
CHILD_KINDS = (Kind.KILL_CHILD, Kind.STOP_CHILD, Kind.FILL_TASK_DISK)
GENTLE = (Kind.TERM_WORKER, Kind.INTERRUPT_WORKER, Kind.HANG_UP_WORKER, Kind.HANG_UP_MANAGER)


def _nothing() -> None:
    """Undo what needs no undoing."""


@dataclass
class Faults:
    """The faults of one run."""

    stage: Stage
    config: str  # as it is when nothing is broken
    tears: int = 0
    deleted_s: list[float] = field(default_factory=list)  # when the manager's folder was deleted
    done: list[Kind] = field(default_factory=list)  # what really happened
    met: list[Kind] = field(default_factory=list)  # of these, what hit while the process hit ran a task

    def strike(self, event: Event) -> Undo:
        """Do it, if there is something to do it to."""
        is_running = self._hits_task(event)
        undo = self._act(event)
        if undo is None:
            return _nothing
        self.done.append(event.kind)
        self.met += [event.kind] if is_running else []
        return undo

    def _hits_task(self, event: Event) -> bool:
        """Return whether a task runs in what the event hits: that child, that worker, or any of all."""
        if event.kind in CHILD_KINDS:
            target = self._below(event)
            return target is not None and self._is_at_work(target)
        workers = self._live()
        hit = [_picked(workers, event.pick)] if event.kind in WORKER_KINDS else workers
        return any(worker is not None and self._task_of(worker) is not None for worker in hit)

    def _is_at_work(self, child: psutil.Process) -> bool:
        """Return whether the diary has a beginning and no end of an attempt in this child, or its program."""
        last = {mark.pid: mark.what for mark in marks_of(self.stage.diary)}
        with suppress(psutil.Error):
            pids = [child.pid, *(each.pid for each in child.children(recursive=True))]
            return any(last.get(pid, "end") != "end" for pid in pids)
        return False

    def _act(self, event: Event) -> Undo | None:
        match event.kind:
            case Kind.KILL_MANAGER | Kind.STOP_MANAGER | Kind.HANG_UP_MANAGER:
                return self._strike_at(self.stage.manager, event.kind)
            case (
                Kind.KILL_WORKER
                | Kind.STOP_WORKER
                | Kind.TERM_WORKER
                | Kind.INTERRUPT_WORKER
                | Kind.HANG_UP_WORKER
            ):
                return self._strike_at(_picked(self._live(), event.pick), event.kind)
            case Kind.KILL_BOTH | Kind.STOP_HOST:
                return self._stop_host() if event.kind is Kind.STOP_HOST else self._kill_both(event)
            case (
                Kind.KILL_CHILD
                | Kind.STOP_CHILD
                | Kind.KILL_TEMPLATE
                | Kind.STOP_TEMPLATE
                | Kind.FILL_TASK_DISK
            ):
                return self._strike_below(event)
            case Kind.CUT | Kind.STALL:
                return self._strike_relay(event)
            case Kind.TEAR_ROW:
                return self._tear_row(event)
            case Kind.FILL_MANAGER_DISK | Kind.FILL_WORKER_DISK:
                return self._fill_disk(event)
            case Kind.STEP_CLOCK:
                self.stage.turn_clock((2 * event.amount - 1) * CLOCK_STEP_S)
                return _nothing
            case Kind.MOVE_STATE | Kind.DELETE_STATE:
                return self._lose_state(event.kind)
            case Kind.EDIT_CONFIG | Kind.BREAK_CONFIG:
                return self._edit(event)
            case Kind.START_TWO:
                self.stage.start_worker(Placement(0, "forkserver"))
                self.stage.start_worker(Placement(0, "forkserver"))
                return _nothing

    # -- processes -----------------------------------------------------------------------------------------

    def _live(self) -> list[Actor]:
        return [worker for worker in self.stage.workers if worker.is_alive]

    def _strike_at(self, actor: Actor | None, kind: Kind) -> Undo | None:
        if actor is None or not actor.is_alive:
            return None
        if kind in (Kind.STOP_MANAGER, Kind.STOP_WORKER):
            return _paused(psutil.Process(actor.process.pid))
        if kind in GENTLE and not actor.said:
            return None  # an interpreter that still imports ends by them, as every program does
        actor.signal(_SIGNALS[kind])
        return _nothing

    def _kill_both(self, event: Event) -> Undo | None:
        """Kill a worker, and the manager before it can see that."""
        self._strike_at(_picked(self._live(), event.pick), Kind.KILL_WORKER)
        return self._strike_at(self.stage.manager, Kind.KILL_MANAGER)

    def _stop_host(self) -> Undo:
        """Stop every process, as a laptop that sleeps does, and return how all go on."""
        actors = [actor for actor in (self.stage.manager, *self._live()) if actor and actor.is_alive]
        trees = [each for actor in actors for each in (psutil.Process(actor.process.pid), *actor.tree())]
        undo = [go_on for process in trees if (go_on := _paused(process))]
        return lambda: [go_on() for go_on in undo]

    def _below(self, event: Event) -> psutil.Process | None:
        """Return the child or template that an event hits: mostly a child that runs a task."""
        is_template = event.kind in (Kind.KILL_TEMPLATE, Kind.STOP_TEMPLATE)
        found: list[psutil.Process] = []
        for worker in self._live():
            for process in worker.tree():
                with suppress(psutil.Error):
                    if _is_template(process) if is_template else _is_child(process):
                        found.append(process)
        if event.kind in CHILD_KINDS and event.pick % STANDBY_SHARE:
            found = [each for each in found if self._is_at_work(each)] or found
        return _picked(found, event.pick)

    def _strike_below(self, event: Event) -> Undo | None:
        target = self._below(event)
        if target is None:
            return None
        if event.kind in (Kind.STOP_CHILD, Kind.STOP_TEMPLATE):
            return _paused(target)
        if event.kind is Kind.FILL_TASK_DISK:
            _limit_files(target.pid, int(event.amount * FULL_BYTES))
            return lambda: _limit_files(target.pid, resource.RLIM_INFINITY)
        with suppress(psutil.Error):
            target.kill()
        return _nothing

    def _strike_relay(self, event: Event) -> Undo | None:
        relay = _picked(self.stage.relays, event.pick)
        if relay is None:
            return None
        (relay.cut if event.kind is Kind.CUT else relay.stall)()
        return relay.heal

    def _edit(self, event: Event) -> Undo:
        if event.kind is Kind.BREAK_CONFIG:
            self.stage.write_config(event.text, is_broken=True)
            return lambda: self.stage.write_config(self.config)
        self.config = event.text
        self.stage.write_config(self.config)
        return _nothing

    # -- the disk ------------------------------------------------------------------------------------------

    def _fill_disk(self, event: Event) -> Undo | None:
        """Limit the size of the files that a process may write: then a write is short, the next refused."""
        actor = self.stage.manager
        if event.kind is Kind.FILL_WORKER_DISK:
            actor = _picked(self._live(), event.pick)
        if actor is None or not actor.is_alive:
            return None
        files = sorted(self.stage.workdir.root.glob(f"results_*/{RESULTS_FILE}"))
        files += sorted(self.stage.workdir.state.glob("journal.sqlite3*")) if actor.placement is None else []
        file = _picked(files, event.pick)
        if file is None:
            return None
        room = 0
        if actor.placement is None or actor.placement.far == 0:
            with suppress(FileNotFoundError):  # of the journal, which its manager has just closed
                room = file.stat().st_size
        _limit_files(actor.process.pid, room + int(event.amount * FULL_BYTES))
        return lambda: self._make_room(actor)

    def _make_room(self, actor: Actor) -> None:
        """Lift the limit, also for what was started under it."""
        for pid in (actor.process.pid, *(process.pid for process in actor.tree())):
            _limit_files(pid, resource.RLIM_INFINITY)

    def _lose_state(self, kind: Kind) -> Undo | None:
        """Take the manager's folder away under it; moved away, it is back before the next manager starts."""
        state, aside = self.stage.workdir.state, self.stage.root / "state"
        manager = self.stage.manager
        if (
            aside.exists()
            or not state.exists()
            or manager is None
            or not (manager.is_alive and manager.serves)
        ):
            return None
        os.rename(state, aside)
        if kind is Kind.DELETE_STATE:
            self.deleted_s.append(time.monotonic())
            shutil.rmtree(aside)
            return _nothing
        self.stage.is_state_away = True
        return self._give_state_back

    def _give_state_back(self) -> None:
        state, aside = self.stage.workdir.state, self.stage.root / "state"
        while aside.exists():
            shutil.rmtree(state, ignore_errors=True)  # what workers have made there meanwhile
            with suppress(OSError):  # and have again, just now
                os.rename(aside, state)
        self.stage.is_state_away = False

    def _tear_row(self, event: Event) -> Undo | None:
        """Kill a writer, and leave of the row that it has not reported yet what a write may leave."""
        running = [(worker, task) for worker in self._live() if (task := self._task_of(worker)) is not None]
        found = _picked(running, event.pick)
        if found is None:
            return None
        worker, task = found
        writer = self.stage.manager if worker.placement and worker.placement.far else worker
        if writer is None or self._strike_at(writer, Kind.KILL_WORKER) is None:
            return None
        writer.process.wait(REAP_S)
        self.tears += self._leave_part(task, event.amount)
        return _nothing

    def _task_of(self, worker: Actor) -> Task | None:
        """Return the task that the worker has not reported yet."""
        for text in reversed(worker.said):
            if found := re.search(r"Running task (\S+) ", text):
                return self.stage.known.get(found[1])
            if re.search(r"Task \S+ (completed|failed)|Giving task", text):
                return None
        return None

    def _leave_part(self, task: Task, amount: float) -> bool:
        path = self.stage.workdir.results_folder(task.output_dir) / RESULTS_FILE
        with suppress(TimeoutError, FileNotFoundError), locks.acquire(f"{path}.lock", REAP_S):
            if ResultsFile(self.stage.workdir.root, task.output_dir, TaskIndex([task])).find(
                {task.key}
            ) or not _ends_whole(path):
                return False
            with open(path, "rb") as file:
                header = read_header(file)
            if header is None:
                return False
            result = {"score": score(task.config["kind"], task.config["size"], task.seed)}
            row = row_for(task, result, Provenance(worker="torn", host="torn", duration_s=0.123))
            line = line_of([row.get(column, "") for column in header.columns], header.dialect)
            with open(path, "ab") as file:
                file.write(line[: 1 + int(amount * (len(line) - 2))])
            return True
        return False


def _picked(things: Sequence[Thing], pick: int) -> Thing | None:
    return things[pick % len(things)] if things else None


def _paused(process: psutil.Process) -> Undo | None:
    """Stop a process and return how it goes on."""

    def go_on() -> None:
        with suppress(psutil.Error):
            process.resume()

    try:
        process.suspend()
    except psutil.Error:
        return None
    return go_on


def _is_template(process: psutil.Process) -> bool:
    parent = process.parent()
    return _runs(process, TEMPLATE) and parent is not None and not _runs(parent, TEMPLATE)


def _is_child(process: psutil.Process) -> bool:
    return _runs(process, "spawn_main") or (_runs(process, TEMPLATE) and not _is_template(process))


def _runs(process: psutil.Process, words: str) -> bool:
    return words in " ".join(process.cmdline())


def _ends_whole(path: Path) -> bool:
    return path.read_bytes()[-1:] == b"\n"  # False of one that a full disk has left empty


def _limit_files(pid: int, limit_bytes: int) -> None:
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, hard))
