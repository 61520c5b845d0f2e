"""Decides which tasks share a GPU: by the memory that tasks of their phases held, and how long they took.

For workers that share a GPU without a fixed number (`--slots-per-gpu auto`). The first task of a phase runs
alone; more join while they fit, and while more tasks at a time mean more tasks an hour. No I/O.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import NamedTuple

from distexp.queue.entry import Entry, Lease, WorkerInfo
from distexp.queue.records import PeakRecord
from distexp.queue.task_queue import TaskQueue
from distexp.task import MAX_SHARING, MIB_PER_GB, Cause, PeakMemory, SharedGpu, State
from distexp.text import last_line

MARGIN = 1.1  # times what a task of the phase has held: allocators and seeds differ by a few percent
FIRST_LIMIT = 8  # tasks at a time, until it is known how fast they go
ENOUGH = 4  # tasks beside as many others, before their mean time counts
LEAVES_S = 60.0  # for a worker to hear that its lease has ended, and to end the task; then it may hang
REMEMBERED = 16_000  # workers whose last request is: more than wait at a time; others look once more
GOOD_SHARE = 0.75  # of the speed alone: then more at a time may get more done
OUT_OF_MEMORY_WORDS = (  # of CUDA, cuBLAS, cuDNN, torch, JAX and TensorFlow, in lower case
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "resource_exhausted",
    "alloc_failed",
    "failed to allocate",
    "oom when allocating",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
)
CUDA_WORDS = ("cuda", "cublas", "cudnn")  # of these libraries, which know no other memory than a GPU's


class Running(NamedTuple):
    """A task that runs on a shared GPU."""

    phase: str
    pid: int  # of its worker; 0: not known
    is_alone: bool  # nobody may join it


class SharingLimit:
    """How many tasks at a time are worth it, by how long those of a phase took beside how many.

    Where tasks beside others are nearly as fast as alone, more may run. Where they are not, one lower number
    is tried: as no task is faster beside others than alone, only those above the speed-up can do better, and
    the lowest of these does on a GPU that is simply full. What got more done stays.
    """

    def __init__(self) -> None:
        self.limit = FIRST_LIMIT
        self._took_s: dict[int, list[float]] = {}  # by how many ran at a time
        self._before = 0  # the number beside which another is tried
        self._is_settled = False

    def add(self, number: int, seconds: float) -> None:
        """Note that a task took so long, while so many ran on its GPU, itself included."""
        if self._is_settled:
            return
        self._took_s.setdefault(number, []).append(max(seconds, 1e-6))
        rates = self._rates()
        if self._before:
            self._compare(rates)
        elif 1 in rates and len(rates) > 1:
            self._decide(rates)

    def _rates(self) -> dict[int, float]:
        """Return tasks a second, by numbers of which enough is known: of all that began together, say."""
        known = {n: took_s for n, took_s in self._took_s.items() if n == 1 or len(took_s) >= max(ENOUGH, n)}
        return {n: n * len(took_s) / sum(took_s) for n, took_s in known.items()}

    def _decide(self, rates: Mapping[int, float]) -> None:
        highest = max(rates)
        speed_up = rates[highest] / rates[1]
        if speed_up >= GOOD_SHARE * highest:
            if highest == self.limit:
                self.limit = min(2 * highest, MAX_SHARING)
            return
        self._before, self.limit = highest, floor(speed_up) + 1
        self._compare(rates)

    def _compare(self, rates: Mapping[int, float]) -> None:
        if self.limit in rates:
            self._is_settled = True
            self.limit = max(self.limit, self._before, key=lambda number: rates[number])


@dataclass
class PhaseUse:
    """What is known of the tasks of a phase."""

    peak_mib: float | None = None  # the most that one has held; None: none has ended yet
    sharing: SharingLimit = field(default_factory=SharingLimit)

    @property
    def needed_mib(self) -> float | None:
        """What one of its tasks is given; None: that cannot be told yet."""
        return None if self.peak_mib is None else MARGIN * self.peak_mib


def open_phases(
    gpu: SharedGpu | None, pid: int, running: Sequence[Running], known: Mapping[str, PhaseUse]
) -> frozenset[str] | None:
    """Return the phases of which a worker may start a task on a GPU beside those that run; None: of any.

    Args:
        gpu: As the worker has just seen it; None: it cannot tell.
        pid: Of the worker; what its processes hold already is free for its task.
        running: The tasks on this GPU.
        known: What is known of each phase.
    """
    own_mib = gpu.held_by(pid) if gpu else 0
    if not running:
        is_full = gpu is not None and gpu.free_mib + own_mib <= gpu.min_free_mib
        return frozenset() if is_full else None
    uses = [known.get(each.phase, PhaseUse()) for each in running]
    number, left_mib = len(running) + 1, 0.0 if gpu is None else gpu.free_mib + own_mib
    for each, use in zip(running, uses, strict=True):
        if gpu is None or each.is_alone or use.needed_mib is None or number > use.sharing.limit:
            return frozenset()
        left_mib -= max(0.0, use.needed_mib - gpu.held_by(each.pid))
    return frozenset(
        phase
        for phase, use in known.items()
        if use.needed_mib is not None and use.needed_mib <= left_mib and number <= use.sharing.limit
    )


def is_out_of_memory(cause: Cause, error: str, worker: WorkerInfo) -> bool:
    """Return whether a failure is for want of memory, also where a library or a program says so in words.

    The words count if they are about a GPU's memory: on the CPU, other programs may have held what it lacked.
    """
    last = last_line(error, "").lower()
    is_told = cause in (Cause.ERROR, Cause.CRASH) and any(words in last for words in OUT_OF_MEMORY_WORDS)
    is_of_gpu = worker.gpus > 0 or worker.device == "mps" or any(words in last for words in CUDA_WORDS)
    return (is_told and is_of_gpu) or cause is Cause.OUT_OF_MEMORY


@dataclass
class _Share:
    """A running task, and with how many it has shared its GPU."""

    lease: Lease
    most: int  # tasks that ran there at a time, itself included
    task_s: float = 0.0  # seconds times tasks
    ran_s: float | None = None  # its experiment, without setup, imports and the like; None: not told

    @classmethod
    def of(cls, lease: Lease) -> "_Share":
        """Return what is known at first; under an earlier manager it may have run beside others."""
        return cls(lease, most=2 if lease.since_s is None else 1)


@dataclass
class _Gpu:
    at_s: float  # when it was last looked at
    shares: dict[str, _Share] = field(default_factory=dict)  # by lease


@dataclass(frozen=True)
class _Asked:
    """How things stood when a worker last asked for a task."""

    gpu: SharedGpu | None
    running: Sequence[Running]
    situation: object


class _Leaving(NamedTuple):
    """A task whose lease has ended before its worker has heard of it."""

    task: Running
    until_s: float  # on the queue's clock: so long it counts at most


class Packing:
    """Assigns tasks to workers that share GPUs, and learns from how they end.  Safe from any thread."""

    def __init__(self, queue: TaskQueue, on_peak: Callable[[PeakRecord], None] = lambda record: None) -> None:
        """Call `on_peak` with what must outlive the manager."""
        self._queue, self._on_peak = queue, on_peak
        self._lock = threading.Lock()  # taken before the queue's
        self._known: dict[str, PhaseUse] = {}
        self._gpus: dict[str, _Gpu] = {}  # by UUID
        self._asked: dict[tuple[str, str], _Asked] = {}  # by worker
        self._leaving: dict[tuple[str, int], _Leaving] = {}  # by UUID and pid of its worker: see `abandon`
        self._changes = 0  # of what is known

    def recall(self, records: Iterable[PeakRecord]) -> None:
        """Take over what an earlier manager knew."""
        with self._lock:
            self._known |= {record.phase: PhaseUse(record.peak_mib) for record in records}

    # -- assigning -----------------------------------------------------------------------------------------

    def assign(self, worker: WorkerInfo, gpu: SharedGpu | None) -> Lease | None:
        """Assign a task that fits on the worker's GPU, as that looks now; see `TaskQueue.assign`."""
        with self._lock:
            self._forget_those_that_left(worker, gpu)
            running = self._running(worker.shared_gpu, gpu)
            phases = open_phases(gpu, worker.pid, running, self._known)
            situation = self._situation(running, phases)
            self._remember(worker, _Asked(gpu, running, situation))
            if phases is not None and not phases:
                return None
            lease = self._queue.assign(replace(worker, phases=phases))
            if lease is not None:
                self._look(worker.shared_gpu)
                self._gpus[worker.shared_gpu].shares[lease.lease_id].most = len(running) + 1
            return lease

    def _remember(self, worker: WorkerInfo, asked: _Asked) -> None:
        self._asked.pop(me := (worker.name, worker.instance), None)
        self._asked[me] = asked
        if len(self._asked) > REMEMBERED:
            del self._asked[next(iter(self._asked))]  # most have left

    def abandon(self, lease: Lease) -> None:
        """Note that a lease is about to end whose task may still run, until its worker hears that.

        The task counts until its worker asks for another, or holds no memory of the GPU any more, or hangs.
        """
        with self._lock:
            if lease.worker.shared_gpu:
                about = _Leaving(self._of(lease), self._queue.now_s() + LEAVES_S)
                self._leaving[lease.worker.shared_gpu, lease.worker.pid] = about

    def must_look_again(self, worker: WorkerInfo) -> bool:
        """Return whether a worker that waits may get a task once it tells what its GPU's memory is now."""
        with self._lock:
            asked = self._asked.get((worker.name, worker.instance))
            if asked is None:
                return True
            running = self._running(worker.shared_gpu, asked.gpu)
            left = {each.pid for each in asked.running} - {each.pid for each in running}
            gpu = asked.gpu and asked.gpu.without(left)
            phases = open_phases(gpu, worker.pid, running, self._known)
            situation = self._situation(running, phases)
            return situation is not None and situation != asked.situation

    def why_waiting(self, entry: Entry, workers: Sequence[WorkerInfo]) -> str:
        """Return what a pending task waits for on the GPU of an idle worker; empty where none is shared."""
        busy = {(lease.worker.name, lease.worker.instance) for lease in self._queue.leases()}
        idle = [each for each in workers if each.shared_gpu and (each.name, each.instance) not in busy]
        if not idle:
            return ""
        gpu = idle[0].name.rpartition("/")[2].partition(".")[0]
        with self._lock:
            asked = self._asked.get((idle[0].name, idle[0].instance))
            running = asked.running if asked else ()
            phases = entry.planned.phase, *(each.phase for each in running)
            use, *others = [self._known.get(phase, PhaseUse()) for phase in phases]
            limit = min(each.sharing.limit for each in (use, *others))
            if asked and asked.gpu and not running and asked.gpu.free_mib <= asked.gpu.min_free_mib:
                free_gb, least_gb = asked.gpu.free_mib / MIB_PER_GB, asked.gpu.min_free_mib / MIB_PER_GB
                return f"others hold the memory of {gpu}: {free_gb:.1f} GB free, --min-free-gb {least_gb:g}"
            if entry.runs_alone:
                return f"it ran out of memory beside other tasks, and waits until nothing else runs on {gpu}"
            if use.needed_mib is None:
                return f"the memory of its phase is not known: its first task waits until {gpu} is its own"
            if any(each.needed_mib is None for each in others) or any(each.is_alone for each in running):
                return f"it waits for the task on {gpu}, which runs alone there"
            if len(running) >= limit:
                return f"{limit} at a time run on {gpu}: more get no more done, as far as is known"
            given_gb = use.needed_mib / MIB_PER_GB
            return f"it waits for room on {gpu}: tasks of its phase are given {given_gb:.1f} GB"

    def _situation(self, running: Sequence[Running], phases: frozenset[str] | None) -> object:
        """Return what the chances of a worker depend on; None where it has none."""
        counts = self._queue.queries.counts_by_phase()
        pending = frozenset(phase for phase, states in counts.items() if states.get(State.PENDING))
        chances = pending if phases is None else pending & phases
        held = frozenset(self._queue.holds.explain())  # may be open to this worker once they are not
        return (tuple(running), self._changes, chances, held) if chances else None

    def _running(self, uuid: str, gpu: SharedGpu | None) -> list[Running]:
        live = [self._of(lease) for lease in self._queue.leases() if lease.worker.shared_gpu == uuid]
        pids = {each.pid for each in live}
        others = (
            each.task
            for (where, _), each in self._leaving.items()
            if where == uuid and self._holds(each, gpu)
        )
        return [*live, *(each for each in others if each.pid not in pids)]

    def _holds(self, leaving: _Leaving, gpu: SharedGpu | None) -> bool:
        is_early = self._queue.now_s() < leaving.until_s
        return is_early and gpu is not None and gpu.held_by(leaving.task.pid) > 0

    def _forget_those_that_left(self, worker: WorkerInfo, gpu: SharedGpu | None) -> None:
        for (uuid, pid), each in [*self._leaving.items()]:
            is_there = pid != worker.pid and self._holds(each, gpu)
            if uuid == worker.shared_gpu and not is_there:
                del self._leaving[uuid, pid]

    def _of(self, lease: Lease) -> Running:
        is_alone = self._queue.entry(lease.task.key).runs_alone
        return Running(lease.task.phase, lease.worker.pid, is_alone)

    def _look(self, uuid: str) -> None:
        """Count the time since the last look, forget what has ended, and see what has begun."""
        now_s = self._queue.now_s()
        gpu = self._gpus.setdefault(uuid, _Gpu(now_s))
        for share in gpu.shares.values():
            share.task_s += (now_s - gpu.at_s) * len(gpu.shares)
        gpu.at_s, before = now_s, gpu.shares
        live = [lease for lease in self._queue.leases() if lease.worker.shared_gpu == uuid]
        gpu.shares = {each.lease_id: before.get(each.lease_id) or _Share.of(each) for each in live}
        for share in gpu.shares.values():
            share.most = max(share.most, len(live))

    # -- what happens --------------------------------------------------------------------------------------

    def measured(self, phase: str, peak: PeakMemory, uuid: str, lease_id: str, *, is_whole: bool) -> None:
        """Note what a task has held; once one `is_whole`, from its start to its end, its phase is known.

        Its lease on the GPU with this UUID may have ended: its row may have been seen before its report.
        """
        with self._lock:
            share = self._share(uuid, lease_id)
            if share is not None:
                share.ran_s = peak.ran_s
            if peak.of_gpu and (share is None or share.most > 1):
                return  # it may be what others have held
            if is_whole or self._known.get(phase, PhaseUse()).peak_mib is not None:
                self._raise_peak(phase, peak.mib)

    def _raise_peak(self, phase: str, mib: float) -> None:
        use = self._known.setdefault(phase, PhaseUse())
        if use.peak_mib is None or mib > use.peak_mib:
            use.peak_mib = mib
            self._changes += 1
            self._on_peak(PeakRecord(phase, mib))

    def completed(self, lease: Lease) -> None:
        """Note that a task is complete, whose lease has just ended."""
        with self._lock:
            share = self._share(lease.worker.shared_gpu, lease.lease_id)
            if share is None or lease.since_s is None:
                return
            self._look(lease.worker.shared_gpu)
            held_s = max(self._queue.now_s() - lease.since_s, 1e-6)
            sharing = self._known.setdefault(lease.task.phase, PhaseUse()).sharing
            before = sharing.limit
            sharing.add(max(1, round(share.task_s / held_s)), held_s if share.ran_s is None else share.ran_s)
            self._changes += sharing.limit != before

    def _share(self, uuid: str, lease_id: str) -> _Share | None:
        gpu = self._gpus.get(uuid)
        return gpu.shares.get(lease_id) if gpu else None

    def has_run_out(self, lease: Lease, cause: Cause, peak: PeakMemory | None) -> bool:
        """Return whether an attempt failed for want of memory that others may have held: it costs nothing.

        Of a task that has run alone, none is.
        """
        if not lease.worker.shared_gpu or cause is not Cause.OUT_OF_MEMORY:
            return False
        with self._lock:
            share = self._share(lease.worker.shared_gpu, lease.lease_id)
            if self._queue.entry(lease.task.key).runs_alone or (share is not None and share.most == 1):
                return False
            if peak is not None and not peak.of_gpu:
                self._raise_peak(lease.task.phase, MARGIN * peak.mib)  # it would have held more
            return True
