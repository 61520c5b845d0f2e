"""Which tasks share a GPU: the decision itself, what it learns, and whole sweeps against an oracle."""

from collections.abc import Sequence
from statistics import median

import pytest

from distexp.queue import packing
from distexp.queue.entry import WorkerInfo
from distexp.queue.packing import Packing, PhaseUse, Running, SharingLimit, is_out_of_memory, open_phases
from distexp.queue.records import PeakRecord
from distexp.task import Cause, PeakMemory, SharedGpu, State
from tests.queue.sample_queue import SampleQueue
from tests.queue.shared_gpu_simulation import ratio
from tests.row_cases import a_task

GIB = 1024
SMALL, LARGE, NEW = "small", "large", "new"
KNOWN = {SMALL: PhaseUse(2 * GIB), LARGE: PhaseUse(20 * GIB), NEW: PhaseUse()}


def a_gpu(free_gb: float, **held_gb: float) -> SharedGpu:
    held = {int(pid.removeprefix("p")): int(gb * GIB) for pid, gb in held_gb.items()}
    return SharedGpu(total_mib=40 * GIB, free_mib=int(free_gb * GIB), min_free_mib=4 * GIB, held_mib=held)


@pytest.mark.parametrize(
    ("gpu", "running", "expected"),
    [
        (a_gpu(39), [], None),
        (None, [], None),
        (a_gpu(4), [], set()),
        (a_gpu(3, p1=2), [], None),
        (a_gpu(39), [(NEW, 2)], set()),
        (None, [(SMALL, 2)], set()),
        (a_gpu(38, p2=2), [(SMALL, 2)], {SMALL, LARGE}),
        (a_gpu(22, p2=2), [(SMALL, 2)], {SMALL}),
        (a_gpu(23, p2=0.5), [(LARGE, 2)], set()),
        (a_gpu(24, p2=20), [(LARGE, 2)], {SMALL, LARGE}),
        (a_gpu(23), [(LARGE, 0)], set()),
        (a_gpu(1, p2=22, p1=2), [(LARGE, 2)], {SMALL}),
    ],
    ids=[
        "alone, any",
        "alone, where nothing can be read",
        "alone, but the GPU is full of others' memory",
        "alone, and what it holds itself is free for it",
        "nobody joins a task whose memory is not known",
        "nobody joins where nothing can be read",
        "both fit",
        "only one fits",
        "the other task has most of its memory yet to take",
        "the other task has its memory already",
        "whose processes cannot be told counts in full",
        "what the worker holds already is free for its task",
    ],
)
def test_a_task_joins_where_the_others_leave_it_the_memory_of_its_phase(
    gpu: SharedGpu | None, running: list[tuple[str, int]], expected: set[str] | None
) -> None:
    tasks = [Running(phase, pid, is_alone=False) for phase, pid in running]
    assert open_phases(gpu, 1, tasks, KNOWN) == expected


def test_nobody_joins_a_task_that_is_to_run_alone() -> None:
    assert open_phases(a_gpu(38, p2=2), 1, [Running(SMALL, 2, is_alone=True)], KNOWN) == set()


@pytest.mark.parametrize(
    ("took_s", "limit"),
    [
        ({1: 10}, 8),
        ({1: 10, 8: 12}, 16),
        ({1: 10, 5: 12}, 8),
        ({1: 10, 8: 40}, 3),
        ({1: 10, 8: 40, 3: 14}, 3),
        ({1: 10, 8: 40, 3: 20}, 8),
        ({1: 10, 4: 44}, 1),
    ],
    ids=[
        "nothing is known of sharing",
        "eight at a time go nearly as fast as one",
        "so do five, and more do not fit",
        "eight get done what two could: three might get done more",
        "three get more done than eight",
        "three get less done than eight",
        "four get less done than one",
    ],
)
def test_no_more_tasks_are_added_than_get_more_done(took_s: dict[int, float], limit: int) -> None:
    sharing = SharingLimit()
    for number, seconds in took_s.items():
        for _ in range(8):
            sharing.add(number, seconds)
    assert sharing.limit == limit


@pytest.mark.parametrize(
    ("cause", "error", "expected"),
    [
        (Cause.OUT_OF_MEMORY, "MemoryError", True),
        (Cause.ERROR, "Traceback\ntrain.py:3: RuntimeError: CUDA error: out of memory", True),
        (Cause.ERROR, "python: ended with exit code 1; last output: torch.OutOfMemoryError: CUDA out", True),
        (Cause.ERROR, "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate", True),
        (Cause.ERROR, "errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[9]", True),
        (Cause.ERROR, "RuntimeError: MPS backend out of memory", True),
        (Cause.CRASH, "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        (Cause.ERROR, "out of memory\nKeyError: 'lr'", False),
        (Cause.ERROR, "ValueError: no such width", False),
        (Cause.TIMEOUT, "no result after timeout_s; out of memory", False),
        (Cause.ERROR, "", False),
    ],
)
def test_want_of_memory_is_told_by_cause_or_words(cause: Cause, error: str, expected: bool) -> None:
    assert is_out_of_memory(cause, error, WorkerInfo("gpu0", gpus=1)) is expected
    is_of_any_memory = cause is Cause.OUT_OF_MEMORY or "CU" in error
    on_cpu = WorkerInfo("cpu0", device="cpu")
    assert is_out_of_memory(cause, error, on_cpu) is (expected and is_of_any_memory)
    on_mac = WorkerInfo("mps0", device="mps")
    assert is_out_of_memory(cause, error, on_mac) is expected


class SampleGpu:
    """A GPU of 40 GB with workers that share it, and tasks of one phase."""

    def __init__(self, tasks: int = 8) -> None:
        self.records = list[PeakRecord]()
        self.sample = SampleQueue([a_task(width=width) for width in range(tasks)])
        self.packing = Packing(self.sample.queue, self.records.append)

    def worker(self, number: int) -> WorkerInfo:
        name = f"gpu0.{number}"
        return WorkerInfo(name, 15.0, memory_mib=40 * GIB, gpus=1, pid=number, shared_gpu="GPU-0")

    def ask(self, number: int, gpu: SharedGpu | None = None) -> str:
        lease = self.packing.assign(self.worker(number), gpu or a_gpu(38))
        return lease.lease_id if lease else ""

    def complete(
        self, lease_id: str, mib: int = 2 * GIB, *, of_gpu: bool = False, ran_s: float | None = None
    ) -> None:
        lease = next(each for each in self.sample.queue.leases() if each.lease_id == lease_id)
        peak = PeakMemory(mib=mib, of_gpu=of_gpu, ran_s=ran_s)
        self.packing.measured("exp1", peak, "GPU-0", lease_id, is_whole=True)
        self.sample.queue.complete(lease.task.key)
        self.packing.completed(lease)


def test_the_first_task_of_a_phase_runs_alone_and_then_others_join() -> None:
    gpu = SampleGpu()
    first = gpu.ask(1)
    assert first
    assert [gpu.ask(2), gpu.ask(3)] == ["", ""]
    gpu.complete(first)
    assert gpu.records == [PeakRecord("exp1", 2 * GIB)]
    assert all([gpu.ask(1), gpu.ask(2), gpu.ask(3)])


def test_a_manager_that_starts_again_knows_what_a_phase_needs() -> None:
    gpu = SampleGpu()
    gpu.packing.recall([PeakRecord("exp1", 2 * GIB)])
    assert all([gpu.ask(1), gpu.ask(2)])


def test_a_worker_that_waits_looks_again_once_a_task_may_fit_and_not_before() -> None:
    gpu = SampleGpu()
    first = gpu.ask(1)
    assert gpu.ask(2) == ""
    assert not gpu.packing.must_look_again(gpu.worker(2))
    gpu.complete(first)
    assert gpu.packing.must_look_again(gpu.worker(2))
    assert gpu.ask(1)
    full = a_gpu(1, p1=2)
    assert gpu.ask(2, full) == ""
    assert not gpu.packing.must_look_again(gpu.worker(2))
    assert gpu.ask(3, a_gpu(36, p1=2))
    assert not gpu.packing.must_look_again(gpu.worker(2)), "that one's memory only comes on top"


def test_not_every_worker_that_ever_asked_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "REMEMBERED", 3)
    gpu = SampleGpu()
    assert gpu.ask(1)
    for number in (2, 3, 4, 2, 5):
        assert gpu.ask(number) == ""
    assert [gpu.packing.must_look_again(gpu.worker(number)) for number in (2, 3, 4, 5)] == [
        *(False, True, False, False)
    ]


def test_a_worker_that_waits_looks_again_once_a_hold_has_ended() -> None:
    gpu = SampleGpu()
    lease_id, queue = gpu.ask(1), gpu.sample.queue
    assert queue.not_begun(lease_id, gpu.sample.key, Cause.IMPORT, "No module named 'x'")
    assert gpu.ask(1) == "", "it has had its trial"
    assert not gpu.packing.must_look_again(gpu.worker(1))
    queue.holds.end_all()
    assert gpu.packing.must_look_again(gpu.worker(1))
    assert gpu.ask(1)


def test_growth_of_the_whole_gpu_counts_only_for_a_task_that_was_alone() -> None:
    gpu = SampleGpu()
    gpu.complete(gpu.ask(1), 3 * GIB, of_gpu=True)
    one, other = gpu.ask(1), gpu.ask(2)
    gpu.complete(one, 9 * GIB, of_gpu=True)
    gpu.complete(other, 9 * GIB, of_gpu=True)
    assert gpu.records == [PeakRecord("exp1", 3 * GIB)]


def test_want_of_memory_beside_others_costs_nothing_once_and_then_the_task_runs_alone() -> None:
    gpu = SampleGpu(tasks=3)
    queue = gpu.sample.queue
    gpu.complete(gpu.ask(1))
    one, other = gpu.ask(1), gpu.ask(2)
    lease, beside = queue.leases()
    peak = PeakMemory(mib=5 * GIB)
    assert gpu.packing.has_run_out(lease, Cause.OUT_OF_MEMORY, peak)
    assert gpu.records[-1].peak_mib > 5 * GIB
    queue.release(one, lease.task.key, runs_alone=True)
    assert gpu.ask(1) == "", "the other one still runs"
    assert gpu.sample.state(lease.task) is State.PENDING
    gpu.complete(other)
    alone = gpu.ask(1)
    assert [each.task.key for each in queue.leases()] == [lease.task.key]
    assert gpu.ask(2) == ""
    assert not gpu.packing.has_run_out(queue.leases()[0], Cause.OUT_OF_MEMORY, peak)
    assert queue.entry(lease.task.key).failures == 0
    assert beside.lease_id == other != alone


def test_show_tells_what_a_task_waits_for() -> None:
    gpu = SampleGpu()
    workers = [gpu.worker(1), gpu.worker(2)]

    def why() -> str:
        return gpu.packing.why_waiting(gpu.sample.queue.entry(gpu.sample.tasks[-1].key), workers)

    assert gpu.ask(1, a_gpu(3)) == ""
    assert why() == "others hold the memory of gpu0: 3.0 GB free, --min-free-gb 4"
    lease_id = gpu.ask(1)
    assert why() == "the memory of its phase is not known: its first task waits until gpu0 is its own"
    gpu.complete(lease_id, 20 * GIB)
    assert gpu.ask(1)
    assert why() == "it waits for room on gpu0: tasks of its phase are given 22.0 GB"
    workers.pop()
    assert why() == "", "its worker is busy"


def test_show_tells_that_the_task_on_a_gpu_runs_alone_or_that_more_get_no_more_done() -> None:
    gpu = SampleGpu(tasks=20)
    gpu.sample.queue.sync([*gpu.sample.tasks, a_task(phase="exp2", width=99)])

    def why(number: int) -> str:
        entry = gpu.sample.queue.entry(gpu.sample.tasks[-1].key)
        return gpu.packing.why_waiting(entry, [gpu.worker(number)])

    gpu.complete(gpu.ask(1))
    gpu.sample.queue.priorities.ask("exp2", 1)
    other = gpu.ask(1)
    assert gpu.ask(2) == ""
    assert why(2) == "it waits for the task on gpu0, which runs alone there"
    assert gpu.sample.queue.release(other, gpu.sample.queue.leases()[0].task.key)
    gpu.sample.queue.priorities.ask("exp2", -1)
    assert all(gpu.ask(number) for number in range(1, 9))
    assert gpu.ask(9) == ""
    assert why(9) == "8 at a time run on gpu0: more get no more done, as far as is known"


def test_a_gpu_becomes_free_for_a_phase_of_higher_priority_whose_tasks_do_not_fit() -> None:
    gpu = SampleGpu(tasks=4)
    tasks = [*gpu.sample.tasks, *(a_task(phase="exp2", width=width) for width in (10, 11))]
    gpu.sample.queue.sync(tasks)
    gpu.complete(gpu.ask(1))
    second = gpu.ask(1)
    gpu.sample.queue.priorities.ask("exp2", 1)
    assert gpu.ask(2) == "", "nothing is known of exp2"
    gpu.complete(second)
    assert gpu.ask(2)
    (lease,) = gpu.sample.queue.leases()
    assert lease.task.phase == "exp2"


def test_a_manager_that_starts_again_knows_who_shares_a_gpu() -> None:
    known = [PeakRecord("exp1", 15 * GIB)]
    before, after = SampleGpu(), SampleGpu()
    for gpu in (before, after):
        gpu.packing.recall(known)
    lease_id = before.ask(1)
    after.sample.queue.restore([before.sample.records[-1]])
    half_taken = a_gpu(23, p1=15)
    assert after.ask(2, half_taken) == "", "what its processes hold cannot be told before it shows up"
    assert after.sample.queue.heartbeat(lease_id, after.sample.key, after.worker(1))
    assert after.ask(2, half_taken)


def test_want_of_memory_beside_a_task_of_an_earlier_manager_costs_nothing() -> None:
    known = [PeakRecord("exp1", 15 * GIB)]
    before, after = SampleGpu(), SampleGpu()
    for gpu in (before, after):
        gpu.packing.recall(known)
    earlier_id = before.ask(1)
    after.sample.queue.restore([before.sample.records[-1]])
    assert after.sample.queue.heartbeat(earlier_id, after.sample.key, after.worker(1))
    assert after.ask(2, a_gpu(23, p1=15))
    after.packing.measured("exp1", PeakMemory(mib=38 * GIB, of_gpu=True), "GPU-0", earlier_id, is_whole=True)
    assert not after.records, "two tasks have held that"
    leases = after.sample.queue.leases()
    assert len(leases) == 2
    for lease in leases:
        assert after.packing.has_run_out(lease, Cause.OUT_OF_MEMORY, None)


@pytest.mark.parametrize("end", ["its worker asks again", "its worker is gone", "its worker hangs"])
def test_a_task_without_lease_counts_while_its_worker_has_not_heard_of_it(end: str) -> None:
    gpu = SampleGpu()
    gpu.packing.recall([PeakRecord("exp1", 15 * GIB)])
    assert gpu.ask(1)
    (lease,) = gpu.sample.queue.leases()
    still_there = a_gpu(10, p1=30)
    assert gpu.ask(2, still_there) == ""
    gpu.packing.abandon(lease)
    gpu.sample.queue.cancel(lease.task.key)
    assert not gpu.packing.must_look_again(gpu.worker(2)), "its memory is not free yet"
    assert gpu.ask(2, still_there) == ""
    match end:
        case "its worker asks again":
            assert gpu.ask(1, still_there)
        case "its worker is gone":
            assert gpu.ask(2, a_gpu(40))
        case _:
            gpu.sample.clock.now_s += packing.LEAVES_S
            assert gpu.packing.must_look_again(gpu.worker(2))
            assert gpu.ask(2, still_there)
    assert not gpu.packing._leaving


def test_want_of_memory_beside_a_cancelled_task_costs_nothing() -> None:
    gpu = SampleGpu()
    gpu.packing.recall([PeakRecord("exp1", 15 * GIB)])
    assert gpu.ask(1)
    (cancelled,) = gpu.sample.queue.leases()
    gpu.packing.abandon(cancelled)
    gpu.sample.queue.cancel(cancelled.task.key)
    assert gpu.ask(2, a_gpu(23, p1=17))
    (lease,) = gpu.sample.queue.leases()
    assert gpu.packing.has_run_out(lease, Cause.OUT_OF_MEMORY, None)


def test_a_setup_or_an_import_before_the_first_task_does_not_make_it_slow() -> None:
    gpu = SampleGpu(tasks=40)
    first = gpu.ask(1)
    gpu.sample.clock.now_s += 3600
    gpu.complete(first, ran_s=10)
    leases = [gpu.ask(number) for number in range(1, 9)]
    gpu.sample.clock.now_s += 100
    for lease_id in leases:
        gpu.complete(lease_id, ran_s=100)
    assert gpu.ask(1)
    assert gpu.ask(2) == "", "eight at a time get less done than one"


def simulated(seeds: Sequence[int]) -> float:
    ratios = [ratio(seed) for seed in seeds]
    print(f"median {median(ratios):.3f}, lowest {min(ratios):.3f} of the oracle's throughput")
    return median(ratios)


def test_no_simulated_task_fails_for_want_of_memory_and_most_of_an_oracles_throughput_is_had() -> None:
    assert simulated(range(12)) >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_holds_in_200_simulated_sweeps() -> None:
    assert simulated(range(200)) >= 0.9
