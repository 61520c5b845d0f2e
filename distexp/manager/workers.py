"""The workers a manager knows: who they are, whether they may have more tasks.

It judges workers; what a task has cost stands in `task_queue`.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from distexp.queue.entry import WorkerInfo
from distexp.system.process import ProcessMark
from distexp.task import Task
from distexp.wire.messages import GpuUse, Heartbeat, Progress, RequestTask, TaskComplete, WorkerRequest

EXCLUDE_AFTER = 3  # tasks failed in a row where others succeed: one bad machine must not eat the sweep
LIVE_S = 60.0  # a worker not heard of for longer counts as gone
COMMIT_DIGITS = 10  # that are shown

log = logging.getLogger("distexp.manager")


@dataclass
class Worker:
    """One worker. The registry of workers keeps its own and hands out copies."""

    name: str  # as it stands in log lines, rows and replies
    instance: str
    host: str
    device: str
    memory_mib: int
    gpus: int  # cards that it holds
    shares_folder: bool  # on the manager's host and folder
    process: ProcessMark | None  # only where the manager can see it
    heartbeat_s: float | None = None
    connection: int | None = None
    seen_s: float = 0.0  # on the manager's clock
    drained: bool = False
    completed: int = 0
    failed: int = 0
    failed_where_others_succeed: set[str] = field(
        default_factory=set
    )  # tasks failed in a row, in phases where others succeed
    excluded: str = ""  # why it gets no more
    is_excluded_for_good: bool = False  # it cannot import an experiment: benched even when it is the last one
    free_mib: int = 0  # on the fullest of its cards, when it last asked for a task
    progress: Progress | None = None  # of its current task
    gpu: GpuUse | None = None  # as of its last beat
    left_s: float | None = None  # until it has to end, when it asked
    git_commit: str = ""  # of its folder
    turn: threading.Lock = field(default_factory=threading.Lock)  # held while it is assigned a task

    @property
    def info(self) -> WorkerInfo:
        """Who this worker is to the queue."""
        return WorkerInfo(
            name=self.name,
            heartbeat_s=self.heartbeat_s,
            memory_mib=self.memory_mib,
            connection=self.connection,
            instance=self.instance,
            gpus=self.gpus,
            free_mib=self.free_mib,
        )


class WorkerRegistry:
    """All workers by name and instance.  Safe from any thread."""

    def __init__(self, *, host: str, machine: str, nonce: str, clock: Callable[[], float]) -> None:
        """Know the manager's own host name, machine id and folder nonce, to tell who shares them."""
        self._host, self._machine, self._nonce = host, machine, nonce
        self._clock = clock
        self._commit = ""  # of the manager's folder, when it was last asked for
        self._told: set[tuple[str, str, str]] = set()  # worker and both commits: a warning each
        self._lock = threading.RLock()
        self._workers: dict[tuple[str, str], Worker] = {}  # by name and instance
        self._winners: dict[str, set[str]] = {}  # phase -> names of workers that completed a task of it
        self._failed_on: dict[str, set[str]] = {}  # key of a task that failed -> names of workers
        self._proven: set[str] = set()  # experiments that worked somewhere

    def name_of(self, worker_id: str, host: str) -> str:
        """Return the name to show: `gpu0` on the manager's host, `host/gpu0` elsewhere."""
        return worker_id if not host or host == self._host else f"{host}/{worker_id}"

    def register(self, request: WorkerRequest, connection: int) -> Worker:
        """Note a sign of life, and return what is known of the worker. A new process is a new worker."""
        name = self.name_of(request.worker_id, request.host)
        with self._lock:
            worker = self._workers.get((name, request.instance))
            if worker is None:
                worker = self._add(name, request)
            worker.heartbeat_s = request.heartbeat_s or worker.heartbeat_s
            worker.connection, worker.seen_s = connection, self._clock()
            worker.left_s = request.left_s
            if isinstance(request, Heartbeat):
                worker.progress, worker.gpu = request.progress, request.gpu
            else:
                worker.progress = None  # that task has ended
            if isinstance(request, RequestTask | TaskComplete) and request.free_mib is not None:
                worker.free_mib = request.free_mib
            worker.git_commit = request.git_commit or worker.git_commit
            return replace(worker)

    def has_other_commit(self, worker: Worker) -> bool:
        """Return whether the worker's code is of another commit than the manager's folder, as far as told."""
        is_told = bool(worker.git_commit and self._commit) and not worker.shares_folder
        return is_told and worker.git_commit != self._commit

    def compare_commits(self, ours: Callable[[], str]) -> None:
        """Say once of each worker elsewhere that its code is another; `ours` is asked for only then."""
        far = [worker for worker, _ in self.all() if worker.git_commit and not worker.shares_folder]
        if not far:
            return
        self._commit = ours()
        for worker in far:
            found = (worker.name, worker.git_commit, self._commit)
            if self.has_other_commit(worker) and found not in self._told:
                self._told.add(found)
                log.warning(
                    "Worker %s: found git commit %s in its folder, expected %s as in the manager's; "
                    "its rows hold the worker's (git_commit)",
                    *(worker.name, worker.git_commit[:COMMIT_DIGITS], self._commit[:COMMIT_DIGITS]),
                )

    def _add(self, name: str, request: WorkerRequest) -> Worker:
        same_machine = bool(request.machine) and request.machine == self._machine
        shares_folder = same_machine and bool(self._nonce) and request.nonce == self._nonce
        for earlier in self._named(name):
            if earlier.connection is None and not self._is_live(earlier):
                del self._workers[name, earlier.instance]
        worker = self._workers[name, request.instance] = Worker(
            name=name,
            instance=request.instance,
            host=request.host,
            device=request.device,
            memory_mib=request.memory_mib,
            gpus=request.gpus,
            shares_folder=shares_folder,
            process=ProcessMark.of(request.pid) if shares_folder and request.pid else None,
        )
        return worker

    def disconnect(self, connection: int) -> None:
        """Note that a connection is gone."""
        with self._lock:
            for worker in self._workers.values():
                if worker.connection == connection:
                    worker.connection = None

    def has_died(self, info: WorkerInfo) -> bool:
        """Return whether the worker's connection broke and its process, visible from here, is gone."""
        with self._lock:
            worker = self._of(info)
            if worker is None or worker.connection is not None or worker.process is None:
                return False
            mark = worker.process
        return mark.is_gone()

    def refusal(self, worker: Worker) -> str:
        """Return why this worker gets no task although tasks are pending; empty when it may have one."""
        with self._lock:
            is_refused = worker.excluded and (worker.is_excluded_for_good or self.has_substitute(worker))
            return worker.excluded if is_refused else ""

    def has_substitute(self, worker: Worker) -> bool:
        """Return whether another live worker may have tasks."""
        with self._lock:
            me = (worker.name, worker.instance)
            return any((other.name, other.instance) != me for other in self._fit())

    def completed(self, info: WorkerInfo, task: Task) -> None:
        """Note a success of a worker. Who has failed at the same task stands alone with that."""
        with self._lock:
            self._winners.setdefault(task.phase, set()).add(info.name)
            self._proven.add(task.experiment)
            losers = self._failed_on.pop(task.key, set())
            if worker := self._of(info):
                worker.completed += 1
                worker.failed_where_others_succeed.clear()
            self._judge(losers | {info.name})

    def failed(self, info: WorkerInfo, task: Task) -> None:
        """Note a failure. A worker that only fails where others succeed is benched.

        A task that fails on other workers too speaks against none of them.
        """
        with self._lock:
            losers = self._failed_on.setdefault(task.key, set())
            losers.add(info.name)
            if worker := self._of(info):
                worker.failed += 1
                if self._winners.get(task.phase, set()) - {info.name}:
                    worker.failed_where_others_succeed.add(task.key)
            self._judge(losers)

    def _judge(self, names: set[str]) -> None:
        for worker in (each for name in names for each in self._named(name) if not each.is_excluded_for_good):
            streak = sum(len(self._failed_on.get(key, ())) < 2 for key in worker.failed_where_others_succeed)
            why = f"{streak} failures in a row where other workers succeed"
            worker.excluded = why if streak >= EXCLUDE_AFTER else ""

    def exclude(self, info: WorkerInfo, why: str) -> bool:
        """Give this worker nothing more until it is restarted; False when there is no other for its tasks."""
        with self._lock:
            worker = self._of(info)
            if worker is None or not self.has_substitute(worker):
                return False
            worker.excluded, worker.is_excluded_for_good = why, True
            return True

    def are_all_excluded(self) -> bool:
        """Return whether no live worker may have a task, and some of them only after a restart."""
        with self._lock:
            live = self._live()
            return any(w.is_excluded_for_good for w in live) and all(
                w.is_excluded_for_good or w.drained for w in live
            )

    def is_proven(self, experiment: str) -> bool:
        """Return whether this experiment has worked on some worker since the manager started."""
        with self._lock:
            return experiment in self._proven

    def largest_mib(self, gpus: int = 0) -> int | None:
        """Return the memory of the largest device of a live worker with so many cards that may have tasks.

        It is 0 when none may, None when no such worker is live.
        """
        with self._lock:
            if all(worker.gpus < gpus for worker in self._live()):
                return None
            return max((worker.memory_mib for worker in self._fit() if worker.gpus >= gpus), default=0)

    def drain(self, name: str) -> bool:
        """Let the workers of this name leave after their current task; False when there is none."""
        with self._lock:
            workers = self._named(name)
            for worker in workers:
                worker.drained = True
            return bool(workers)

    def connected(self) -> int:
        """Return how many workers hold a connection now."""
        with self._lock:
            return sum(worker.connection is not None for worker in self._workers.values())

    def share_done(self, info: WorkerInfo) -> tuple[float, float] | None:
        """Return which share of its task a worker had done, and when that was, by its last beat.

        None where it has not told.
        """
        with self._lock:
            worker = self._of(info)
            progress = worker.progress if worker else None
            if worker is None or progress is None or not 0 < progress.step <= progress.total:
                return None
            return progress.step / progress.total, worker.seen_s

    def able(self) -> int:
        """Return how many connected workers may have tasks now."""
        with self._lock:
            return sum(worker.connection is not None for worker in self._fit())

    def all(self) -> list[tuple[Worker, float]]:
        """Return every worker with its age: seconds since it was last heard."""
        with self._lock:
            now_s = self._clock()
            return [(replace(worker), now_s - worker.seen_s) for worker in self._workers.values()]

    def _of(self, info: WorkerInfo) -> Worker | None:
        return self._workers.get((info.name, info.instance))

    def _named(self, name: str) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.name == name]

    def _is_live(self, worker: Worker) -> bool:
        return worker.seen_s >= self._clock() - LIVE_S

    def _live(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if self._is_live(worker)]

    def _fit(self) -> list[Worker]:
        return [worker for worker in self._live() if not worker.excluded and not worker.drained]
