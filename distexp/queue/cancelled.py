"""Attempts that were cancelled while they ran: until their workers have heard of it, they run on."""

import threading
from collections.abc import Callable

from distexp.queue.entry import Lease, WorkerInfo


class CancelledAttempts:
    """The keys of tasks that may still run somewhere, though nobody wants them to.  Safe from any thread."""

    def __init__(self, lock: threading.RLock, clock: Callable[[], float]) -> None:
        """Share the queue's lock and clock."""
        self._lock, self._clock = lock, clock
        self._leases: dict[str, Lease] = {}  # by key

    def add(self, lease: Lease) -> None:
        """Note that a task was cancelled whose lease was live.

        A worker without heartbeats would not hear of it for up to 2 hours, and is not waited for.
        """
        if lease.worker.heartbeat_s is None:
            return
        with self._lock:
            now_s = self._clock()
            self._leases = {key: each for key, each in self._leases.items() if each.until_s > now_s}
            self._leases[lease.task.key] = lease

    def __contains__(self, key: object) -> bool:
        """Whether a worker may still run the task: it has not been heard, and its term is not over."""
        return self.left_s(str(key)) > 0

    def left_s(self, key: str) -> float:
        """Return for how long the task may wait for its worker to be heard; 0: for nobody."""
        with self._lock:
            lease = self._leases.get(key)
            return 0.0 if lease is None else max(0.0, lease.until_s - self._clock())

    def update(self, update: Callable[[Lease], Lease]) -> None:
        """Change the terms as those of live leases: a connection broke, or the manager was asleep."""
        with self._lock:
            self._leases = {key: update(lease) for key, lease in self._leases.items()}

    def heard(self, worker: WorkerInfo, lease_id: str = "") -> None:
        """Note that a worker runs the task of that lease no more; without one, that it runs none at all."""
        with self._lock:
            for key, lease in list(self._leases.items()):
                about = lease.worker.name, lease.worker.instance
                if lease.lease_id == lease_id or (not lease_id and about == (worker.name, worker.instance)):
                    del self._leases[key]
