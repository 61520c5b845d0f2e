"""Ends attempts: complete (its row checked and written), failed, given back, lost.

The order is the promise: a row is on disk before it is acknowledged, and a task that may have finished is
looked for in its file before it is assigned again.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass

from msgspec import structs

from distexp.errors import DistexpError, JournalUnwritable, ProtocolError, ResultsUnwritable
from distexp.manager.first_rows import FirstRows
from distexp.manager.kept_rows import KeptRow, KeptRows
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import Worker
from distexp.queue.entry import Entry, Lease, WorkerInfo
from distexp.queue.holds import BEFORE_BEGIN, COUNTED
from distexp.queue.journal import Journal
from distexp.queue.packing import is_out_of_memory
from distexp.queue.task_queue import FAILURE_BUDGET, LOSS_BUDGET
from distexp.results.conversion import convert
from distexp.results.row import row_for
from distexp.run_folder import LOG_FILE, run_folder
from distexp.task import Cause, PeakMemory, Provenance, State, Task
from distexp.text import count_text, last_line
from distexp.wire import messages as wire

MAX_FULL_DISKS = 3  # that one task meets, on any workers: then it may be what fills them

log = logging.getLogger("distexp.manager")


@dataclass
class Completion:
    """A task that a worker reports as complete."""

    task: Task  # as assigned
    lease_id: str
    worker: Worker
    row: dict[str, str] | None  # None: the worker has written it
    has_metrics: bool | None  # None: only the worker knows
    wants_next: bool
    next: wire.TaskReply | wire.NoTask | None = None  # what the worker gets next
    error: DistexpError | None = None  # why it is refused
    is_kept: bool = False  # its row waits for its file
    is_pruned: bool = False  # it was stopped early


class CompletionHandler:
    """Ends attempts, as workers report or rows show.  Safe from any thread."""

    def __init__(
        self, sweep: SweepState, journal: Journal, kept: KeptRows, on_hold: Callable[[str], None]
    ) -> None:
        """Call `on_hold` with each phase that is held, before its worker hears it."""
        self._journal, self._kept, self._on_hold = journal, kept, on_hold
        self._queue, self._store, self._registry = sweep.queue, sweep.store, sweep.registry
        self._forecaster, self._packing = sweep.forecaster, sweep.packing
        self.first_rows = FirstRows(sweep.store.root)
        self._reporters: dict[str, WorkerInfo] = {}  # key -> who is reporting it as complete just now

    # -- what workers report -------------------------------------------------------------------------------

    def validate(self, request: wire.TaskComplete, worker: Worker) -> Completion:
        """Return the reported completion, ready for `complete`. The report is a sign of life.

        Raises:
            ProtocolError: The result is of another sweep, or none that could become a row.
        """
        if request.sweep_id not in ("", self._journal.sweep_id):
            raise ProtocolError(
                f"task_complete {request.task_id}: the result is of another sweep ({request.sweep_id}), "
                f"not of this one ({self._journal.sweep_id})"
            )
        entry = self._reported(request)
        task = entry.assigned_task
        lease_id = _lease_id(request, entry, worker)
        self._queue.heartbeat(lease_id, task.key, worker.info)  # alive, also where no row can be written now
        row, has_metrics = self._row(task, request, worker, entry)
        self._reporters.setdefault(task.key, worker.info)  # whatever sees the row: it is its work
        is_pruned = request.stopped_at is not None
        return Completion(task, lease_id, worker, row, has_metrics, request.next, is_pruned=is_pruned)

    def _row(
        self, task: Task, request: wire.TaskComplete, worker: Worker, entry: Entry
    ) -> tuple[dict[str, str] | None, bool | None]:
        """Return the row that is to be written, and whether it has metrics; None: the worker wrote it."""
        if request.result is None:
            return None, None
        run = request.run or Provenance(attempt=max(1, entry.attempts))
        name = self._registry.name_of(run.worker, run.host) if run.worker else worker.name
        rule = self._store.rule(entry.planned)
        metrics = convert(task, request.result, rule).metrics
        return row_for(task, metrics, structs.replace(run, worker=name), rule), bool(metrics)

    def complete(self, completions: Sequence[Completion]) -> None:
        """Return once each task has its row on disk, or its `error`. All belong into one results file."""
        try:
            self._store.append([(each.task, each.row) for each in completions if each.row is not None])
        except ResultsUnwritable as error:
            for each in completions:
                if each.row is not None:
                    self._keep(each, each.row, error)
        for each in completions:
            if each.is_kept:
                continue
            unreadable = self._look_for_row(each.task) if each.row is None else None
            has_row = self._store.where(each.task.key) is not None
            if each.is_pruned and has_row:
                self._finish(each.task.key, State.PRUNED, is_reported=True)
            entry = self._queue.entry(each.task.key)
            is_done = entry.state is State.COMPLETE or (each.is_pruned and has_row)
            if each.error is None and not is_done:
                each.error = unreadable or self._refusal(each, entry)
            elif is_done and not each.is_pruned:
                self.first_rows.note(each.task, each.has_metrics)

    def _look_for_row(self, task: Task) -> ResultsUnwritable | None:
        """Look for a row of the task; return why nobody knows whether there is one."""
        try:
            self._store.scan(task)
        except ResultsUnwritable as error:
            return error
        return None

    def _keep(self, completion: Completion, row: dict[str, str], why: ResultsUnwritable) -> None:
        """Keep a row that cannot be written now, and give its task back: it waits for that row alone."""
        task = completion.task
        try:
            self._kept.keep(task, row, completion.worker.name)
        except ResultsUnwritable:
            completion.error = why  # the worker keeps it, and tries again
            return
        completion.is_kept = True
        self._queue.release(completion.lease_id, task.key)
        log.warning("Task %s has run on %s; its row is kept: %s", task.task_id, completion.worker.name, why)

    def write_kept_rows(self) -> None:
        """Write the kept rows whose files can be written by now."""
        written = list[str]()

        def note_reporter(kept: KeptRow) -> None:
            self._reporters[kept.task.key] = WorkerInfo(kept.worker)
            written.append(kept.task.key)

        self._kept.write(self._store, note_reporter)
        for key in written:
            self._reporters.pop(key, None)

    def forget(self, completion: Completion) -> None:
        """Forget who has reported that task."""
        self._reporters.pop(completion.task.key, None)

    def _refusal(self, completion: Completion, entry: Entry) -> ProtocolError:
        """Take the task back from a worker that says it has written its row; return what it is told."""
        task, lease = completion.task, entry.lease
        if (
            completion.worker.info.shares_folder
            and lease is not None
            and lease.lease_id == completion.lease_id
        ):
            self._lose(lease, "the row that it has reported is not there")  # else it gets the task for ever
        return ProtocolError(
            f"task_complete {task.task_id}: no row of it is in {self._store.path(task)}: write the row "
            "before you report, or send a `result` with it"
        )

    def charge_refusal(self, request: wire.TaskComplete, worker: Worker, why: str) -> None:
        """Charge a report that was refused for good as a failure: its worker would repeat it for ever."""
        if not self._queue.knows(request.key):
            return
        entry = self._queue.entry(request.key)
        failure = _as_failure(request, f"its result was refused: {why}")
        if entry.state is State.ASSIGNED:
            self._charge(failure, entry, worker, failure.error, retry=True)

    def failed(self, request: wire.TaskFailed, worker: Worker) -> wire.Ack:
        """Charge the failure to the task; one before its begin holds its phase, or excludes the worker."""
        entry = self._reported(request)
        cause, why = Cause(request.cause), last_line(request.error)
        if is_out_of_memory(cause, request.error, worker.info):
            cause = Cause.OUT_OF_MEMORY
            request = structs.replace(request, cause=cause.value)
        if self._has_run_out_beside_others(request, entry, worker, why):
            is_live = True
        elif cause in BEFORE_BEGIN:
            is_live = self._not_begun(request, entry, worker, why)
        else:
            has_larger = (self._registry.largest_mib(entry.need.gpus) or 0) > worker.info.memory_mib
            retry = cause is not Cause.OUT_OF_MEMORY or has_larger
            is_live = self._charge(request, entry, worker, why, retry=retry)
        self._journal.flush()
        return wire.Ack() if is_live else _LATE

    def note_peak(self, request: wire.Heartbeat | wire.Report, peak: PeakMemory) -> None:
        """Note what an attempt has held on a GPU that it may share."""
        if self._queue.knows(request.key):
            phase = self._queue.entry(request.key).planned.phase
            is_whole = isinstance(request, wire.TaskComplete)
            about = phase, peak, request.shared_gpu, request.lease_id
            self._packing.measured(*about, is_whole=is_whole)

    def _has_run_out_beside_others(
        self, request: wire.TaskFailed, entry: Entry, worker: Worker, why: str
    ) -> bool:
        """Give a task back, free, to run alone on its GPU, if others may have held the memory it lacked."""
        lease = entry.lease
        if lease is None or lease.lease_id != _lease_id(request, entry, worker):
            return False
        if not self._packing.has_run_out(lease, Cause(request.cause), request.peak):
            return False
        self._queue.release(lease.lease_id, lease.task.key, runs_alone=True)
        log.warning(
            "Task %s ran out of memory on %s beside other tasks; it runs again, alone, at no cost: %s",
            *(lease.task.task_id, worker.name, why),
        )
        return True

    def _charge(
        self, request: wire.TaskFailed, entry: Entry, worker: Worker, why: str, *, retry: bool
    ) -> bool:
        """Return whether the lease was live."""
        task, cause = entry.task, Cause(request.cause)
        lease_id = _lease_id(request, entry, worker)
        was_held = task.phase in self._queue.holds.explain()
        state = self._queue.fail(lease_id, task.key, cause, request.error, retry=retry)
        if state is None:
            return False
        self._registry.failed(worker.info, task)
        self._forecaster.failed(task, worker.name, f"{cause}: {why}", state)
        is_free = was_held and cause in COUNTED
        cost = "not charged" if is_free else f"failure {entry.failures + 1} of {FAILURE_BUDGET}"
        log.warning(
            "Task %s failed on %s (%s, %s, now %s): %s%s",
            *(task.task_id, worker.name, cause, cost, state, why),
            self._log_told(task) if worker.info.shares_folder else "",
        )
        if not was_held:
            self._log_hold(task.phase)
        return True

    def _log_told(self, task: Task) -> str:
        """Return where the task's log is; there is none where its folder cannot be made."""
        path = run_folder(task.output_dir, task.phase, task.seed, task.key) / LOG_FILE
        return f" (its log: {path.as_posix()})" if os.path.isfile(self._store.root / path) else ""

    def _not_begun(self, request: wire.TaskFailed, entry: Entry, worker: Worker, why: str) -> bool:
        """Hold the phase, or exclude a worker that alone cannot import it; return if the lease was live."""
        task, cause, lease_id = entry.task, Cause(request.cause), _lease_id(request, entry, worker)
        is_live = entry.lease is not None and entry.lease.lease_id == lease_id
        if cause is Cause.IMPORT:
            why_excluded = f"cannot import {task.experiment}, which others can: {why}"
            is_proven = is_live and self._registry.is_proven(task.experiment)
            if is_proven and self._registry.exclude(worker.info, why_excluded):
                return self._queue.release(lease_id, task.key) is not None
        error = f"{task.experiment} cannot be imported: {why}" if cause is Cause.IMPORT else why
        was_held = task.phase in self._queue.holds.explain()
        if not is_live or not self._queue.not_begun(lease_id, task.key, cause, error):
            return self._charge(request, entry, worker, why, retry=True)
        self._forecaster.failed(task, worker.name, f"{cause}: {why}", State.PENDING)
        if not was_held:
            self._log_hold(task.phase)
        return True

    def _log_hold(self, phase: str) -> None:
        why = self._queue.holds.explain().get(phase)
        if why is not None:
            self._on_hold(phase)
            log.error("Phase %s is held: %s; fix it, then `resume` goes on, or an edit does", phase, why)

    def released(self, request: wire.TaskReleased, worker: Worker) -> wire.Ack:
        """Take a task back without cost; the third time that it has met a full disk, it is charged."""
        entry = self._reported(request)
        met_full_disk = request.cause == "disk_full"
        if met_full_disk and entry.full_disks + 1 >= MAX_FULL_DISKS:
            why = request.reason or "disk full or read-only"
            return self.failed(_as_failure(request, f"{why}, {MAX_FULL_DISKS} times now"), worker)
        lease_id, key = _lease_id(request, entry, worker), entry.task.key
        state = self._queue.release(lease_id, key, met_full_disk=met_full_disk)
        if state is not None:
            reason = request.reason or "no reason"
            log.info("Task %s given back by %s: %s", entry.task.task_id, worker.name, reason)
        self._journal.flush()
        return _LATE if state is None else wire.Ack()

    def _reported(self, request: wire.Report) -> Entry:
        return self._queue.entry(request.key or self._queue.key_of(request.task_id))

    # -- what the manager sees -----------------------------------------------------------------------------

    def take_back_unstarted(self, lease: Lease) -> bool:
        """Take a task back, free, whose worker left before it began; False when it has begun."""
        if not self._queue.take_back_unstarted(lease):
            return False
        names = lease.task.task_id, lease.worker.name
        log.info("Task %s goes to another worker: %s left before it began", *names)
        return True

    def lose(self, lease: Lease, why: str) -> None:
        """End the lease of a worker that is gone, unless the task's row turns out to be there.

        Nothing changes while the results file cannot be read.
        """
        if not self.take_back_unstarted(lease) and self._look_for_row(lease.task) is None:
            self._lose(lease, why)

    def _lose(self, lease: Lease, why: str) -> None:
        self._packing.abandon(lease)
        state = self._queue.lose(lease.lease_id, lease.task.key)
        if state is None:
            return
        losses = self._queue.entry(lease.task.key).losses
        self._forecaster.failed(lease.task, lease.worker.name, f"lost: {why}", state)
        log.warning(
            "Task %s lost by %s: %s (loss %d of %d, now %s)",
            *(lease.task.task_id, lease.worker.name, why, losses, LOSS_BUDGET, state),
        )
        with suppress(JournalUnwritable):  # nobody waits for an answer, and the next flush tries again
            self._journal.flush()

    def finished(self, keys: Set[str], pruned: Set[str] = frozenset()) -> None:
        """Mark tasks whose rows were seen as complete, or pruned, and say whose work it is, if assigned.

        Caller holds the lock of the tasks' results file.
        """
        for key in keys & set(self._reporters):  # of another manager's lease, too
            self._finish(key)
        for key in self._queue.complete_unassigned(keys):
            self._finish(key)
        for key in pruned:
            self._finish(key, State.PRUNED, is_reported=key in self._reporters)

    def _finish(self, key: str, state: State = State.COMPLETE, *, is_reported: bool = False) -> None:
        held = self._queue.holds.explain()
        before = self._queue.complete(key, state, is_reported=is_reported)
        if before is None:
            return
        if (phase := before.planned.phase) in held and phase not in self._queue.holds.explain():
            log.info("Phase %s goes on: %s has succeeded", phase, before.planned.task_id)
        if before.lease is not None:
            self._forecaster.completed(before.lease)
            if state is State.COMPLETE:
                self._packing.completed(before.lease)
        worker = self._reporters.get(key) or (before.lease.worker if before.lease else None)
        if worker is not None:
            task = before.lease.task if before.lease else before.task
            self._registry.completed(worker, task)
            done = "completed" if state is State.COMPLETE else "pruned"
            log.info("Task %s %s by %s", task.task_id, done, worker.name)

    def fail_unplaceable(self) -> None:
        """Fail what ran out of memory on every device that is there, once nothing else is left to do."""
        for entry in self._queue.fail_unplaceable(self._registry.largest_mib):
            log.error(
                "Task %s failed: it ran out of memory with %d MiB, and no worker that is left has more",
                *(entry.task.task_id, entry.oom_at_mib),
            )

    def say_what_failed_before(self) -> None:
        """Tell the user of tasks that failed under an earlier manager, by their cause."""
        if not self._queue.counts()[State.FAILED]:
            return
        counts = Counter(last_line(entry.error) for entry in self._queue.entries(State.FAILED))
        for cause, number in counts.most_common(3):
            log.warning(
                "%s failed earlier and stay failed (--retry-failed runs them again): %s",
                *(count_text(number, "task"), cause),
            )


_LATE = wire.Ack(message="that lease has ended; nothing changed")


def _as_failure(request: wire.Report, error: str) -> wire.TaskFailed:
    """Return another report as that of a failure."""
    return wire.TaskFailed(
        worker_id=request.worker_id,
        task_id=request.task_id,
        lease_id=request.lease_id,
        key=request.key,
        error=error,
    )


def _lease_id(request: wire.Report, entry: Entry, worker: Worker) -> str:
    """Return the lease a report is about; a hand-written client may name the task alone, if it holds it."""
    if request.lease_id or entry.lease is None or entry.lease.worker.name != worker.name:
        return request.lease_id
    return entry.lease.lease_id
