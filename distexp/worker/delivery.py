"""What a worker tells of its task: beats, results, failures; until it has arrived.

A result goes to its file or, where that is not to be had, into the spool, before anything is reported.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from distexp.errors import ManagerUnreachable, ProtocolError, ResultsUnwritable
from distexp.wire.messages import Ack, GpuUse, Heartbeat, HeartbeatReply, Progress, TaskComplete, TaskReply
from distexp.worker.connection import ManagerConnection
from distexp.worker.recorder import Delivery, Recorder
from distexp.worker.signals import StopRequests

DISK_RETRY_S = 5.0  # between two tries to write a row

log = logging.getLogger("distexp.worker")


class ResultDelivery:
    """Brings what one worker has to tell to where it belongs.  For one thread."""

    def __init__(
        self,
        *,
        connection: ManagerConnection,
        recorder: Recorder,
        stop: StopRequests,
        about: Callable[[], Mapping[str, Any]],
        look: Callable[[], GpuUse | None],
        free_mib: Callable[[], int] | None = None,
    ) -> None:
        """Introduce the worker in every message with `about()`, fields of `WorkerRequest`.

        With each beat goes how busy its card is, as `look()` finds it; with each request for a task, how much
        memory is free.
        """
        self._connection, self._recorder, self._stop = connection, recorder, stop
        self._about, self._look, self._free_mib = about, look, free_mib

    def naming(self, task: TaskReply) -> dict[str, Any]:
        """Return the fields of a report that say who reports on what."""
        return {**self._about(), "lease_id": task.lease_id, "key": task.key, "task_id": task.task_id}

    def heartbeat(self, task: TaskReply, progress: Progress | None = None) -> bool:
        """Tell the manager that the task is in hand; False when it must not go on."""
        heartbeat = Heartbeat(
            **self._about(), lease_id=task.lease_id, key=task.key, progress=progress, gpu=self._look()
        )
        try:
            reply: HeartbeatReply = self._connection.call(heartbeat, HeartbeatReply)
        except ManagerUnreachable:
            self._connection.retry_heartbeat_soon()
            return True
        except ProtocolError as error:
            log.warning("Heartbeat refused: %s", error)  # its result may still be welcome
            return True
        return not reply.stop

    def deliver(self, delivery: Delivery) -> Ack | None:
        """Bring the result to its file, whatever it takes, then report; None when nobody acknowledged it."""
        task, wants_next = delivery.task, not self._stop.wants_leave
        if task.writes_row:
            if not self._write_row(delivery):
                return None
            return self._connection.report(
                TaskComplete(**self.naming(task), next=wants_next, free_mib=self._free(wants_next))
            )
        self._keep(delivery)
        return self._hand_over(delivery, wants_next=wants_next)

    def hand_over_kept(self) -> None:
        """Hand over what an earlier worker could not."""
        for delivery in self._recorder.kept():
            log.info("Handing over a kept result of task %s", delivery.task.task_id)
            self._hand_over(delivery, wants_next=False)

    def _hand_over(self, delivery: Delivery, *, wants_next: bool) -> Ack | None:
        report = TaskComplete(
            **self.naming(delivery.task),
            result=delivery.result,
            run=delivery.run,
            sweep_id=delivery.task.sweep_id,
            next=wants_next,
            free_mib=self._free(wants_next),
        )
        ack = self._connection.report(report)
        if ack is not None:
            self._recorder.forget(delivery)
        return ack

    def _free(self, wants_next: bool) -> int | None:
        return self._free_mib() if wants_next and self._free_mib else None

    def _write_row(self, delivery: Delivery) -> bool:
        """Append the row; False when the user would not wait for a disk that refuses it."""
        is_kept = False
        while True:
            try:
                self._recorder.write_row(delivery)
                break
            except ResultsUnwritable as error:
                log.warning("%s; trying again every %g s", error, DISK_RETRY_S)
            is_kept = is_kept or self._keep(delivery)
            if self._stop.wants_checkpoint:
                return False
            self._connection.wait(DISK_RETRY_S)
            self.heartbeat(delivery.task)
        if is_kept:
            self._recorder.forget(delivery)
        return True

    def _keep(self, delivery: Delivery) -> bool:
        """Put the result into the spool; False when that cannot be written either."""
        try:
            self._recorder.keep(delivery)
        except ResultsUnwritable as error:
            log.error("%s; the result of %s is in memory alone", error, delivery.task.task_id)
            return False
        return True
