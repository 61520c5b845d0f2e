"""Each request of the wire, answered: who may ask, and who gets which task.

The order is the promise: a lease is in the journal before its reply leaves, and a task that may have finished
is looked for in its file before it is assigned again. How attempts end is told in `endings`.

Order of locks: a results folder's desk, a worker's turn, `assigning`, a results file's, the queue's, the
journal's.
"""

import hmac
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

from distexp.errors import DistexpError, Unauthorized
from distexp.manager.admin import Control
from distexp.manager.completion import Completion, CompletionHandler
from distexp.manager.forecast import Forecaster
from distexp.manager.workers import Worker, WorkerRegistry
from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.system.group_commit import GroupCommit
from distexp.task import Bookmark, Value
from distexp.wire import messages as wire
from distexp.wire.server import Connection
from distexp.workdir import Workdir

WAIT_S = (
    0.5  # an idle worker asks again after this, when it is one of few: a lost task is assigned within 1 s
)
WAIT_MAX_S = 10.0  # ... and after this when it is one of a thousand: together they ask 100 times a second

log = logging.getLogger("distexp.manager")


class Service:
    """The manager's side of the wire.  Safe from any thread."""

    def __init__(
        self,
        *,
        queue: TaskQueue,
        journal: Journal,
        store: ResultsStore,
        registry: WorkerRegistry,
        workdir: Workdir,
        secret: str | None,
    ) -> None:
        """Answer from these rooms; `secret` None means that no request needs a token."""
        self._queue, self._journal, self._store, self._registry = queue, journal, store, registry
        self._secret = secret
        self._forecaster = Forecaster(queue, registry)
        self._control = Control(queue, store, registry, workdir, self._forecaster)
        self.completion = CompletionHandler(
            queue=queue, journal=journal, store=store, registry=registry, forecaster=self._forecaster
        )
        self.is_stopping = False
        self.assigning = threading.Lock()  # held while tasks join whose rows have not been looked for yet
        self._assigned: dict[str, Lease] = {}  # instance of a worker -> the last lease it was given
        self._batches: dict[str, GroupCommit[Completion]] = {}  # by results folder
        self._answers: Mapping[type, Callable[[Any, Worker], wire.AnyReply]] = {
            wire.RequestTask: lambda request, worker: self._serve(worker),
            wire.Heartbeat: self._heartbeat,
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
        if isinstance(request, wire.Status) and connection.is_local:
            return self._control.handle(request)
        self._authorise(request)
        if isinstance(request, wire.WorkerRequest):
            worker = self._registry.register(request, connection.number)
            return self._answers[type(request)](request, worker)
        reply = self._control.handle(request)
        self._journal.flush()
        return reply

    def knows(self, request: wire.Request) -> bool:
        """Return whether the request shows the secret."""
        if self._secret is None:
            return False
        return hmac.compare_digest((request.token or "").encode(), self._secret.encode())

    def take_over(self) -> None:
        """Remember who had which lease of an earlier manager, whose last reply may have been lost."""
        self._assigned.update(
            {lease.worker.instance: lease for lease in self._queue.leases() if lease.worker.instance}
        )

    def status(self) -> dict[str, Value]:
        """Return what a `status` request is told."""
        return self._control.status()

    def view(self) -> wire.ViewReply:
        """Return what a `view` request is told."""
        return self._control.view()

    def sweep_changed(self) -> None:
        """Estimate by the tasks that there are now."""
        self._forecaster.forget_sample()

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a task is out on this connection."""
        return any(lease.worker.connection == connection.number for lease in self._queue.leases())

    def closed(self, connection: Connection) -> None:
        """Give the worker a moment to come back; none when its process is seen to be gone."""
        self._registry.disconnect(connection.number)
        for lease in self._queue.disconnect(connection.number):
            if self._registry.has_died(lease.worker):
                self.completion.lose(lease, "its process is gone")

    def _authorise(self, request: wire.Request) -> None:
        if self._secret is not None and not self.knows(request):
            found = "a wrong token" if request.token else "no token"
            raise Unauthorized(f"{request.__struct_config__.tag}: found {found}, {wire.SECRET_WANTED}")

    # -- assigning -------------------------------------------------------------------------------------------

    def _serve(self, worker: Worker) -> wire.TaskReply | wire.NoTask:
        (offer,) = self._offers([worker])
        return self._hand_out(offer, worker)

    def _offers(self, workers: Sequence[Worker]) -> list[Lease | wire.NoTask]:
        """Return what each gets; all leases are in the journal."""
        offers, new = list[Lease | wire.NoTask](), list[Lease]()
        with ExitStack() as undo:  # what was assigned when a later step fails
            for worker in workers:
                offer, is_new = self._offer(worker)
                offers.append(offer)
                if is_new and isinstance(offer, Lease):
                    new.append(offer)
                    undo.callback(self._queue.release, offer.lease_id, offer.task.key)
            if any(isinstance(offer, Lease) for offer in offers):
                self._journal.flush()
            undo.pop_all()
        for lease in filter(self._queue.is_live, new):
            log.info("Assigned task %s to %s", lease.task.task_id, lease.worker.name)
        return offers

    def _offer(self, worker: Worker) -> tuple[Lease | wire.NoTask, bool]:
        """Return what the worker gets, and whether it is new: a new lease is not in the journal yet."""
        with worker.turn if worker.instance else nullcontext():  # a repeated request may overtake the first
            if (held := self._held_already(worker)) is not None:
                return held, False
            offer = self._next(worker)
            if isinstance(offer, Lease) and worker.instance:
                self._assigned[worker.instance] = offer
            return offer, True

    def _hand_out(self, offer: Lease | wire.NoTask, worker: Worker) -> wire.TaskReply | wire.NoTask:
        if isinstance(offer, wire.NoTask):
            return offer
        seen = self._store.bookmark(offer.task)
        if self._queue.is_live(offer):  # so no row of the task came to light up to `seen`
            return self._reply(offer, worker, seen)
        return self._serve(worker)

    def _held_already(self, worker: Worker) -> Lease | None:
        """Return the lease whose reply this worker did not get: a worker runs one task at a time.

        A hand-written client has no `instance`, and may hold several.
        """
        assigned = self._assigned.get(worker.instance)
        if assigned is None or not self._queue.is_live(assigned):
            return None
        return assigned if self._queue.heartbeat(assigned.lease_id, assigned.task.key, worker.info) else None

    def _next(self, worker: Worker) -> Lease | wire.NoTask:
        if self.is_stopping:
            return wire.NoTask(reason="restarting", retry_after_s=WAIT_S)
        if worker.drained:
            return wire.NoTask(reason="done", message="drained: this worker gets no more tasks")
        if self._queue.is_over():
            return wire.NoTask(reason="done", message="every task of the sweep has ended")
        refusal = "paused" if self._control.is_paused else self._registry.refusal(worker)
        info = worker.info
        if too_long := self._forecaster.too_long(worker.left_s):
            info = replace(info, too_long=too_long)
        lease = None if refusal else self._assign(info)
        if lease is None and not refusal and self._queue.is_short_of_time(info):
            return wire.NoTask(
                reason="no_time", message=f"no task that is left takes less than {worker.left_s or 0:.0f} s"
            )
        if lease is None:
            wait_s = min(WAIT_MAX_S, max(WAIT_S, 0.01 * self._registry.connected()))
            return wire.NoTask(
                reason="wait",
                retry_after_s=wait_s,
                message=refusal or "the tasks that are left run elsewhere",
            )
        return lease

    def _assign(self, info: WorkerInfo) -> Lease | None:
        """Return a lease of a task whose row has been looked for."""
        while True:
            with self.assigning:
                lease = self._queue.assign(info)
            if lease is None or lease.attempt == 1:
                return lease
            self._store.scan(lease.task)  # its last worker may have written the row and died
            if self._queue.is_live(lease):
                return lease

    def _reply(self, lease: Lease, worker: Worker, seen: Bookmark | None) -> wire.TaskReply:
        task = lease.task
        fields = {name: getattr(task, name) for name in task.__struct_fields__}
        return wire.TaskReply(
            **fields,
            lease_id=lease.lease_id,
            attempt=lease.attempt,
            writes_row=worker.shares_folder,
            sweep_id=self._journal.sweep_id,
            seen=seen,
        )

    # -- while it runs, and at its end ---------------------------------------------------------------------

    def _heartbeat(self, request: wire.Heartbeat, worker: Worker) -> wire.HeartbeatReply:
        if not request.lease_id:
            return wire.HeartbeatReply(stop=False)
        goes_on = self._queue.heartbeat(request.lease_id, request.key, worker.info)
        if goes_on:
            self._journal.flush()  # it may have been assigned again
        return wire.HeartbeatReply(stop=not goes_on)

    def _task_complete(self, request: wire.TaskComplete, worker: Worker) -> wire.Ack:
        completion = self.completion.validate(request, worker)
        folder = completion.task.output_dir
        if folder not in self._batches:
            self._batches.setdefault(folder, GroupCommit(self._settle))
        desk = self._batches[folder]
        try:
            desk.wait(desk.add(completion))
        finally:
            self.completion.forget(completion)
        if completion.error is not None:
            raise completion.error
        offer = completion.offer
        return wire.Ack(next=None if offer is None else self._hand_out(offer, worker))

    def _settle(self, completions: Sequence[Completion]) -> None:
        """Put the rows of one results file on disk, and find those workers their next tasks."""
        self.completion.complete(completions)
        waiting = [each for each in completions if each.wants_next and each.error is None]
        try:
            offers = self._offers([each.worker for each in waiting])
        except DistexpError as error:
            for each in waiting:
                each.error = error
            return
        for each, offer in zip(waiting, offers, strict=True):
            each.offer = offer
