"""The worker's loop: request a task, run it in a child process, deliver its result, until none is left.

One thread: whatever it waits for, it waits for everything at once (the child, the manager's connection,
signals, the next heartbeat). What needs a disk, which may hang, happens beside it.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from distexp.context import forget_checkpoints
from distexp.errors import DiskHangs
from distexp.run_folder import CHECKPOINT_FOLDER, RunFolder, header
from distexp.system.beside import Latest
from distexp.system.logs import WorkerLog
from distexp.task import Cause, Provenance
from distexp.text import clean_text
from distexp.wire.messages import (
    MAX_WAIT_S,
    Heartbeat,
    HeartbeatReply,
    NoTask,
    RequestTask,
    Status,
    StatusReply,
    TaskFailed,
    TaskReleased,
    TaskReply,
)
from distexp.workdir import Workdir
from distexp.worker import provenance, time_limits
from distexp.worker.code_folder import CodeFolder
from distexp.worker.connection import ManagerConnection
from distexp.worker.delivery import DISK_RETRY_S, Delivery, ResultDelivery
from distexp.worker.early_stop import EarlyStop
from distexp.worker.folders import is_disk_full, is_full_at, probe, why_not_made
from distexp.worker.gpu_monitor import GpuMonitor
from distexp.worker.host_setup import HostSetup
from distexp.worker.log_cap import MAX_LOG_MB, LogCap
from distexp.worker.memory_monitor import MemoryMonitor
from distexp.worker.signals import StopRequests
from distexp.worker.task_main import Failed, Finished, Outcome, Run, Stopped, Unusable
from distexp.worker.task_process import Attempt, Children

MAX_ERROR_CHARS = 16_000  # of a failure that travel: its end
NONCE_S = 0.5  # for the disk to tell the folder's nonce; later, the last answer counts

T = TypeVar("T")

log = logging.getLogger("distexp.worker")


@dataclass(frozen=True)
class Fenced:
    """The manager wants no result of this attempt any more."""


@dataclass(frozen=True)
class DiskFull:
    """The disk of the task's folder is full or read-only."""

    folder: Path
    problem: str


@dataclass
class Turn:
    """What a worker has come to in its time, as far as that decides how it leaves."""

    completed: int = 0  # tasks
    is_short: bool = False  # of time, for any task that is left
    is_hopeless: bool = False  # it has completed nothing, and its task has saved nothing
    idle_since_s: float | None = None  # since when nothing that is left can run
    exit_code: int | None = None  # set when it must leave before its work is done

    def wants_another(self, *, is_warned: bool) -> bool:
        """Return whether time ended before work did, and more time of the same length would help.

        Not so where a whole turn was too short for a single task: the next would be, too.
        """
        return (is_warned and not self.is_hopeless) or (self.is_short and self.completed > 0)


class Worker:
    """Requests, runs, records and reports tasks until none is left."""

    def __init__(
        self,
        *,
        identity: Mapping[str, Any],
        workdir: Workdir,
        connection: ManagerConnection,
        children: Children,
        stop: StopRequests,
        clock: Callable[[], float],
        gpus: GpuMonitor | None = None,
        memory: MemoryMonitor | None = None,
        left_s: Callable[[], float | None] = lambda: None,
        max_log_mb: int = MAX_LOG_MB,
        code: CodeFolder,
        fetches: bool = False,
    ) -> None:
        """Make a worker that has done nothing yet.

        Args:
            identity: Fields of `WorkerRequest` that tell the manager who this is.
            gpus: Reads its GPUs; None: it has none.
            memory: Measures what its tasks hold on the GPU that it shares; None: it shares none so.
            left_s: Returns how many seconds it has; None: no end is known.
            max_log_mb: What the log of a task may hold, in millions of bytes.
            code: Where the code of its tasks is.
            fetches: Whether it runs the manager's code, also where that is not frozen.
        """
        self._gpus, self._memory = gpus, memory
        self._code_folder, self._fetches = code, fetches
        self._code = children.code()  # of the task that runs, or ran last
        self._fixed_identity = dict(identity)
        self._workdir = workdir
        self._connection, self._children = connection, children
        self._setup = HostSetup(workdir, children.watcher)
        self._delivery = ResultDelivery(
            connection=connection,
            workdir=workdir,
            stop=stop,
            identity=self._identity,
            gpus=gpus,
            memory=memory,
            clock=clock,
        )
        self._disk = self._delivery.disk
        self._nonce = Latest(workdir.read_nonce, "")
        self._stop, self._clock, self._left_s = stop, clock, left_s
        self._turn = Turn()
        self._log_file = WorkerLog(workdir.worker_log(str(identity["worker_id"]), str(identity["host"])))
        self._log_cap = LogCap(max_log_mb, clock)
        self._next: TaskReply | NoTask | None = None
        self._code_versions: dict[str, int] = {}  # phase -> of the task that ran last
        self._wait_s = 0.0  # how long the manager may keep the next request until there is a task

    def _identity(self) -> dict[str, Any]:
        """Return who asks, as fields of a request.

        The nonce is read each time: the folder's first manager may start after its workers.
        """
        return {
            **self._fixed_identity,
            "nonce": self._nonce.read(NONCE_S),
            "left_s": self._left_s(),
            "git_commit": self._code.commit,
        }

    @property
    def wants_another_turn(self) -> bool:
        """Whether time ended before work did, and more time of the same length would help."""
        return self._turn.wants_another(is_warned=self._stop.is_warned)

    def run(self) -> int:
        """Work until nothing is left to do; return 0, 2 for a bad GPU, 1 if nothing could be done."""
        try:
            self._delivery.deliver_spooled()
            while self.run_one():
                pass
            if isinstance(self._next, TaskReply):  # assigned while the user was about to stop this worker
                self._conclude(self._next, Stopped())
        finally:
            self._children.close()
            self._connection.close()
            self._log_file.close()
        return self._connection.exit_code if self._turn.exit_code is None else self._turn.exit_code

    def run_one(self) -> bool:
        """Take one turn: at most one task. Return whether there is a next turn."""
        if self._stop.wants_leave or self._connection.has_given_up or self._turn.exit_code is not None:
            return False
        reply, self._next = self._next, None
        if reply is None:
            room = self._delivery.room_fields()
            request = RequestTask(**self._identity(), **room, wait_s=self._wait_s, fetches=self._fetches)
            reply = self._connection.try_request(request, TaskReply | NoTask, "Error requesting task")
        if isinstance(reply, TaskReply) and self._stop.wants_leave:
            self._next = reply
        elif isinstance(reply, TaskReply):
            self._turn.idle_since_s = None
            if not self._wait_s or self._begins(reply):
                self._wait_s = 0.0
                with self._memory or nullcontext():
                    self._work_on(reply)
        elif isinstance(reply, NoTask):
            return self._idle(reply)
        return True

    def _idle(self, reply: NoTask) -> bool:
        if reply.reason == "done":
            log.info("No task is left: %s", reply.message or "done")
            return False
        if reply.reason == "no_time":
            log.info("No time is left: %s", reply.message)
            self._turn.is_short = True
            return False
        if self._has_waited_in_vain(reply):
            log.error("Leaving: %s", reply.message)
            self._turn.exit_code = 1
            return False
        if self._gpus:
            self._children.close()  # a standby holds GPU memory that a task may wait for
        if self._wait_s or reply.reason != "wait":
            self._connection.wait(reply.retry_after_s)
        self._wait_s = min(MAX_WAIT_S, max(1.0, self._connection.manager_wait_s))
        return True

    def _begins(self, task: TaskReply) -> bool:
        """Return whether the manager knows that this worker, which has waited for it, has the task now."""
        begun = Heartbeat(**self._identity(), lease_id=task.lease_id, key=task.key)
        reply = self._connection.try_request(begun, HeartbeatReply, "Error requesting task")
        return reply is not None and not reply.stop

    def _has_waited_in_vain(self, reply: NoTask) -> bool:
        """Return whether nothing that is left can run, for as long as a missing manager is waited for."""
        if not reply.cannot_run:
            self._turn.idle_since_s = None
            return False
        if self._turn.idle_since_s is None:
            self._turn.idle_since_s = self._clock()
            log.warning("Nothing that is left can run: %s", reply.message)
        return self._clock() - self._turn.idle_since_s >= self._connection.manager_wait_s

    # -- one task

    def _work_on(self, task: TaskReply) -> None:
        path = self._run_folder(task)
        folder = self._disk.try_(lambda: RunFolder.of(path, task), task, None)
        if folder is None:
            return self._conclude(task, DiskFull(path, "the disk does not answer"))
        attempt = self._start_child(task, folder)
        if not isinstance(attempt, Attempt):
            return self._conclude(task, attempt)
        try:
            self._children.prepare(task)
            self._code = attempt.code
            outcome = self._watch(task, attempt)
            if self._memory and isinstance(outcome, Finished):
                self._memory.ended(attempt.began_s, outcome.duration_s, outcome.peak_gpu_mib)
            if isinstance(outcome, Failed) and self._is_disks_fault(outcome, folder.path):
                outcome = DiskFull(folder.path, outcome.error.splitlines()[-1])
            if self._gpus or not isinstance(outcome, Finished) or not attempt.has_reported_end:
                # before anybody else may run this task, and before its GPU is looked at
                self._disk.wait(attempt.kill, task, lambda waited_s: False)
            self._end_log(task, folder, attempt.given, has_failed=isinstance(outcome, Failed))
            self._conclude(task, outcome)
        finally:
            self._children.retire(attempt)

    def _start_child(self, task: TaskReply, folder: RunFolder) -> Attempt | Outcome | DiskFull:
        """Return the child, or how the task ends without one. The first import of torch may take minutes."""

        def is_given_up(waited_s: float) -> bool:
            return self._stop.wants_checkpoint or waited_s >= time_limits.START_S

        if (ended := self._set_up(task)) is not None:
            return ended
        try:
            return self._disk.wait(lambda: _tried(lambda: self._start(task, folder)), task, is_given_up)
        except DiskHangs:
            if self._stop.wants_checkpoint:
                return Stopped()
            self._turn.exit_code = 1  # the thread cannot be ended, but the worker can
            late = f"its process did not start within {time_limits.START_S:g} s"
            why = f"the import of {task.experiment}, or the disk, does not end"
            return Failed(Cause.TIMEOUT, f"{late} ({why}); its worker leaves")

    def _set_up(self, task: TaskReply) -> Outcome | None:
        """Return how the task ends since its file's setup has failed, or is interrupted; else None."""
        if self._setup.is_done(task, task.copy):
            return None

        def set_up() -> Failed | None:
            self._renew_code(task)
            wants_end = lambda: self._stop.wants_checkpoint  # noqa: E731
            problem = self._setup.run(task, task.copy, version=task.code_version, is_ended=wants_end)
            return Failed(Cause.SETUP, problem) if problem else None

        try:
            ended = self._disk.wait(
                lambda: _tried(set_up), task, lambda waited_s: self._stop.wants_checkpoint
            )
        except DiskHangs:  # the setup ends beside, or with this process
            return Stopped()
        return Stopped() if self._stop.wants_checkpoint else ended

    def _start(self, task: TaskReply, folder: RunFolder) -> Attempt | Failed | DiskFull:
        """Return the child, or why there is none."""
        run = self._begin_log(task, folder)
        if not isinstance(run, Run):
            return run
        log.info("Running task %s (attempt %d)", task.task_id, task.attempt)
        self._renew_code(task)
        return self._children.start(run)

    def _renew_code(self, task: TaskReply) -> None:
        """Go where the task's code is; forget what was imported before that became another."""
        is_other = self._code_folder.enter(task.copy)
        if is_other or task.code_version != self._code_versions.get(task.phase, 0):
            self._children.renew()
        self._code_versions[task.phase] = task.code_version

    def _begin_log(self, task: TaskReply, folder: RunFolder) -> Run | Failed | DiskFull:
        """Begin the attempt's log on a disk that has room; return what to run, or why that cannot be done."""
        output_dir, where = self._workdir.results_folder(task.output_dir), str(folder.path)
        identity = self._fixed_identity
        try:
            self._log_file.follow(output_dir)
            text = header(task, task.attempt, f"{identity['worker_id']} of {identity['host']}")
            path, start = folder.begin_log(text)
            if path == folder.log:
                probe(folder.path)
        except OSError as error:
            where = error.filename or where
            if is_disk_full(error):
                return DiskFull(folder.path, f"{where}: {error.strerror}")
            return Failed(Cause.ERROR, f"{where}: the task's folder cannot be made ({why_not_made(error)})")
        except ValueError as error:  # a name that this system cannot make
            return Failed(Cause.ERROR, f"{where}: the task's folder cannot be made ({error})")
        return Run(
            task=task,
            attempt=task.attempt,
            output_dir=str(output_dir),
            run_folder=str(folder.path),
            log=str(path),
            log_start=start,
            rule=task.rule,
            halving=task.halving,
        )

    def _end_log(self, task: TaskReply, folder: RunFolder, run: Run | None, *, has_failed: bool) -> None:
        """Let the task's folder be there if there is something to keep."""
        if run is None:
            return
        log_path, start = Path(run.log), run.log_start
        try:
            has_log = self._disk.try_(lambda: folder.end_log(log_path, start, keeps=has_failed), task, False)
            if has_log:
                self._disk.try_(lambda: self._log_cap.close(folder.log), task, None)
        except OSError as error:
            log.warning("%s: cannot be written (%s)", error.filename or folder.path, error.strerror)

    def _conclude(self, task: TaskReply, outcome: Outcome | Fenced | DiskFull) -> None:
        """Deliver the result, or report to the manager what happened instead."""
        match outcome:
            case Finished():
                self._complete(task, outcome)
            case Failed(cause=cause, error=error):
                log.warning("Task %s failed (%s): %s", task.task_id, cause.value, error.splitlines()[-1])
                error = clean_text(error)[-MAX_ERROR_CHARS:]
                self._connection.report(
                    TaskFailed(**self._delivery.report_fields(task), cause=cause.value, error=error)
                )
            case Stopped():
                reason = "preempted" if self._stop.is_preempted else "interrupted"
                if self._stop.yields_to:
                    reason = f"gives way to {self._stop.yields_to}"
                saved = self._checkpoints(task)
                has_saved = self._disk.try_(lambda: any(saved.rglob("*")), None, True)
                self._turn.is_hopeless = not self._turn.completed and not has_saved
                self._give_back(task, reason)
            case Unusable(problem=problem):
                self._turn.exit_code = 2
                self._give_back(task, f"GPU not usable: {problem}")
                log.error(  # its last line, which `run` quotes
                    "The GPU of this worker cannot be used by %s. Install a build of torch for this driver "
                    "(pytorch.org/get-started), or start the worker with --device cpu",
                    problem,
                )
            case DiskFull():
                self._meet_full_disk(task, outcome)
            case Fenced():
                log.warning(
                    "Task %s was cancelled or completed by another worker; its result is not wanted",
                    task.task_id,
                )

    def _complete(self, task: TaskReply, outcome: Finished) -> None:
        run_dir = self._run_folder(task)
        has_folder = self._disk.try_(run_dir.is_dir, task, True)
        run = Provenance(
            **provenance.of_code(self._code),
            peak_gpu_mib=outcome.peak_gpu_mib,
            torch_version=outcome.torch_version,
            attempt=task.attempt,
            worker=str(self._fixed_identity["worker_id"]),
            host=str(self._fixed_identity["host"]),
            device=str(self._fixed_identity["device"]),
            started_utc=outcome.started_utc,
            run_dir=run_dir.relative_to(self._workdir.root).as_posix() if has_folder else "",
            duration_s=outcome.duration_s,
            stopped_at=outcome.stopped_at,
        )
        delivery = Delivery(task=task, result=outcome.result, run=run)
        ack = self._delivery.deliver(delivery)
        for note in outcome.notes:
            log.warning("Task %s: %s", task.task_id, note)
        if ack is None and self._connection.refusal:  # which the manager has charged
            self._delivery.keep_refused(delivery, self._connection.refusal)
        if ack is not None:
            is_whole = outcome.stopped_at is None
            log.info("Task %s %s", task.task_id, "completed" if is_whole else "stopped early")
            self._turn.completed += 1
            if is_whole:  # else it may be asked for more, and goes on from there
                self._disk.try_(lambda: forget_checkpoints(self._checkpoints(task)), None, None)
            self._next = ack.next

    def _give_back(self, task: TaskReply, reason: str, cause: Literal["", "disk_full"] = "") -> None:
        log.info("Giving task %s back: %s", task.task_id, reason)
        about = self._delivery.report_fields(task)
        self._connection.report(TaskReleased(**about, reason=clean_text(reason), cause=cause))

    def _meet_full_disk(self, task: TaskReply, disk: DiskFull) -> None:
        """Give the task back, and wait until there is room; the manager counts how often a task met this."""
        log.warning("%s: disk full or read-only; asking for no task until it is not", disk.folder)
        reason = f"{disk.folder}: disk full or read-only: {disk.problem}"
        self._give_back(task, reason, cause="disk_full")
        while (
            self._is_full_at(disk.folder) and not self._stop.wants_leave and not self._connection.has_given_up
        ):
            self._connection.wait(DISK_RETRY_S)
            status = self._connection.try_request(Status(), StatusReply, "Error requesting task")
            if status is not None and (status.status.done or status.status.ending):
                return

    def _is_disks_fault(self, outcome: Failed, folder: Path) -> bool:
        """Return whether a disk was full. A checkpoint may not have fitted where there is room for less."""
        may_be = outcome.cause in (Cause.ERROR, Cause.CRASH)
        return may_be and (outcome.met_full_disk or self._is_full_at(folder))

    def _is_full_at(self, folder: Path) -> bool:
        return self._disk.try_(lambda: is_full_at(folder), None, True)

    def _checkpoints(self, task: TaskReply) -> Path:
        return self._run_folder(task) / CHECKPOINT_FOLDER

    def _run_folder(self, task: TaskReply) -> Path:
        return self._workdir.run_folder(task.output_dir, task.phase, task.seed, task.key)

    def _watch(self, task: TaskReply, attempt: Attempt) -> Outcome | Fenced | DiskFull:
        """Return how the attempt ends, or is ended; one that was stopped early has a result."""
        early = EarlyStop(task, attempt, self._delivery.rung, self._clock)
        outcome = self._await_end(task, attempt, early)
        if isinstance(outcome, Fenced):
            return outcome
        early.look(has_ended=True)
        return early.judged(outcome)

    def _await_end(self, task: TaskReply, attempt: Attempt, early: EarlyStop) -> Outcome | Fenced:
        limits = time_limits.TimeLimits(task, attempt, self._stop, self._clock)
        has_news = True
        self._log_cap.begin(attempt.given)
        while (outcome := attempt.outcome()) is None:
            early.look()
            self._log_cap.look()
            if attempt.progress and has_news:
                self._connection.heartbeat_soon()  # whoever watches learns how long this task takes
                has_news = False
            if (late := limits.outcome(early.kill_at_s)) is not None:
                return late
            is_due = self._clock() >= self._connection.next_heartbeat_s
            if is_due and not self._delivery.heartbeat(task, attempt.progress):
                return Fenced()
            next_s = self._connection.next_heartbeat_s, self._log_cap.next_look_s, early.kill_at_s
            self._connection.wait(max(0.0, limits.next_s(*next_s) - self._clock()), attempt.waitables)
        if isinstance(outcome, Failed) and (self._stop.wants_checkpoint or attempt.is_interrupted):
            return Stopped()  # whatever it did when asked to stop is not held against the task
        if isinstance(outcome, Stopped) and not self._stop.wants_checkpoint:
            return Failed(Cause.ERROR, "context.Stopped was raised although should_stop() is false")
        return outcome


def _tried(step: Callable[[], T]) -> T | Failed:
    """Return what a step on the way to a task's process brings, or how it failed."""
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - around a task's start: a failed attempt
        return Failed(Cause.ERROR, f"its process could not be started: {type(error).__name__}: {error}")
