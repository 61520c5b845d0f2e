"""Each request of the wire, answered: queue, journal and ledger in the right order. Opens the rooms it joins.

The order is the promise: a lease is in the journal before its reply leaves, a row is on disk before it is
acknowledged, and a task that may have finished is looked for in its file before it is lent again.
"""

import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from distexp import protocol as wire
from distexp.control import Control
from distexp.entry import Borrower, Cause, Entry, Lease, State
from distexp.errors import JournalUnwritable, ProtocolError, Unauthorized
from distexp.journal import Journal
from distexp.ledger import Ledger
from distexp.roster import Roster, Worker
from distexp.rows import check_result, row_for
from distexp.server import Connection
from distexp.task import Provenance, Task, Value
from distexp.task_queue import FAILURE_BUDGET, LOSS_BUDGET, TaskQueue

WAIT_S = 1.0  # an idle worker asks again after this, when it is one of few ...
WAIT_MAX_S = 10.0  # ... and after this when it is one of a thousand: together they ask 100 times a second

log = logging.getLogger("distexp.manager")


class Service:
    """The manager's side of the wire.  Safe from any thread."""

    def __init__(
        self, *, queue: TaskQueue, journal: Journal, ledger: Ledger, roster: Roster, secret: str | None
    ) -> None:
        """Answer from these rooms; `secret` None means that no request needs a token."""
        self._queue, self._journal, self._ledger, self._roster = queue, journal, ledger, roster
        self._secret = secret
        self._control = Control(queue, ledger, roster)
        self.is_stopping = False
        self._answers: Mapping[type, Callable[[Any, Connection], wire.AnyReply]] = {
            wire.RequestTask: self._request_task,
            wire.Heartbeat: self._heartbeat,
            wire.TaskComplete: self._task_complete,
            wire.TaskFailed: self._task_failed,
            wire.TaskReleased: self._task_released,
        }

    # -- what the server asks ------------------------------------------------------------------------------

    def handle(self, request: wire.AnyRequest, connection: Connection) -> wire.AnyReply:
        """Return the reply.

        Raises:
            DistexpError: The request is refused; the message says why.
        """
        if not isinstance(request, wire.Status):
            self._authorise(request)
        answer = self._answers.get(type(request))
        if answer is not None:
            return answer(request, connection)
        reply = self._control.handle(request)
        self._journal.flush()
        return reply

    def status(self) -> dict[str, Value]:
        """Return what a `status` request is told."""
        return self._control.status()

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a task is out on this connection."""
        return any(lease.borrower.connection == connection.number for lease in self._queue.leases())

    def closed(self, connection: Connection) -> None:
        """Give the worker a moment to come back; none when its process is seen to be gone."""
        self._roster.disconnect(connection.number)
        for lease in self._queue.disconnect(connection.number):
            if self._roster.has_died(lease.borrower.worker):
                self.lose(lease, "its process is gone")

    def _authorise(self, request: wire.Request) -> None:
        if self._secret is None:
            return
        if not hmac.compare_digest((request.token or "").encode(), self._secret.encode()):
            found = "a wrong token" if request.token else "no token"
            raise Unauthorized(
                f"{type(request).__name__}: found {found}, expected the secret in the manager's "
                ".experiment_token (or EXPERIMENT_TOKEN) in the field `token`"
            )

    # -- lending -------------------------------------------------------------------------------------------

    def _request_task(
        self, request: wire.RequestTask, connection: Connection
    ) -> wire.TaskReply | wire.NoTask:
        worker = self._roster.introduce(request, connection.number)
        held = self._held_already(worker)
        return self._reply(held, worker) if held else self._next(worker)

    def _held_already(self, worker: Worker) -> Lease | None:
        """Return the lease whose reply this worker did not get: a worker runs one task at a time."""
        if not worker.instance:
            return None  # a hand-written client; it may hold several
        held = (lease for lease in self._queue.leases() if lease.borrower.worker == worker.name)
        lease = next(held, None)
        if lease is None or not self._queue.beat(lease.lease_id, lease.task.key, worker.borrower):
            return None
        return lease

    def _next(self, worker: Worker) -> wire.TaskReply | wire.NoTask:
        if self.is_stopping:
            return wire.NoTask(reason="restarting", retry_after_s=WAIT_S)
        if worker.drained:
            return wire.NoTask(reason="done", message="drained: this worker gets no more tasks")
        if self._queue.is_over():
            return wire.NoTask(reason="done", message="every task of the sweep has ended")
        refusal = "paused" if self._control.is_paused else self._roster.refusal(worker)
        lease = None if refusal else self._lend(worker.borrower)
        if lease is None:
            wait_s = min(WAIT_MAX_S, max(WAIT_S, 0.01 * len(self._roster.connected())))
            return wire.NoTask(
                reason="wait",
                retry_after_s=wait_s,
                message=refusal or "the tasks that are left run elsewhere",
            )
        return self._reply(lease, worker)

    def _lend(self, borrower: Borrower) -> Lease | None:
        """Return a lease that is in the journal, of a task that has no row yet."""
        while (lease := self._queue.lend(borrower)) is not None:
            if lease.attempt > 1:  # its last worker may have written the row and died
                self._ledger.scan(lease.task)
                if self._queue.entry(lease.task.key).state is State.COMPLETE:
                    continue
            try:
                self._journal.flush()
            except JournalUnwritable:
                self._queue.release(lease.lease_id, lease.task.key)
                raise
            log.info("Assigned task %s to %s", lease.task.task_id, borrower.worker)
            return lease
        return None

    def _reply(self, lease: Lease, worker: Worker) -> wire.TaskReply:
        task = lease.task
        fields = {name: getattr(task, name) for name in task.__struct_fields__}
        return wire.TaskReply(
            **fields,
            lease_id=lease.lease_id,
            attempt=lease.attempt,
            writes_row=worker.shares_folder,
            sweep_id=self._journal.sweep_id,
            seen=self._ledger.bookmark(task),
        )

    def _heartbeat(self, request: wire.Heartbeat, connection: Connection) -> wire.BeatReply:
        worker = self._roster.introduce(request, connection.number)
        worker.progress = request.progress
        if not request.lease_id:
            return wire.BeatReply(stop=False)
        return wire.BeatReply(stop=not self._queue.beat(request.lease_id, request.key, worker.borrower))

    # -- endings -------------------------------------------------------------------------------------------

    def _task_complete(self, request: wire.TaskComplete, connection: Connection) -> wire.Ack:
        worker = self._roster.introduce(request, connection.number)
        if request.sweep_id not in ("", self._journal.sweep_id):
            raise ProtocolError(
                f"task_complete {request.task_id}: found a result of another sweep ({request.sweep_id}), "
                f"expected one of this sweep ({self._journal.sweep_id})"
            )
        entry = self._reported(request)
        task = entry.task
        if request.result is None:
            self._ledger.scan(task)
        else:
            run = request.run or Provenance(attempt=max(1, entry.attempts))
            try:
                result = check_result(task, request.result)
            except ValueError as error:
                raise ProtocolError(str(error)) from None
            self._ledger.append(task, row_for(task, result, structs.replace(run, worker=worker.name)))
        if self._queue.entry(task.key).state is not State.COMPLETE:
            raise ProtocolError(
                f"task_complete {task.task_id}: found no row of it in {self._ledger.path(task)}, "
                "expected the row before the report, or a `result` to write it from"
            )
        return wire.Ack(next=self._next(worker) if request.next else None)

    def _task_failed(self, request: wire.TaskFailed, connection: Connection) -> wire.Ack:
        worker = self._roster.introduce(request, connection.number)
        entry = self._reported(request)
        task, cause = entry.task, Cause(request.cause)
        lease_id = _lease_id(request, entry)
        last_line = (request.error.strip().splitlines() or ["no message"])[-1]
        if cause is Cause.IMPORT and self._roster.is_proven(task.experiment):
            if self._queue.release(lease_id, task.key) is None:
                return _LATE
            self._roster.bench(worker.name, f"cannot import {task.experiment}, which others can: {last_line}")
            log.warning(
                "%s gets no more tasks: cannot import %s: %s", worker.name, task.experiment, last_line
            )
            self._journal.flush()
            return wire.Ack()
        state = self._queue.fail(
            lease_id, task.key, cause, request.error, retry=self._may_retry(cause, worker)
        )
        if state is None:
            return _LATE
        self._roster.failed(worker.name, task)
        log.warning(
            "Task %s failed on %s (%s, failure %d of %d, now %s): %s",
            *(task.task_id, worker.name, cause, entry.failures + 1, FAILURE_BUDGET, state, last_line),
        )
        if cause is Cause.IMPORT:
            self._fail_phase(task, last_line)
        self._journal.flush()
        return wire.Ack()

    def _may_retry(self, cause: Cause, worker: Worker) -> bool:
        if cause is Cause.OUT_OF_MEMORY:
            return self._roster.has_larger_device(worker.memory_mib)
        return cause is not Cause.IMPORT

    def _fail_phase(self, task: Task, why: str) -> None:
        """End what is left of a phase whose experiment cannot be imported: once, not task by task."""
        error = f"{task.experiment} cannot be imported: {why}"
        left = [
            entry.task
            for entry in self._queue.entries()
            if entry.task.phase == task.phase
            and entry.task.experiment == task.experiment
            and entry.state is State.PENDING
        ]
        ended = sum(self._queue.cancel(each.key, cause=Cause.IMPORT, error=error) for each in left)
        log.error("Phase %s ended: %s (%d more tasks cancelled)", task.phase, error, ended)

    def _task_released(self, request: wire.TaskReleased, connection: Connection) -> wire.Ack:
        worker = self._roster.introduce(request, connection.number)
        entry = self._reported(request)
        if self._queue.release(_lease_id(request, entry), entry.task.key) is None:
            return _LATE
        log.info(
            "Task %s given back by %s: %s", entry.task.task_id, worker.name, request.reason or "no reason"
        )
        self._journal.flush()
        return wire.Ack()

    def _reported(self, request: wire.Report) -> Entry:
        return self._queue.entry(request.key or self._queue.key_of(request.task_id))

    def lose(self, lease: Lease, why: str) -> None:
        """End the lease of a worker that is gone, unless the task's row turns out to be there."""
        self._ledger.scan(lease.task)
        state = self._queue.lose(lease.lease_id, lease.task.key)
        if state is not None:
            losses = self._queue.entry(lease.task.key).losses
            log.warning(
                "Task %s lost by %s: %s (loss %d of %d, now %s)",
                *(lease.task.task_id, lease.borrower.worker, why, losses, LOSS_BUDGET, state),
            )
            self._journal.flush()

    def finished(self, key: str) -> bool:
        """Mark a task whose row was seen as complete and say so; False when it is no news."""
        before = self._queue.complete(key)
        if before is None:
            return False
        if before.lease is not None:
            worker = before.lease.borrower.worker
            self._roster.completed(worker, before.task)
            log.info("Task %s completed by %s", before.task.task_id, worker)
        return True


_LATE = wire.Ack(message="that lease has ended; nothing changed")


def _lease_id(request: wire.Report, entry: Entry) -> str:
    """Return the lease a report is about; a hand-written client may name the task alone."""
    return request.lease_id or (entry.lease.lease_id if entry.lease else "")
