"""Sweeps on simulated GPUs that tasks share: what the real `Packing` assigns, against an oracle's choice.

Tasks take their memory step by step, and slow each other down; a task that takes more than there is runs out
of memory. Events follow each other; nobody waits.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.packing import Packing
from distexp.queue.task_queue import TaskQueue
from distexp.task import MAX_SHARING, Cause, PeakMemory, SharedGpu, Task, make_task

STEPS = ((0.0, 0.3), (0.03, 0.8), (0.3, 1.0))  # share of the work done -> share of the peak that is taken
HOUR_S = 3600.0


@dataclass(frozen=True)
class Job:
    """A task and what nobody knows before it has run."""

    task: Task
    peak_mib: int
    work_s: float  # alone on a GPU


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind: how much memory they have, and how they slow down what shares them."""

    gpus: int
    total_mib: int
    parallel: float  # so many tasks run as fast as one alone
    loss: float  # of all speed, for each task beyond

    def speed(self, tasks: int) -> float:
        """Return how fast each of so many tasks on a GPU goes; alone it is 1."""
        return min(1.0, self.parallel / tasks) * (1 - self.loss) ** max(0.0, tasks - self.parallel)

    @property
    def best(self) -> int:
        """How many tasks at a time get most done."""
        return max(range(1, MAX_SHARING + 1), key=lambda tasks: tasks * self.speed(tasks))


@dataclass(eq=False)
class Attempt:
    """A task that runs."""

    job: Job
    worker: int
    lease: Lease | None = None
    done: float = 0.0  # share of the work
    used_mib: int = 0

    @property
    def next_step(self) -> float:
        """The share of the work at which it takes more memory, or ends."""
        return next((at for at, share in STEPS if self.used_mib < int(share * self.job.peak_mib)), 1.0)


@dataclass
class Gpu:
    """What runs on one."""

    number: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def used_mib(self) -> int:
        """What all of them hold."""
        return sum(attempt.used_mib for attempt in self.attempts)


class Chooser(Protocol):
    """Who chooses what runs where."""

    def choose(self, gpu: Gpu, worker: int, *, has_waited: bool) -> Attempt | None:
        """Return what an idle worker of a GPU begins."""

    def ended(self, attempt: Attempt) -> None:
        """Note that a task is complete."""

    def ran_out(self, attempt: Attempt) -> None:
        """Note that a task ran out of memory."""


class Clock:
    """The time in a simulation."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Oracle:
    """Knows the memory of each task and how many at a time are best; takes the first one that fits."""

    def __init__(self, machine: Machine, jobs: Sequence[Job], clock: Clock) -> None:
        self._machine, self._left = machine, list(jobs)

    def choose(self, gpu: Gpu, worker: int, *, has_waited: bool) -> Attempt | None:
        if len(gpu.attempts) >= self._machine.best:
            return None
        free_mib = self._machine.total_mib - sum(each.job.peak_mib for each in gpu.attempts)
        for place, job in enumerate(self._left):
            if job.peak_mib <= free_mib:
                return Attempt(self._left.pop(place), worker)
        return None

    def ended(self, attempt: Attempt) -> None:
        pass

    def ran_out(self, attempt: Attempt) -> None:
        raise AssertionError("the oracle is wrong")


class Measuring:
    """The product: knows of each task what has been measured of its phase."""

    def __init__(self, machine: Machine, jobs: Sequence[Job], clock: Clock) -> None:
        self._machine = machine
        self._jobs = {job.task.key: job for job in jobs}
        self.queue = TaskQueue(clock, lambda record: None)
        self.queue.sync([job.task for job in jobs])
        self.packing = Packing(self.queue)
        self.ran_out_beside_others = 0

    def choose(self, gpu: Gpu, worker: int, *, has_waited: bool) -> Attempt | None:
        info = WorkerInfo(
            f"gpu{gpu.number}.{worker}",
            heartbeat_s=15.0,
            memory_mib=self._machine.total_mib,
            gpus=1,
            pid=1 + worker,
            shared_gpu=f"GPU-{gpu.number}",
        )
        if has_waited and not self.packing.must_look_again(info):
            return None
        seen = SharedGpu(
            total_mib=self._machine.total_mib,
            free_mib=self._machine.total_mib - gpu.used_mib,
            held_mib={1 + each.worker: each.used_mib for each in gpu.attempts},
        )
        lease = self.packing.assign(info, seen)
        return Attempt(self._jobs[lease.task.key], worker, lease) if lease else None

    def ended(self, attempt: Attempt) -> None:
        assert attempt.lease is not None
        self._measured(attempt.lease, attempt, is_whole=True)
        assert self.queue.complete(attempt.job.task.key)
        self.packing.completed(attempt.lease)

    def ran_out(self, attempt: Attempt) -> None:
        lease = attempt.lease
        assert lease is not None
        peak = self._measured(lease, attempt, is_whole=False)
        is_free = self.packing.has_run_out(lease, Cause.OUT_OF_MEMORY, peak)
        assert is_free, f"{lease.task.task_id} fails for want of memory"
        self.queue.release(lease.lease_id, lease.task.key, runs_alone=True)
        self.ran_out_beside_others += 1

    def _measured(self, lease: Lease, attempt: Attempt, *, is_whole: bool) -> PeakMemory:
        peak = PeakMemory(mib=attempt.used_mib)
        about = lease.task.phase, peak, lease.worker.shared_gpu, lease.lease_id
        self.packing.measured(*about, is_whole=is_whole)
        return peak


def run(machine: Machine, chooser: Chooser, clock: Clock) -> float:
    """Run until nothing is left, with as many workers as may share each GPU; return the hours it took."""
    gpus = [Gpu(number) for number in range(machine.gpus)]
    for gpu in gpus:
        _fill(gpu, chooser, range(MAX_SHARING), has_waited=False)
    while any(gpu.attempts for gpu in gpus):
        after_s, gpu, attempt = min(
            ((_until_next(machine, gpu, each), gpu, each) for gpu in gpus for each in gpu.attempts),
            key=lambda found: found[0],
        )
        _advance(machine, gpus, after_s)
        clock.now_s += after_s
        attempt.done = attempt.next_step
        if attempt.done == 1.0:
            gpu.attempts.remove(attempt)
            chooser.ended(attempt)
        elif not _grow(machine, gpu, attempt):
            gpu.attempts.remove(attempt)
            chooser.ran_out(attempt)
        else:
            continue
        _fill(gpu, chooser, [attempt.worker], has_waited=False)  # its worker asks at once
        for each in gpus:  # then those that wait
            busy = {one.worker for one in each.attempts}
            _fill(each, chooser, [n for n in range(MAX_SHARING) if n not in busy], has_waited=True)
    return clock.now_s / HOUR_S


def _until_next(machine: Machine, gpu: Gpu, attempt: Attempt) -> float:
    left = max(0.0, attempt.next_step - attempt.done)
    return left * attempt.job.work_s / machine.speed(len(gpu.attempts))


def _advance(machine: Machine, gpus: Sequence[Gpu], seconds: float) -> None:
    for gpu in gpus:
        speed = machine.speed(max(1, len(gpu.attempts)))
        for attempt in gpu.attempts:
            attempt.done += seconds * speed / attempt.job.work_s


def _grow(machine: Machine, gpu: Gpu, attempt: Attempt) -> bool:
    """Let a task take its next memory; return whether there was enough."""
    share = next(share for at, share in reversed(STEPS) if at <= attempt.done)
    more_mib = int(share * attempt.job.peak_mib) - attempt.used_mib
    if gpu.used_mib + more_mib > machine.total_mib:
        return False
    attempt.used_mib += more_mib
    return True


def _fill(gpu: Gpu, chooser: Chooser, workers: Sequence[int], *, has_waited: bool) -> None:
    for worker in workers:
        attempt = chooser.choose(gpu, worker, has_waited=has_waited)
        if attempt is None:
            if has_waited:
                return  # the others of this GPU wait for the same
            continue
        gpu.attempts.append(attempt)


def random_jobs(rng: random.Random, machine: Machine) -> list[Job]:
    """Return one to three phases of 100 to 300 tasks; in every second one an axis changes their memory."""
    return [job for number in range(rng.randint(1, 3)) for job in _phase(rng, machine, number)]


def _phase(rng: random.Random, machine: Machine, number: int) -> list[Job]:
    sizes = rng.choice([(1.0,), (1.0,), (1.0, 1.5, 2.0), (1.0, 2.0, 4.0)])
    largest_mib = machine.total_mib * 10 ** rng.uniform(-1.5, -0.2)
    times = rng.choice([(1.0,), (1.0, 3.0)])
    base_s = 60 * 10 ** rng.uniform(-1, 1)
    grid = [(size, time) for size in sizes for time in times]
    cells = grid * (rng.randint(100, 300) // len(grid) + 1)
    order: Callable[[list[tuple[float, float]]], None] = rng.choice(
        [lambda some: some.sort(), lambda some: some.sort(reverse=True), rng.shuffle]
    )
    order(cells)
    return [
        Job(
            make_task(
                **{"task_id": f"p{number}_{n}_0", "phase": f"p{number}", "config": {"n": n, "of": number}},
                **{"seed": 0, "output_dir": "results", "axes": ("n",)},
            ),
            peak_mib=int(largest_mib * size / sizes[-1] * rng.uniform(0.97, 1.0)),
            work_s=base_s * time * (1 + 0.3 * size) * rng.uniform(0.9, 1.1),
        )
        for n, (size, time) in zip(count(), cells, strict=False)
    ]


def random_machine(rng: random.Random) -> Machine:
    """Return one or two GPUs of a common size, which bear one to eight tasks at full speed."""
    return Machine(
        gpus=rng.choice([1, 1, 2]),
        total_mib=1024 * rng.choice([11, 24, 40, 80]),
        parallel=rng.uniform(1.0, 8.0),
        loss=rng.uniform(0.0, 0.05),
    )


def ratio(seed: int) -> float:
    """Return the throughput of the product as a share of the oracle's, in one random sweep."""
    rng = random.Random(seed)
    machine = random_machine(rng)
    jobs = random_jobs(rng, machine)
    hours = []
    for chooser in (Oracle, Measuring):
        clock = Clock()
        hours.append(run(machine, chooser(machine, jobs, clock), clock))
    return hours[0] / hours[1]
