"""The registry of workers: who they are, whether they are alive, which are excluded from getting tasks."""

import copy
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from distexp.errors import ProtocolError
from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.records import DrainRecord
from distexp.queue.versions import earlier_version
from distexp.system import locks
from distexp.system.process import ProcessMark
from distexp.task import SharedGpu, Task
from distexp.wire.messages import GpuUse, Heartbeat, Progress, RequestTask, Rung, TaskComplete, WorkerRequest

EXCLUDE_AFTER = 3  # tasks failed in a row where others succeed: one bad machine must not fail the sweep
KNOWN = 1000  # workers, live ones apart, that are shown although they have left; and those of a connection
STUCK_S = 60.0  # a killed process is gone in milliseconds, unless the kernel holds it in a device call
LIVE_S = 60.0  # a worker not heard of for longer counts as gone
RETURN_S = 10.0  # for a worker whose connection broke to be back: it tries every 5 s
COMMIT_DIGITS = 10  # that are shown
MAX_SHOWN_PHASES = 3  # in one line

log = logging.getLogger("distexp.manager")


@dataclass
class Worker:
    """One worker: who it is, and what has happened to it. The registry alone changes it."""

    info: WorkerInfo
    seen_s: float = 0.0  # on the manager's clock
    drained: bool = False
    completed: int = 0
    failed: int = 0
    failed_alone: set[str] = field(default_factory=set)  # keys of tasks failed in a row, where others succeed
    excluded: str = ""  # why it gets no more tasks
    is_excluded_for_good: bool = False  # also where it is the last one: it cannot import an experiment
    progress: Progress | None = None  # of its current task
    progress_s: float = 0.0  # when it was first told, on the manager's clock
    progress_gap_s: float | None = None  # since the progress before it; None: it is the first of this task
    gpu: GpuUse | None = None  # as of its last heartbeat
    memory: SharedGpu | None = None  # of the GPU that it shares, when it last asked for a task
    left_s: float | None = None  # until it has to end, when it asked
    git_commit: str = ""  # of its folder
    fetches: bool = False  # it runs the manager's code
    is_dismissed: bool = False  # told that there is no task for it any more
    gone_since_s: float | None = None  # since when it has no connection, on the manager's clock
    waits_since_s: float | None = None  # since when it has asked for a task in vain; monotonic
    turn: threading.Lock = field(default_factory=threading.Lock)  # held while it is assigned a task

    @property
    def name(self) -> str:
        """As it stands in log lines, rows and replies."""
        return self.info.name

    @property
    def instance(self) -> str:
        """Of its process; empty for a client without one."""
        return self.info.instance


class WorkerRegistry:
    """All workers by name and instance.  Safe from any thread."""

    def __init__(
        self,
        *,
        host: str,
        machine: str,
        nonce: str,
        task_lock: Callable[[ProcessMark], Path],
        clock: Callable[[], float],
        freezes_code: bool = False,
        on_drain: Callable[[DrainRecord], None] = lambda record: None,
    ) -> None:
        """Know the manager's own host name, machine id and folder nonce, to tell who shares them.

        Args:
            task_lock: Which lock a worker's process holds while its task may run, see `Workdir`.
            freezes_code: Tasks run from a copy of the code.
            on_drain: Hears of drained workers what must outlive the manager.
        """
        self._freezes_code, self._on_drain = freezes_code, on_drain
        self._drained_before: set[str] = set()  # by an earlier manager: keys of `DrainRecord`
        self._task_lock = task_lock
        self._ending_since: dict[ProcessMark, float] = {}  # when a dead worker's task was first seen to run
        self._host, self._machine, self._nonce = host, machine, nonce
        self._clock = clock
        self._commit = ""  # of the manager's folder, when it was last asked for
        self._warned: set[tuple[str, str, str]] = set()  # worker and both commits: a warning each
        self._withheld: set[tuple[str, str]] = set()  # worker and phase: a warning each
        self._lock = threading.RLock()
        self._workers: dict[tuple[str, str], Worker] = {}  # by name and instance
        self._connected = 0  # counted as they come and go: each that waits asks for it
        self._listening: dict[int, bool] = {}  # connections that ask how far the sweep is: named a version
        self._succeeded: dict[str, set[str]] = {}  # phase -> names of workers that completed a task of it
        self._failed_on: dict[str, set[str]] = {}  # key of a task that failed -> names of workers
        self._proven: set[str] = set()  # experiments that worked somewhere

    def name_of(self, worker_id: str, host: str) -> str:
        """Return the name to show: `gpu0` on the manager's host, `host/gpu0` on another."""
        return worker_id if not host or host == self._host else f"{host}/{worker_id}"

    # -- signs of life -------------------------------------------------------------------------------------

    def register(self, request: WorkerRequest, connection: int) -> Worker:
        """Note a sign of life, and return what is known of the worker. A new process is a new worker.

        Raises:
            ProtocolError: The connection has named too many workers.
        """
        name = self.name_of(request.worker_id, request.host)
        with self._lock:
            worker = self._workers.get((name, request.instance))
            if worker is None:
                self._check_number(request, connection)
                worker = self._add(name, request)
            info, free_mib = worker.info, None
            if isinstance(request, RequestTask | TaskComplete):
                free_mib, worker.memory = request.free_mib, request.memory
            now = (
                request.heartbeat_s or info.heartbeat_s,
                connection,
                info.free_mib if free_mib is None else free_mib,
            )
            self._connected += info.connection is None
            if now != (info.heartbeat_s, info.connection, info.free_mib):
                worker.info = replace(info, heartbeat_s=now[0], connection=now[1], free_mib=now[2])
            worker.seen_s, worker.left_s = self._clock(), request.left_s
            worker.is_dismissed, worker.gone_since_s = False, None
            if isinstance(request, Heartbeat):
                if request.progress is None or request.progress != worker.progress:
                    now_s = self._clock()
                    worker.progress_gap_s = now_s - worker.progress_s if worker.progress else None
                    worker.progress_s = now_s
                worker.progress, worker.gpu = request.progress, request.gpu
            elif not isinstance(request, Rung):
                worker.progress = None  # that task has ended
            if isinstance(request, RequestTask):
                worker.fetches = request.fetches
            worker.git_commit = request.git_commit or worker.git_commit
            return worker

    def _check_number(self, request: WorkerRequest, connection: int) -> None:
        """Refuse one more worker of a connection that has named very many: each is known while it stands."""
        if sum(each.info.connection == connection for each in self._workers.values()) >= KNOWN:
            raise ProtocolError(
                f"{request.__struct_config__.tag}: this connection has named {KNOWN} workers; a worker keeps "
                "its `worker_id` and `instance` as long as it lives"
            )

    def _add(self, name: str, request: WorkerRequest) -> Worker:
        same_machine = bool(request.machine) and request.machine == self._machine
        shares_folder = same_machine and bool(self._nonce) and request.nonce == self._nonce
        gone = [each for each in self._workers.values() if not self._is_here(each)]
        by_age = sorted(gone, key=lambda each: each.seen_s)
        for earlier in (*by_age[:-KNOWN], *(each for each in gone if each.name == name)):
            self._workers.pop((earlier.name, earlier.instance), None)
            self._forget_drain(earlier)
        info = WorkerInfo(
            name=name,
            instance=request.instance,
            host=request.host,
            device=request.device,
            memory_mib=request.memory_mib,
            gpus=request.gpus,
            shares_folder=shares_folder,
            machine=request.machine,
            process=ProcessMark.of(request.pid) if shares_folder and request.pid else None,
            pid=request.pid,
            shared_gpu=request.shared_gpu,
            earlier=earlier_version(request.version, needs_own_code=self._freezes_code)
            if request.instance
            else None,  # a client that somebody has written
        )
        drain = DrainRecord(worker=name, instance=request.instance)
        worker = Worker(info, drained=drain.key in self._drained_before)
        self._workers[name, request.instance] = worker
        return worker

    def disconnect(self, connection: int) -> None:
        """Note that a connection is gone."""
        with self._lock:
            self._listening.pop(connection, None)
            for worker in self._workers.values():
                if worker.info.connection == connection:
                    worker.info = replace(worker.info, connection=None)
                    worker.gone_since_s = self._clock()
                    self._connected -= 1
                    if worker.is_dismissed:
                        self._forget_drain(worker)
                        worker.drained &= bool(worker.instance)  # else the next one may have this name

    def listen(self, connection: int, version: str | None, *, has_heard_end: bool) -> None:
        """Note a connection that asks for the status with the secret, as a worker without a GPU does.

        Until it `has_heard_end`: that nothing is left to do.
        """
        with self._lock:
            self._listening.pop(connection, None)
            if not has_heard_end:
                self._listening[connection] = bool(version)

    def is_listened_to(self, *, by_own_client: bool = False) -> bool:
        """Return whether such a connection is open; `by_own_client`: of a client that names a version."""
        with self._lock:
            return any(self._listening.values()) if by_own_client else bool(self._listening)

    def dismiss(self, worker: Worker) -> None:
        """Note that a worker is told to leave."""
        with self._lock:
            worker.is_dismissed = True

    def may_return(self) -> bool:
        """Return whether a worker has just lost its connection, and does not know that it may leave."""
        with self._lock:
            now_s = self._clock()
            return any(
                each.gone_since_s is not None
                and now_s < each.gone_since_s + RETURN_S
                and each.info.heartbeat_s is not None
                and not each.is_dismissed
                and self._dead(each.info) is None
                for each in self._workers.values()
            )

    def unconnected(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the leases whose workers have no connection now: only these may be seen to be gone."""
        with self._lock:
            known = self._workers
            return [
                each
                for each in leases
                if (worker := known.get((each.worker.name, each.worker.instance))) is None
                or worker.info.connection is None
            ]

    def has_died(self, info: WorkerInfo) -> bool:
        """Return whether a worker of this host has died, and nothing of its task is left."""
        return (process := self._dead(info)) is not None and not self._may_run(process)

    def is_ending(self, info: WorkerInfo) -> bool:
        """Return whether a worker of this host has died, and something of its task may still run."""
        return (process := self._dead(info)) is not None and self._may_run(process)

    def stuck(self, info: WorkerInfo) -> str:
        """Return what of a dead worker's task has not ended in `STUCK_S`, such as `pid 4711`; else empty."""
        process = self._dead(info)
        if process is None or not self._may_run(process):
            return ""
        with self._lock:
            since_s = self._ending_since.setdefault(process, self._clock())
        if self._clock() < since_s + STUCK_S:
            return ""
        return locks.read_note(self._task_lock(process)) or f"a process of {info.name}"

    def _dead(self, info: WorkerInfo) -> ProcessMark | None:
        """Return the process of a worker whose connection broke and which is seen to be gone."""
        with self._lock:
            worker = self._of(info)
            known = info if worker is None else worker.info
        # one that is not known was an earlier manager's, or has left for long: it has no connection
        if known.process is None or (worker is not None and known.connection is not None):
            return None
        if known.machine != self._machine:
            return known.process if self._has_rebooted(known) else None
        return known.process if known.process.is_gone() else None

    def _has_rebooted(self, info: WorkerInfo) -> bool:
        """Return whether the manager's host was started again since it saw this worker."""
        boots = {machine.partition("/")[0] for machine in (info.machine, self._machine)}
        return bool(info.machine) and info.host == self._host and len(boots) == 2

    def _may_run(self, process: ProcessMark) -> bool:
        """Return whether the watcher of a worker still ends its task."""
        try:
            return locks.is_held(self._task_lock(process))
        except OSError:
            return False  # it could not be locked either

    # -- code of other machines ----------------------------------------------------------------------------

    def has_other_commit(self, worker: Worker) -> bool:
        """Return whether the worker's code is known to be of another commit than the manager's folder."""
        is_told = bool(worker.git_commit and self._commit) and not worker.info.shares_folder
        return is_told and worker.git_commit != self._commit

    def compare_commits(self, own_commit: Callable[[], str]) -> None:
        """Warn once of each worker whose folder is another one, with other code.

        `own_commit` is called only where there is such a worker.
        """
        with self._lock:
            workers = self._workers.values()
            others = [copy.copy(each) for each in workers if each.git_commit and not each.info.shares_folder]
        if not others:
            return
        self._commit = own_commit()
        for worker in others:
            found = (worker.name, worker.git_commit, self._commit)
            if self.has_other_commit(worker) and found not in self._warned:
                self._warned.add(found)
                log.warning(
                    "Worker %s runs the code of git commit %s, the manager's folder is at %s; "
                    "column git_commit of its rows says so",
                    *(worker.name, worker.git_commit[:COMMIT_DIGITS], self._commit[:COMMIT_DIGITS]),
                )

    def say_what_is_withheld(self, worker: Worker) -> None:
        """Warn once of each phase of which a worker of an earlier version is given no task."""
        earlier = worker.info.earlier
        for phase, why in dict(earlier.lacks if earlier else {}).items():
            with self._lock:
                is_told = (worker.name, phase) in self._withheld
                self._withheld.add((worker.name, phase))
            if not is_told:
                log.warning("%s", withheld_text(worker.info, {phase: why}))

    # -- who is excluded -----------------------------------------------------------------------------------

    def exclusion(self, worker: Worker) -> str:
        """Return why this worker gets no task although tasks are pending; empty when it may have one."""
        with self._lock:
            is_out = worker.excluded and (worker.is_excluded_for_good or self.has_substitute(worker))
            return worker.excluded if is_out else ""

    def available(self) -> list[tuple[WorkerInfo, str]]:
        """Return each connected worker, and why it gets no task; an empty text: it may have one."""
        with self._lock:
            connected = [each for each in self._workers.values() if each.info.connection is not None]
            return [(each.info, "drained" if each.drained else self.exclusion(each)) for each in connected]

    def has_substitute(self, worker: Worker) -> bool:
        """Return whether another live worker may have tasks."""
        with self._lock:
            me = (worker.name, worker.instance)
            return any((other.name, other.instance) != me for other in self._allowed())

    def completed(self, info: WorkerInfo, task: Task) -> None:
        """Note a success of a worker. Workers that failed the same task then failed it alone."""
        with self._lock:
            self._succeeded.setdefault(task.phase, set()).add(info.name)
            self._proven.add(task.experiment)
            failed = self._failed_on.pop(task.key, set())
            if worker := self._of(info):
                worker.completed += 1
                worker.failed_alone.clear()
            self._update_exclusions(failed | {info.name})

    def failed(self, info: WorkerInfo, task: Task) -> None:
        """Note a failure. A worker that only fails where others succeed is excluded.

        A task that fails on other workers too speaks against none of them.
        """
        with self._lock:
            failed = self._failed_on.setdefault(task.key, set())
            failed.add(info.name)
            if worker := self._of(info):
                worker.failed += 1
                if self._succeeded.get(task.phase, set()) - {info.name}:
                    worker.failed_alone.add(task.key)
            self._update_exclusions(failed)

    def _update_exclusions(self, names: set[str]) -> None:
        for worker in (each for name in names for each in self._named(name) if not each.is_excluded_for_good):
            streak = sum(len(self._failed_on.get(key, ())) < 2 for key in worker.failed_alone)
            why = f"{streak} failures in a row where other workers succeed"
            self._set_excluded(worker, why if streak >= EXCLUDE_AFTER else "")

    def _set_excluded(self, worker: Worker, why: str) -> None:
        if why and not worker.excluded:
            log.warning("Worker %s is excluded: %s", worker.name, why)
        elif worker.excluded and not why:
            log.info("Worker %s gets tasks again", worker.name)
        worker.excluded = why

    def exclude(self, info: WorkerInfo, why: str) -> bool:
        """Give this worker nothing more until it is restarted; False when there is no other for its tasks."""
        with self._lock:
            worker = self._of(info)
            if worker is None or not self.has_substitute(worker):
                return False
            self._set_excluded(worker, why)
            worker.is_excluded_for_good = True
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

    def drain(self, name: str) -> bool:
        """Let the workers of this name leave after their current task; False when there is none."""
        with self._lock:
            workers = self._named(name)
            for worker in workers:
                worker.drained = True
                self._on_drain(DrainRecord(worker=worker.name, instance=worker.instance))
            return bool(workers)

    def restore(self, records: Sequence[DrainRecord]) -> None:
        """Take over which workers an earlier manager has drained: those that are still there are to leave."""
        self._drained_before = {each.key for each in records}

    def _forget_drain(self, worker: Worker) -> None:
        """Note that a drained worker has left; caller holds the lock."""
        if worker.drained:
            drain = DrainRecord(worker=worker.name, instance=worker.instance, is_settled=True)
            self._drained_before.discard(drain.key)
            self._on_drain(drain)

    # -- who there is --------------------------------------------------------------------------------------

    def largest_mib(self, gpus: int = 0) -> int | None:
        """Return the memory of the largest device of a live worker with so many GPUs that may have tasks.

        It is 0 when none may, None when no such worker is live.
        """
        with self._lock:
            if all(worker.info.gpus < gpus for worker in self._live()):
                return None
            fit = [worker.info for worker in self._allowed() if worker.info.gpus >= gpus]
            return max((info.memory_mib for info in fit), default=0)

    def connected(self) -> int:
        """Return how many workers hold a connection now."""
        return self._connected

    def excluded(self) -> list[str]:
        """Return the names of the workers that get no more tasks."""
        with self._lock:
            return [worker.name for worker in self._workers.values() if worker.excluded]

    def share_done(self, info: WorkerInfo) -> tuple[float, float, float | None] | None:
        """Return which share of its task a worker has done, when it said so, and how long after the last.

        None where it has not reported.
        """
        with self._lock:
            worker = self._of(info)
            progress = worker.progress if worker else None
            if worker is None or progress is None or not 0 < progress.step <= (progress.total or 0):
                return None
            return progress.step / (progress.total or 1), worker.progress_s, worker.progress_gap_s

    def able(self) -> int:
        """Return how many connected workers may have tasks now."""
        with self._lock:
            return sum(worker.info.connection is not None for worker in self._allowed())

    def all(self) -> list[tuple[Worker, float]]:
        """Return every worker with its age: seconds since it was last heard."""
        with self._lock:
            now_s = self._clock()
            return [(copy.copy(worker), now_s - worker.seen_s) for worker in self._workers.values()]

    def _of(self, info: WorkerInfo) -> Worker | None:
        return self._workers.get((info.name, info.instance))

    def _named(self, name: str) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.name == name]

    def _is_here(self, worker: Worker) -> bool:
        return worker.info.connection is not None or self._is_live(worker)

    def _is_live(self, worker: Worker) -> bool:
        return worker.seen_s >= self._clock() - LIVE_S

    def _live(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if self._is_live(worker)]

    def _allowed(self) -> list[Worker]:
        return [worker for worker in self._live() if not worker.excluded and not worker.drained]


def withheld_text(info: WorkerInfo, lacks: Mapping[str, str]) -> str:
    """Return what to do for a worker of an earlier version that is given no task of these phases."""
    version = info.earlier.text if info.earlier else ""
    shown = [f"{phase} ({why})" for phase, why in lacks.items()]
    more = f" and {len(shown) - MAX_SHOWN_PHASES} more" if len(shown) > MAX_SHOWN_PHASES else ""
    return (
        f"Worker {info.name} runs distexp {version} and gets no task of phase "
        f"{', '.join(shown[:MAX_SHOWN_PHASES])}{more}: "
        f"update distexp on {info.host or 'its host'}"
    )
