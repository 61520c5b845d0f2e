"""Delivers heartbeats and results: a row to its file, a result to the manager or, meanwhile, to the spool.

A result is on disk, in its file or in the spool, before anything is reported.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from distexp.errors import ManagerUnreachable, ProtocolError, ResultsUnwritable
from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.results.row import row_for
from distexp.results.spool import Spool
from distexp.task import Provenance, Scalar
from distexp.wire.messages import (
    Ack,
    Heartbeat,
    HeartbeatReply,
    Progress,
    Rung,
    RungReply,
    TaskComplete,
    TaskReply,
)
from distexp.workdir import Workdir
from distexp.worker.beside import DiskSteps
from distexp.worker.connection import ManagerConnection
from distexp.worker.gpu_monitor import GpuMonitor
from distexp.worker.memory_monitor import MemoryMonitor
from distexp.worker.reports import Reported
from distexp.worker.rungs import Reached
from distexp.worker.signals import StopRequests

DISK_RETRY_S = 5.0  # between two tries to write a row

log = logging.getLogger("distexp.worker")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an attempt, with its task; also what a file of the spool holds, as JSON."""

    task: TaskReply
    result: dict[str, Scalar]
    run: Provenance

    @property
    def name(self) -> str:
        """Its name in the spool."""
        return f"{self.task.key}-{self.task.lease_id}"


class ResultDelivery:
    """Delivers what one worker has to report.  For one thread."""

    def __init__(
        self,
        *,
        connection: ManagerConnection,
        workdir: Workdir,
        stop: StopRequests,
        identity: Callable[[], Mapping[str, Any]],
        gpus: GpuMonitor | None = None,
        memory: MemoryMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write rows below the folder of `workdir`; spool there what cannot be written or sent.

        Args:
            identity: Fields of `WorkerRequest` that name this worker; in every message.
            gpus: How busy they are, in each heartbeat; what is free on them, in each request for a task.
            memory: Of the GPU that it shares; None: it shares none.
        """
        self._connection, self._stop, self._root = connection, stop, workdir.root
        self._spool = Spool(workdir.spool)
        self._identity, self._gpus, self._memory = identity, gpus, memory
        self.disk = DiskSteps(connection=connection, stop=stop, clock=clock, heartbeat=self.heartbeat)

    def report_fields(self, task: TaskReply) -> dict[str, Any]:
        """Return the fields of a report that say who reports on what."""
        return {
            **self._identity(),
            "lease_id": task.lease_id,
            "key": task.key,
            "task_id": task.task_id,
            "peak": self._memory and self._memory.peak(),
        }

    def room_fields(self) -> dict[str, Any]:
        """Return the fields of a request for a task that say what is free on its GPUs."""
        return {
            "free_mib": self._gpus and self._gpus.free_mib(),
            "memory": self._memory and self._memory.now(),
        }

    def heartbeat(self, task: TaskReply, last: Reported | None = None) -> bool:
        """Tell the manager that the task still runs, and its last report; return False when it must stop."""
        heartbeat = Heartbeat(
            **self._identity(),
            lease_id=task.lease_id,
            key=task.key,
            progress=Progress(step=last.step, total=last.total, metrics=last.metrics) if last else None,
            gpu=self._gpus.usage() if self._gpus else None,
            peak=self._memory.peak() if self._memory else None,
        )
        try:
            reply: HeartbeatReply = self._connection.request(heartbeat, HeartbeatReply)
        except ManagerUnreachable:
            self._connection.retry_heartbeat_soon()
            return True
        except ProtocolError as error:
            log.warning("Heartbeat refused: %s", error)  # its result may still be welcome
            return True
        return not reply.stop

    def rung(self, task: TaskReply, reached: Reached, is_last: bool) -> bool:
        """Tell the manager of a rung; return whether the task is to stop. It goes on where nobody answers."""
        due_s = self._connection.next_heartbeat_s
        rung = Rung(
            **self._identity(),
            lease_id=task.lease_id,
            key=task.key,
            step=reached.step,
            value=reached.value,
            last=is_last,
        )
        try:
            reply: RungReply = self._connection.request(rung, RungReply)
        except (ManagerUnreachable, ProtocolError) as error:
            log.warning("No verdict on task %s at step %g: %s", task.task_id, reached.step, error)
            if isinstance(error, ProtocolError):
                due_s = 0.0  # it will hear whether its lease has ended
            return False
        finally:
            self._connection.next_heartbeat_s = due_s
        return reply.verdict == "stop"

    def deliver(self, delivery: Delivery) -> Ack | None:
        """Bring the result to its file, whatever it takes, then report; None when nobody acknowledged it.

        A disk that hangs is waited for until this worker is to leave; then the manager gets the result.
        """
        task = delivery.task
        if task.writes_row:
            try:
                self.disk.wait(lambda: self.write_row(delivery), task)
            except ResultsUnwritable as error:
                log.warning("%s; the manager gets the result and keeps it until then", error)
            else:
                fields = self._next_fields(wants_next=not self._stop.wants_leave)
                return self._connection.report(
                    TaskComplete(**self.report_fields(task), **fields, stopped_at=delivery.run.stopped_at),
                    kept=f"its row is in {task.output_dir}, and counts when the manager is back",
                )
        is_kept = self._try_spool(delivery)
        return self._send(delivery, wants_next=not self._stop.wants_leave, is_kept=is_kept)

    def deliver_spooled(self) -> None:
        """Send what an earlier worker could not."""
        none: list[Delivery] = []
        for delivery in self.disk.try_(self.spooled, None, none):
            if self._stop.wants_leave:
                return
            log.info("Delivering a spooled result of task %s", delivery.task.task_id)
            ack = self._send(delivery, wants_next=False, is_kept=True)
            if ack is None and self._connection.refusal:
                self.keep_refused(delivery, self._connection.refusal)

    def keep_refused(self, delivery: Delivery, refusal: str) -> None:
        """Write the row of a task that the manager does not know (any more).

        Only where this worker may write it; elsewhere a line says where the result stays.
        """
        task = delivery.task
        try:
            if task.writes_row:
                self.disk.wait(lambda: self.write_row(delivery), task)
                self._unspool(delivery)
                log.warning("Task %s: its row is in %s, though %s", task.task_id, task.output_dir, refusal)
                return
        except ResultsUnwritable as error:
            refusal = str(error)
        log.error(
            "Task %s: its result stays in %s (%s). Put its phase back into the configs and start a worker "
            "here, or delete that file",
            *(task.task_id, self._spool.path(delivery.name), refusal),
        )

    def _send(self, delivery: Delivery, *, wants_next: bool, is_kept: bool) -> Ack | None:
        kept = f"its result is in {self._spool.path(delivery.name)}, and the next worker here delivers it"
        report = TaskComplete(
            **self.report_fields(delivery.task),
            result=delivery.result,
            run=delivery.run,
            sweep_id=delivery.task.sweep_id,
            stopped_at=delivery.run.stopped_at,
            **self._next_fields(wants_next=wants_next),
        )
        ack = self._connection.report(report, kept=kept if is_kept else "")
        if ack is not None:
            self._unspool(delivery)
        return ack

    def _unspool(self, delivery: Delivery) -> None:
        self.disk.try_(lambda: self.unspool(delivery), None, None)

    def _next_fields(self, *, wants_next: bool) -> dict[str, Any]:
        return {"next": True, **self.room_fields()} if wants_next else {}

    def _try_spool(self, delivery: Delivery) -> bool:
        """Return whether the result is in the spool now; a line says when that cannot be written either."""
        try:
            self.disk.wait(lambda: self.spool(delivery), delivery.task)
        except ResultsUnwritable as error:
            log.error("%s; the result of %s is in memory alone", error, delivery.task.task_id)
            return False
        return True

    # -- the file of results, and the spool

    def write_row(self, delivery: Delivery) -> None:
        """Append the row, unless the task has one already; return when it is on disk.

        Raises:
            ResultsUnwritable: It cannot be written now; try again.
        """
        task = delivery.task
        index = TaskIndex()
        index.add(task, task.rule)
        file = ResultsFile(self._root, task.output_dir, index, task.seen, warns=False)  # it knows one task
        file.append([(task, row_for(task, delivery.result, delivery.run, task.rule))])

    def spool(self, delivery: Delivery) -> None:
        """Put the result into the spool, on disk.

        Raises:
            ResultsUnwritable: The spool cannot be written.
        """
        self._spool.put(delivery.name, msgspec.json.encode(delivery))

    def spooled(self) -> list[Delivery]:
        """Return what lies in the spool, the oldest first."""
        found = []
        for name, payload in self._spool.items():
            try:
                found.append(msgspec.json.decode(payload, type=Delivery))
            except msgspec.MsgspecError as error:
                log.warning("spooled result %s: not of this version (%s); left alone", name, error)
        return found

    def unspool(self, delivery: Delivery) -> None:
        """Take a result that has reached its file out of the spool."""
        self._spool.remove(delivery.name)
