"""Answers each request of the wire: checks the secret, assigns tasks to workers, takes their heartbeats.

The order is the promise: a lease is in the journal before its reply leaves, and a task that may have finished
is looked for in its file before it is assigned again. How attempts end is in `completion`.

Order of locks: a batch of completions, a worker's turn, `assigning`, a results file's, the queue's, the
journal's.
"""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

from distexp.errors import DistexpError, ProtocolError, ResultsUnwritable, Unauthorized
from distexp.manager.admin import Admin
from distexp.manager.completion import Completion, CompletionHandler
from distexp.manager.kept_rows import KeptRows
from distexp.manager.rungs import halving_of
from distexp.manager.sweep_state import SweepState
from distexp.manager.waiting import Assignment, WaitingWorkers
from distexp.manager.workers import Worker, withheld_text
from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.records import DrainRecord, PauseRecord
from distexp.system.group_commit import GroupCommit
from distexp.task import SharedGpu
from distexp.wire import messages as wire
from distexp.wire.server import Connection

MEMORY_LOOK_S = 2.0  # only the worker sees when another program frees memory of a GPU
WAIT_S = 0.5  # a client that does not wait here asks again after this
PROCESS_ENDS_S = 0.1  # from the end of a killed worker's connection to that of its process, and more
TASK_ENDS_S = 2.5  # for its watcher to end the task
DEATH_LOOK_S = 0.01
LOOK_AGAIN = "a task may fit on this GPU now: tell how much of its memory is free"
UNABLE = "the `setup` of all that is left has failed on this host; fix it, then `resume` tries it again"
NO_ROOM = "no task that is left may start on this GPU now"
TOKEN_REMEDY = "put the secret of the manager's .experiment_manager/token into it"
WAIT_MAX_S = 10.0  # ... one of a thousand after this: together they ask 100 times a second
COMPANY_S = 0.02  # at most, for workers of no-op tasks to come back: one commit serves them all
LEASES_KEPT = 1000  # ended ones: of a worker that repeats its request, the last one matters
QUIET = (
    wire.Workers,
    wire.Tasks,
    wire.Show,
    wire.Logs,
    wire.View,
    wire.Code,
    wire.Heartbeat,
    wire.Rung,
    wire.RequestTask,
)

log = logging.getLogger("distexp.manager")


class Dispatcher:
    """The manager's side of the wire.  Safe from any thread."""

    def __init__(
        self,
        sweep: SweepState,
        journal: Journal,
        kept: KeptRows,
        *,
        secret: str | None,
        holds_folder: Callable[[], bool],
        on_hold: Callable[[str], None],
        on_assign: Callable[[], None],
    ) -> None:
        """`secret` None: no request needs a token. Nothing is assigned unless `holds_folder()`.

        `on_hold` hears each phase that is held, before its worker; `on_assign` when tasks were looked for.
        """
        self._journal, self._secret = journal, secret
        self._holds_folder, self._on_assign = holds_folder, on_assign
        self._queue, self._store, self._registry = sweep.queue, sweep.store, sweep.registry
        self._forecaster, self._frozen = sweep.forecaster, sweep.frozen
        self.packing, self.rungs, self.code = sweep.packing, sweep.rungs, sweep.code
        self._admin = Admin(sweep)
        self.completion = CompletionHandler(sweep, journal, kept, on_hold)
        self.is_stopping = False
        self.assigning = threading.Lock()  # held while tasks join whose rows have not been looked for yet
        self._last_leases: dict[str, Lease] = {}  # instance of a worker -> the last lease it was given
        self._max_leases = LEASES_KEPT  # that are remembered
        self._batches: dict[str, GroupCommit[Completion]] = {}  # by results folder
        self._waiting = WaitingWorkers(
            lambda workers: self.assign(workers, have_waited=True), self._closed_to
        )
        self._answers: Mapping[type, Callable[[Any, Worker], wire.AnyReply]] = {
            wire.Heartbeat: self._heartbeat,
            wire.Rung: self._rung,
            wire.TaskComplete: self._task_complete,
            wire.TaskFailed: self.completion.failed,
            wire.TaskReleased: self.completion.released,
        }

    # -- what the server asks ------------------------------------------------------------------------------

    def handle(self, request: wire.AnyRequest, connection: Connection) -> wire.AnyReply:
        """Return the reply.

        Raises:
            DistexpError: The request is refused; the message says why.
        """
        if isinstance(request, wire.Status):
            return self._status(request, connection)
        self._authorise(request)
        try:
            return self._handle(request, connection)
        finally:
            if not isinstance(request, QUIET):
                self._waiting.look()

    def _status(self, request: wire.Status, connection: Connection) -> wire.StatusReply:
        """Return how far the sweep is: on this host to anybody."""
        if not connection.is_local:
            self._authorise(request)
        status = self._admin.status()
        if self.knows(request):
            has_heard = status.done or status.ending
            self._registry.listen(connection.number, request.version, has_heard_end=has_heard)
        return wire.StatusReply(status=status)

    def _handle(self, request: wire.AnyRequest, connection: Connection) -> wire.AnyReply:
        if isinstance(request, wire.WorkerRequest):
            worker = self._registry.register(request, connection.number)
            if isinstance(request, wire.Heartbeat | wire.Report) and request.peak:
                self.completion.note_peak(request, request.peak)
            if isinstance(request, wire.RequestTask):
                self._queue.cancelled.heard(worker.info)
                return self._request_task(request, worker, connection)
            try:
                return self._answers[type(request)](request, worker)
            finally:
                if isinstance(request, wire.Report):
                    self._queue.cancelled.heard(worker.info, request.lease_id)
        if isinstance(request, wire.Code):
            return self._frozen.read(request)
        if isinstance(request, wire.Requeue | wire.Resume):
            self._frozen.freeze()  # whoever asks has fixed something
        reply = self._admin.handle(request)
        self._journal.flush()
        return reply

    def knows(self, request: wire.Request) -> bool:
        """Return whether the request shows the secret."""
        if self._secret is None:
            return False
        return hmac.compare_digest((request.token or "").encode(), self._secret.encode())

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a worker on this connection runs a task."""
        return any(lease.worker.connection == connection.number for lease in self._queue.leases())

    def closed(self, connection: Connection) -> None:
        """Give the worker a moment to come back; none when its process is seen to be gone."""
        self._registry.disconnect(connection.number)
        shortened = self._queue.disconnect(connection.number)
        for lease in shortened:
            if lease.is_unstarted:
                self.completion.take_back_unstarted(lease)
            elif self._is_seen_to_die(lease.worker):
                self.completion.lose(lease, "its process is gone")
        if not all(map(self._queue.is_live, shortened)):
            self._waiting.look()  # a task is free

    def _closed_to(self, worker: Worker) -> object:
        closed = self._queue.holds.closed_to(worker.info, self._queue.now_s())
        return closed, self._forecaster.too_long(worker.left_s)

    def _is_seen_to_die(self, worker: WorkerInfo) -> bool:
        """Return whether process and task are gone; wait for that as long as it usually takes."""
        began_s = time.monotonic()
        while not self._registry.has_died(worker):
            patience_s = TASK_ENDS_S if self._registry.is_ending(worker) else PROCESS_ENDS_S
            if worker.process is None or time.monotonic() > began_s + patience_s:
                return False
            time.sleep(DEATH_LOOK_S)
        return True

    def _authorise(self, request: wire.Request) -> None:
        if self._secret is not None and not self.knows(request):
            wrong = "holds a wrong secret" if request.token else "is missing"
            raise Unauthorized(f"{request.__struct_config__.tag}: `token` {wrong}; {TOKEN_REMEDY}")

    # -- what the manager asks -----------------------------------------------------------------------------

    def restore_leases(self) -> None:
        """Remember the leases of an earlier manager, whose last replies may have been lost."""
        self._last_leases.update(
            {lease.worker.instance: lease for lease in self._queue.leases() if lease.worker.instance}
        )

    def restore_steering(self) -> None:
        """Take over the pause of an earlier manager, and which workers are to leave."""
        self._registry.restore(self._journal.load(DrainRecord))
        self._admin.restore_pause(self._journal.load(PauseRecord))

    def status(self) -> wire.SweepStatus:
        """Return what a `status` request is told."""
        return self._admin.status()

    def view(self) -> wire.ViewReply:
        """Return what a `view` request is told."""
        return self._admin.view()

    def sweep_changed(self) -> None:
        """Estimate by the tasks that there are now; an edit lets held phases go on."""
        self.rungs.forget()
        self._forecaster.sweep_changed()
        self._admin.end_holds("a config file was edited")

    def code_changed(self) -> None:
        """Let held phases go on: a file of their code was edited."""
        self._frozen.renew()
        self._admin.end_holds("its code was edited")

    def held_text(self) -> str:
        """Return which phases are held, which results files cannot be written, and why, in one line."""
        held = [f"phase {phase} is held: {why}" for phase, why in self._queue.holds.explain().items()]
        return "; ".join([*held, *self._store.problems().values()])

    # -- assigning -----------------------------------------------------------------------------------------

    def _request_task(
        self, request: wire.RequestTask, worker: Worker, connection: Connection
    ) -> Assignment | wire.ErrorReply:
        if request.fetches:
            self._frozen.copy_for(fetches=True)  # refused before a task is assigned
        known = self._waiting.changes
        answer: Assignment | wire.ErrorReply = self.assign([worker])[0]
        if worker.info.earlier and isinstance(answer, wire.NoTask) and answer.reason == "wait":
            answer = self._refusal_of_outdated(worker.info) or answer
        if request.wait_s and isinstance(answer, wire.NoTask) and answer.reason == "wait":
            wait_s = request.wait_s
            if not self._admin.is_paused and self._queue.queries.is_short_of_memory(worker.info):
                wait_s = min(wait_s, max(MEMORY_LOOK_S, answer.retry_after_s))
            return self._waiting.wait(worker, connection.descriptor, answer, known, wait_s)
        if isinstance(answer, wire.TaskReply):
            worker.waits_since_s = None
        return answer

    def _refusal_of_outdated(self, info: WorkerInfo) -> wire.ErrorReply | None:
        """Return what a worker of an earlier version is told when no task is left that it can run: it leaves.

        A worker of any version shows the words of an error.
        """
        if info.earlier is None or not info.earlier.lacks or self._queue.queries.may_have_work(info):
            return None
        left = self._queue.queries.phases_left()
        known = dict(info.earlier.lacks)  # `show` may add to it meanwhile
        lacks = {phase: why for phase, why in known.items() if phase in left}
        return wire.ErrorReply(error=withheld_text(info, lacks))

    def look_again(self) -> None:
        """Try again for workers that wait: a task may be free for them, or the sweep over."""
        self._waiting.look()

    @property
    def is_ending(self) -> bool:
        """Whether workers are told to leave since nothing that is left can run."""
        return self._admin.is_ending

    def say_ending(self, is_ending: bool) -> None:
        """Tell workers to leave since nothing that is left can run, or no longer."""
        self._admin.is_ending = is_ending

    def stop(self) -> None:
        """Answer `restarting` from now on, also those that wait."""
        self.is_stopping = True
        self._waiting.close()

    def assign(self, workers: Sequence[Worker], *, have_waited: bool = False) -> list[Assignment]:
        """Return a task for each worker, or why it gets none; every lease is in the journal.

        Workers that `have_waited` may be gone: until their first heartbeat for it, a task costs nothing.

        Raises:
            JournalUnwritable: It is not; then no task was assigned.
        """
        choices, new = list[Lease | wire.NoTask](), list[Lease]()
        with ExitStack() as undo:
            for worker in workers:
                with worker.turn if worker.instance else nullcontext():  # a repeated request may overtake
                    choice: Lease | wire.NoTask | None = self._held_lease(worker)
                    if choice is None:
                        choice = self._choose(worker, has_waited=have_waited)
                        if isinstance(choice, Lease):
                            new.append(choice)
                            if worker.instance:
                                self._last_leases[worker.instance] = choice
                                self._forget_old_leases()
                            undo.callback(self._queue.unassign, choice)
                if isinstance(choice, wire.NoTask) and choice.reason in ("done", "no_time"):
                    self._registry.dismiss(worker)
                choices.append(choice)
            if any(isinstance(choice, Lease) for choice in choices):
                self._journal.flush()
            undo.pop_all()
        self._on_assign()
        for worker in workers:
            self._registry.say_what_is_withheld(worker)
        for lease in filter(self._queue.is_live, new):
            log.info("Assigned task %s to %s", lease.task.task_id, lease.worker.name)
        return [
            choice if isinstance(choice, wire.NoTask) else self._reply(choice, worker, has_waited=have_waited)
            for choice, worker in zip(choices, workers, strict=True)
        ]

    def _held_lease(self, worker: Worker) -> Lease | None:
        """Return the lease whose reply this worker did not get: a worker runs one task at a time.

        A hand-written client has no `instance`, and may hold several.
        """
        last = self._last_leases.get(worker.instance)
        if last is None or not self._queue.is_live(last):
            return None
        return last if self._queue.heartbeat(last.lease_id, last.task.key, worker.info) else None

    def _forget_old_leases(self) -> None:
        """Forget the last leases of processes that have left, before they are many."""
        if len(self._last_leases) > self._max_leases:
            for instance, lease in list(self._last_leases.items()):
                if not self._queue.is_live(lease):
                    self._last_leases.pop(instance, None)
            self._max_leases = LEASES_KEPT + 2 * len(self._last_leases)

    def _choose(self, worker: Worker, *, has_waited: bool) -> Lease | wire.NoTask:
        """Return a lease that is not in the journal yet, of a task whose row has been looked for."""
        if not self._holds_folder():
            return wire.NoTask(reason="restarting", retry_after_s=WAIT_S)
        if worker.drained:
            return wire.NoTask(reason="done", message="drained: this worker gets no more tasks")
        if self._queue.is_over():  # also while the manager stops: perhaps nobody will start it again
            return wire.NoTask(reason="done", message="every task of the sweep has ended")
        if self.is_stopping:
            return wire.NoTask(reason="restarting", retry_after_s=WAIT_S)
        if self._admin.is_ending:
            return wire.NoTask(reason="done", message="no task that is left can run")
        if excluded := "paused" if self._admin.is_paused else self._registry.exclusion(worker):
            return self._wait(excluded)
        info = replace(worker.info, is_alone=self._registry.connected() == 1)
        if too_long := self._forecaster.too_long(worker.left_s):
            info = replace(info, too_long=too_long)
        if has_waited and info.shared_gpu and self.packing.must_look_again(info):
            return wire.NoTask(reason="wait", retry_after_s=0.0, message=LOOK_AGAIN)
        unreadable = set[str]()
        while (lease := self._next_lease(info, worker.memory, has_waited=has_waited)) is not None:
            try:
                if lease.attempt > 1:
                    self._store.scan(lease.task)  # its last worker may have written the row and died
            except ResultsUnwritable:
                self._queue.unassign(lease)
                unreadable.add(lease.task.output_dir)
                self._queue.block(unreadable | self._store.problems().keys())  # until the next rescan
                continue
            if self._queue.is_live(lease):
                return lease
        return self._none_fits(info, worker.left_s or 0.0)

    def _none_fits(self, info: WorkerInfo, left_s: float) -> wire.NoTask:
        """Return why no pending task is for this worker now."""
        if self._queue.queries.is_short_of_time(info):
            message = f"no task that is left takes less than {left_s:.0f} s"
            return wire.NoTask(reason="no_time", message=message)
        if not self._queue.can_run():
            return self._wait(self.held_text(), cannot_run=True)
        if (unable := self._queue.holds.unable(info)) and unable >= self._queue.queries.phases_left():
            return self._wait(UNABLE, cannot_run=True)
        return self._wait(NO_ROOM if info.shared_gpu else "the tasks that are left run on other workers")

    def _next_lease(self, info: WorkerInfo, memory: SharedGpu | None, *, has_waited: bool) -> Lease | None:
        with self.assigning:
            if not info.shared_gpu:
                return self._queue.assign(info, is_unstarted=has_waited and info.heartbeat_s is not None)
            # what it has told of its GPU's memory is old by now
            return None if has_waited else self.packing.assign(info, memory)

    def _wait(self, message: str, *, cannot_run: bool = False) -> wire.NoTask:
        wait_s = min(WAIT_MAX_S, max(WAIT_S, 0.01 * self._registry.connected()))
        return wire.NoTask(reason="wait", retry_after_s=wait_s, message=message, cannot_run=cannot_run)

    def _reply(self, lease: Lease, worker: Worker, *, has_waited: bool) -> Assignment:
        task = lease.task
        seen = self._store.bookmark(task)
        if not self._queue.is_live(lease):  # a row of it came to light before `seen`: assign another task
            return self.assign([worker], have_waited=has_waited)[0]
        planned = self._queue.entry(task.key).planned
        return wire.TaskReply(
            **{name: getattr(task, name) for name in task.__struct_fields__},
            lease_id=lease.lease_id,
            attempt=lease.attempt,
            writes_row=worker.info.shares_folder
            and worker.info.earlier is None  # it does not know every form of a results file
            and not self._store.is_superseded(task.key),
            sweep_id=self._journal.sweep_id,
            seen=seen,
            code_version=self._queue.holds.code_version(task.phase),
            copy=self._frozen.copy_for(fetches=worker.fetches),
            rule=self._store.rule(planned),
            halving=halving_of(planned),
        )

    # -- while a task runs, and at its end -----------------------------------------------------------------

    def _heartbeat(self, request: wire.Heartbeat, worker: Worker) -> wire.HeartbeatReply:
        if not request.lease_id:
            return wire.HeartbeatReply(stop=False)
        goes_on = self._queue.heartbeat(request.lease_id, request.key, worker.info)
        if goes_on:
            self._journal.flush()  # it may have been assigned again
        return wire.HeartbeatReply(stop=not goes_on)

    def _rung(self, request: wire.Rung, worker: Worker) -> wire.RungReply:
        if not self._queue.heartbeat(request.lease_id, request.key, worker.info):
            raise ProtocolError(f"rung: the lease {request.lease_id} has ended; a heartbeat says the same")
        self._journal.flush()  # it may have been assigned again
        planned = self._queue.entry(request.key).planned
        verdict = self.rungs.decide(planned, request.step, request.value, is_last=request.last)
        return wire.RungReply(verdict=verdict)

    def _task_complete(self, request: wire.TaskComplete, worker: Worker) -> wire.Ack:
        try:
            return self._complete(request, worker)
        except ProtocolError as error:
            if worker.instance:  # a hand-written client may still write its row, and report again
                self.completion.charge_refusal(request, worker, str(error))
                self._journal.flush()
            raise

    def _complete(self, request: wire.TaskComplete, worker: Worker) -> wire.Ack:
        completion = self.completion.validate(request, worker)
        folder = completion.task.output_dir
        batch = self._batches.get(folder) or self._batches.setdefault(
            folder, GroupCommit(self._complete_batch, company_s=COMPANY_S)
        )
        try:
            batch.wait(batch.add(completion))
        finally:
            self.completion.forget(completion)
        if completion.error is not None:
            raise completion.error
        self.rungs.note_end(self._queue.entry(completion.task.key).planned)
        return wire.Ack(next=completion.next)

    def _complete_batch(self, completions: Sequence[Completion]) -> None:
        """Put the rows of one results file on disk, and assign those workers their next tasks."""
        self.completion.complete(completions)
        waiting = [each for each in completions if each.wants_next and each.error is None]
        try:
            assignments = self.assign([each.worker for each in waiting])
        except DistexpError as error:
            for each in waiting:
                each.error = error
            return
        for each, assignment in zip(waiting, assignments, strict=True):
            each.next = assignment
