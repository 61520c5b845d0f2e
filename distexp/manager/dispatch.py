"""Each request of the wire, answered: who may ask, and who gets which task. Opens the rooms it joins.

The order is the promise: a lease is in the journal before its reply leaves, and a task that may have finished
is looked for in its file before it is lent again. How attempts end is told in `endings`.

Order of locks: a results folder's desk, a worker's turn, `lending`, a results file's, the queue's, the
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
from distexp.manager.completion import Endings, Handover
from distexp.manager.forecast import Pace
from distexp.manager.workers import Roster, Worker
from distexp.queue.entry import Borrower, Lease
from distexp.queue.journal import Journal
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import Ledger
from distexp.system.group_commit import GroupCommit
from distexp.task import Bookmark, Value
from distexp.wire import messages as wire
from distexp.wire.server import Connection
from distexp.workdir import Workdir

WAIT_S = 0.5  # an idle worker asks again after this, when it is one of few: a lost task is lent within 1 s
WAIT_MAX_S = 10.0  # ... and after this when it is one of a thousand: together they ask 100 times a second

log = logging.getLogger("distexp.manager")


class Service:
    """The manager's side of the wire.  Safe from any thread."""

    def __init__(
        self,
        *,
        queue: TaskQueue,
        journal: Journal,
        ledger: Ledger,
        roster: Roster,
        workdir: Workdir,
        secret: str | None,
    ) -> None:
        """Answer from these rooms; `secret` None means that no request needs a token."""
        self._queue, self._journal, self._ledger, self._roster = queue, journal, ledger, roster
        self._secret = secret
        self._pace = Pace(queue, roster)
        self._control = Control(queue, ledger, roster, workdir, self._pace)
        self.endings = Endings(queue=queue, journal=journal, ledger=ledger, roster=roster, pace=self._pace)
        self.is_stopping = False
        self.lending = threading.Lock()  # held while tasks join whose rows have not been looked for yet
        self._lent: dict[str, Lease] = {}  # instance of a worker -> the last lease it was given
        self._desks: dict[str, GroupCommit[Handover]] = {}  # by results folder
        self._answers: Mapping[type, Callable[[Any, Worker], wire.AnyReply]] = {
            wire.RequestTask: lambda request, worker: self._serve(worker),
            wire.Heartbeat: self._heartbeat,
            wire.TaskComplete: self._task_complete,
            wire.TaskFailed: self.endings.failed,
            wire.TaskReleased: self.endings.released,
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
            worker = self._roster.introduce(request, connection.number)
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
        self._lent.update(
            {lease.borrower.instance: lease for lease in self._queue.leases() if lease.borrower.instance}
        )

    def status(self) -> dict[str, Value]:
        """Return what a `status` request is told."""
        return self._control.status()

    def view(self) -> wire.ViewReply:
        """Return what a `view` request is told."""
        return self._control.view()

    def sweep_changed(self) -> None:
        """Estimate by the tasks that there are now."""
        self._pace.forget_sample()

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a task is out on this connection."""
        return any(lease.borrower.connection == connection.number for lease in self._queue.leases())

    def closed(self, connection: Connection) -> None:
        """Give the worker a moment to come back; none when its process is seen to be gone."""
        self._roster.disconnect(connection.number)
        for lease in self._queue.disconnect(connection.number):
            if self._roster.has_died(lease.borrower):
                self.endings.lose(lease, "its process is gone")

    def _authorise(self, request: wire.Request) -> None:
        if self._secret is not None and not self.knows(request):
            found = "a wrong token" if request.token else "no token"
            raise Unauthorized(f"{request.__struct_config__.tag}: found {found}, {wire.SECRET_WANTED}")

    # -- lending -------------------------------------------------------------------------------------------

    def _serve(self, worker: Worker) -> wire.TaskReply | wire.NoTask:
        (offer,) = self._offers([worker])
        return self._hand_out(offer, worker)

    def _offers(self, workers: Sequence[Worker]) -> list[Lease | wire.NoTask]:
        """Return what each gets; all leases are in the journal."""
        offers, new = list[Lease | wire.NoTask](), list[Lease]()
        with ExitStack() as undo:  # what was lent when a later step fails
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
            log.info("Assigned task %s to %s", lease.task.task_id, lease.borrower.worker)
        return offers

    def _offer(self, worker: Worker) -> tuple[Lease | wire.NoTask, bool]:
        """Return what the worker gets, and whether it is new: a new lease is not in the journal yet."""
        with worker.turn if worker.instance else nullcontext():  # a repeated request may overtake the first
            if (held := self._held_already(worker)) is not None:
                return held, False
            offer = self._next(worker)
            if isinstance(offer, Lease) and worker.instance:
                self._lent[worker.instance] = offer
            return offer, True

    def _hand_out(self, offer: Lease | wire.NoTask, worker: Worker) -> wire.TaskReply | wire.NoTask:
        if isinstance(offer, wire.NoTask):
            return offer
        seen = self._ledger.bookmark(offer.task)
        if self._queue.is_live(offer):  # so no row of the task came to light up to `seen`
            return self._reply(offer, worker, seen)
        return self._serve(worker)

    def _held_already(self, worker: Worker) -> Lease | None:
        """Return the lease whose reply this worker did not get: a worker runs one task at a time.

        A hand-written client has no `instance`, and may hold several.
        """
        lent = self._lent.get(worker.instance)
        if lent is None or not self._queue.is_live(lent):
            return None
        return lent if self._queue.beat(lent.lease_id, lent.task.key, worker.borrower) else None

    def _next(self, worker: Worker) -> Lease | wire.NoTask:
        if self.is_stopping:
            return wire.NoTask(reason="restarting", retry_after_s=WAIT_S)
        if worker.drained:
            return wire.NoTask(reason="done", message="drained: this worker gets no more tasks")
        if self._queue.is_over():
            return wire.NoTask(reason="done", message="every task of the sweep has ended")
        refusal = "paused" if self._control.is_paused else self._roster.refusal(worker)
        borrower = worker.borrower
        if too_long := self._pace.too_long(worker.left_s):
            borrower = replace(borrower, too_long=too_long)
        lease = None if refusal else self._lend(borrower)
        if lease is None and not refusal and self._queue.is_short_of_time(borrower):
            return wire.NoTask(
                reason="no_time", message=f"no task that is left takes less than {worker.left_s or 0:.0f} s"
            )
        if lease is None:
            wait_s = min(WAIT_MAX_S, max(WAIT_S, 0.01 * self._roster.connected()))
            return wire.NoTask(
                reason="wait",
                retry_after_s=wait_s,
                message=refusal or "the tasks that are left run elsewhere",
            )
        return lease

    def _lend(self, borrower: Borrower) -> Lease | None:
        """Return a lease of a task whose row has been looked for."""
        while True:
            with self.lending:
                lease = self._queue.lend(borrower)
            if lease is None or lease.attempt == 1:
                return lease
            self._ledger.scan(lease.task)  # its last worker may have written the row and died
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

    def _heartbeat(self, request: wire.Heartbeat, worker: Worker) -> wire.BeatReply:
        if not request.lease_id:
            return wire.BeatReply(stop=False)
        goes_on = self._queue.beat(request.lease_id, request.key, worker.borrower)
        if goes_on:
            self._journal.flush()  # it may have been lent again
        return wire.BeatReply(stop=not goes_on)

    def _task_complete(self, request: wire.TaskComplete, worker: Worker) -> wire.Ack:
        handover = self.endings.examine(request, worker)
        folder = handover.task.output_dir
        if folder not in self._desks:
            self._desks.setdefault(folder, GroupCommit(self._settle))
        desk = self._desks[folder]
        try:
            desk.wait(desk.add(handover))
        finally:
            self.endings.forget(handover)
        if handover.error is not None:
            raise handover.error
        offer = handover.offer
        return wire.Ack(next=None if offer is None else self._hand_out(offer, worker))

    def _settle(self, handovers: Sequence[Handover]) -> None:
        """Put the rows of one results file on disk, and find those workers their next tasks."""
        self.endings.complete(handovers)
        waiting = [each for each in handovers if each.wants_next and each.error is None]
        try:
            offers = self._offers([each.worker for each in waiting])
        except DistexpError as error:
            for each in waiting:
                each.error = error
            return
        for each, offer in zip(waiting, offers, strict=True):
            each.offer = offer
