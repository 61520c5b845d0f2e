"""The workers a manager knows: who they are, whether they may have more tasks.

Opens `entry`, `host`, `protocol`. It judges workers; what a task has cost stands in `task_queue`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from distexp.entry import Borrower
from distexp.host import ProcessMark
from distexp.protocol import Heartbeat, Progress, WorkerRequest
from distexp.task import Task

BENCH_AFTER = 3  # failures in a row where others succeed: one bad machine must not eat the sweep
LIVE_S = 60.0  # a worker not heard of for longer counts as gone


@dataclass
class Worker:
    """One worker. The roster keeps its own and hands out copies."""

    name: str  # as it stands in log lines, rows and replies
    instance: str
    host: str
    device: str
    memory_mib: int
    shares_folder: bool  # on the manager's host and folder
    process: ProcessMark | None  # only where the manager can see it
    heartbeat_s: float | None = None
    connection: int | None = None
    seen_s: float = 0.0  # on the manager's clock
    drained: bool = False
    completed: int = 0
    failed: int = 0
    streak: int = 0  # failures in a row, in phases where others succeed
    benched: str = ""  # why it gets no more
    progress: Progress | None = None  # of its current task

    @property
    def borrower(self) -> Borrower:
        """Who this worker is to the queue."""
        return Borrower(self.name, self.heartbeat_s, self.memory_mib, self.connection)


class Roster:
    """All workers by name.  Safe from any thread."""

    def __init__(self, *, host: str, machine: str, nonce: str, clock: Callable[[], float]) -> None:
        """Know the manager's own host name, machine id and folder nonce, to tell who shares them."""
        self._host, self._machine, self._nonce = host, machine, nonce
        self._clock = clock
        self._lock = threading.RLock()
        self._workers: dict[str, Worker] = {}
        self._winners: dict[str, set[str]] = {}  # phase -> workers that completed a task of it
        self._proven: set[str] = set()  # experiments that worked somewhere

    def name_of(self, worker_id: str, host: str) -> str:
        """Return the name to show: `gpu0` on the manager's host, `host/gpu0` elsewhere."""
        return worker_id if not host or host == self._host else f"{host}/{worker_id}"

    def introduce(self, request: WorkerRequest, connection: int) -> Worker:
        """Note a sign of life, and return what is known of the worker. A new process is a new worker."""
        name = self.name_of(request.worker_id, request.host)
        with self._lock:
            worker = self._workers.get(name)
            if worker is None or worker.instance != request.instance:
                worker = self._workers[name] = self._welcome(name, request)
            worker.heartbeat_s = request.heartbeat_s or worker.heartbeat_s
            worker.connection, worker.seen_s = connection, self._clock()
            if isinstance(request, Heartbeat):
                worker.progress = request.progress
            return replace(worker)

    def _welcome(self, name: str, request: WorkerRequest) -> Worker:
        same_machine = bool(request.machine) and request.machine == self._machine
        return Worker(
            name=name,
            instance=request.instance,
            host=request.host,
            device=request.device,
            memory_mib=request.memory_mib,
            shares_folder=same_machine and bool(self._nonce) and request.nonce == self._nonce,
            process=ProcessMark.of(request.pid) if same_machine and request.pid else None,
        )

    def disconnect(self, connection: int) -> None:
        """Note that a connection is gone."""
        with self._lock:
            for worker in self._workers.values():
                if worker.connection == connection:
                    worker.connection = None

    def has_died(self, name: str) -> bool:
        """Return whether the worker's connection broke and its process, visible from here, is gone."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is None or worker.connection is not None or worker.process is None:
                return False
            mark = worker.process
        return mark.is_gone()

    def refusal(self, worker: Worker) -> str:
        """Return why this worker gets no task although tasks are pending; empty when it may have one."""
        with self._lock:
            alone = not any(w.name != worker.name for w in self._live() if not w.benched)
            return "" if alone else worker.benched

    def completed(self, name: str, task: Task) -> None:
        """Note a success of a worker."""
        with self._lock:
            self._winners.setdefault(task.phase, set()).add(name)
            self._proven.add(task.experiment)
            if worker := self._workers.get(name):
                worker.completed += 1
                worker.streak = 0

    def failed(self, name: str, task: Task) -> None:
        """Note a failure; a worker that only fails where others succeed is benched."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is None:
                return
            worker.failed += 1
            if self._winners.get(task.phase, set()) - {name}:
                worker.streak += 1
                if worker.streak >= BENCH_AFTER:
                    self.bench(name, f"{worker.streak} failures in a row where other workers succeed")

    def bench(self, name: str, why: str) -> None:
        """Give this worker nothing more until it is restarted."""
        with self._lock:
            if worker := self._workers.get(name):
                worker.benched = why

    def is_proven(self, experiment: str) -> bool:
        """Return whether this experiment has worked on some worker since the manager started."""
        with self._lock:
            return experiment in self._proven

    def has_larger_device(self, memory_mib: int) -> bool:
        """Return whether a live worker's device has more memory than this."""
        with self._lock:
            return any(worker.memory_mib > memory_mib for worker in self._live())

    def drain(self, name: str) -> bool:
        """Let a worker leave after its current task; False when it is not known."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is not None:
                worker.drained = True
            return worker is not None

    def connected(self) -> int:
        """Return how many workers hold a connection now."""
        with self._lock:
            return sum(worker.connection is not None for worker in self._workers.values())

    def all(self) -> list[tuple[Worker, float]]:
        """Return every worker with its age: seconds since it was last heard."""
        with self._lock:
            now_s = self._clock()
            return [(replace(worker), now_s - worker.seen_s) for worker in self._workers.values()]

    def _live(self) -> list[Worker]:
        since_s = self._clock() - LIVE_S
        return [worker for worker in self._workers.values() if worker.seen_s >= since_s]
