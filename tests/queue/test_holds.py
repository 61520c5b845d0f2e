"""A phase whose tasks all fail costs a few attempts; one bad value or one bad worker holds nobody up."""

from collections.abc import Callable

import pytest

from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.holds import DECIDING_S, HOLD_AFTER
from distexp.queue.task_queue import FAILURE_BUDGET, TaskQueue
from distexp.task import Cause, State, Task
from tests.queue.sample_queue import CPU0, CPU1, SampleQueue
from tests.row_cases import a_task
from tests.support import Clock

WORKERS = (CPU0, CPU1)


def sweep(slow: int = 4, fast: int = 10, phase: str = "exp1") -> list[Task]:
    """Tasks in the order of a sweep: `width` varies slowest."""
    return [a_task(width=width, lr=lr, phase=phase, of=phase) for width in range(slow) for lr in range(fast)]


def run(
    sample: SampleQueue,
    fails: Callable[[Task, WorkerInfo], bool],
    workers: tuple[WorkerInfo, ...] = WORKERS,
    cause: Cause = Cause.ERROR,
) -> int:
    """Let the workers run one task at a time until none gets one; return the number of attempts."""
    attempts = 0
    while True:
        leases = [lease for worker in workers if (lease := sample.queue.assign(worker)) is not None]
        for lease in leases:
            attempts += 1
            if fails(lease.task, lease.worker):
                sample.queue.fail(lease.lease_id, lease.task.key, cause, "Traceback\nNameError: x")
            else:
                sample.queue.complete(lease.task.key)
        if not leases:
            return attempts


def run_in_turns(sample: SampleQueue, cause: Cause) -> int:
    """Let every task fail, of two workers that end theirs in turns; return the number of attempts."""
    running, attempts = [sample.assign(worker) for worker in WORKERS], len(WORKERS)
    while running:
        lease = running.pop(0)
        sample.queue.fail(lease.lease_id, lease.task.key, cause, "Traceback\nNameError: x")
        for worker in {lease.worker, *WORKERS} - {each.worker for each in running}:
            if (new := sample.queue.assign(worker)) is not None:
                running.append(new)
                attempts += 1
    return attempts


@pytest.mark.parametrize("cause", [Cause.ERROR, Cause.CRASH, Cause.TIMEOUT])
def test_a_phase_whose_tasks_all_fail_is_held_after_five_and_no_budget_is_spent(cause: Cause) -> None:
    sample = SampleQueue(sweep(72))
    assert run_in_turns(sample, cause) == HOLD_AFTER
    assert sample.queue.counts()[State.PENDING] == 720
    assert sum(entry.failures for entry in sample.queue.entries()) == 0
    (why,) = sample.queue.holds.explain().values()
    assert why == "5 different tasks failed and none succeeded (each: NameError: x)"
    assert not sample.queue.can_run()
    assert not sample.queue.is_over()


def test_a_worker_waits_a_moment_only_for_the_attempt_that_decides() -> None:
    sample = SampleQueue(sweep())
    for _ in range(HOLD_AFTER - 1):
        lease = sample.assign()
        sample.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "no")
    deciding = sample.assign()
    assert sample.queue.assign(CPU1) is None
    sample.clock.advance(DECIDING_S)
    assert sample.queue.assign(CPU1) is not None
    sample.queue.release(deciding.lease_id, deciding.task.key)
    sample.clock.advance(DECIDING_S)
    assert sample.queue.assign(CPU0) is not None


def test_the_error_that_most_tasks_share_is_named() -> None:
    sample, errors = SampleQueue(sweep()), iter("aabab")
    for _ in range(HOLD_AFTER):
        lease = sample.assign()
        sample.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, next(errors))
    (why,) = sample.queue.holds.explain().values()
    assert why.endswith("(3 times: a)")


@pytest.mark.parametrize("workers", [1, 2, 8, 40])
@pytest.mark.parametrize("bad", [0, 3])
def test_one_bad_value_of_the_slowest_axis_holds_nobody(workers: int, bad: int) -> None:
    sample = SampleQueue(sweep(8, 50))
    some = tuple(WorkerInfo(f"cpu{number}", 15.0) for number in range(workers))
    run(sample, lambda task, worker: task.config["width"] == bad, some)
    assert sample.queue.holds.explain() == {}
    assert sample.queue.counts()[State.COMPLETE] == 350
    assert sample.queue.counts()[State.FAILED] == 50


def test_one_bad_worker_holds_nobody_for_longer_than_another_needs_for_a_task() -> None:
    sample = SampleQueue(sweep())
    attempts = run(sample, lambda task, worker: True, (CPU0,))
    assert attempts == HOLD_AFTER, "it is alone: the phase is held"
    run(sample, lambda task, worker: worker == CPU0)
    assert sample.queue.holds.explain() == {}
    assert sample.queue.counts()[State.COMPLETE] + sample.queue.counts()[State.FAILED] == len(sample.tasks)


def test_a_worker_that_is_new_to_a_held_phase_gets_one_trial() -> None:
    sample = SampleQueue(sweep())
    run(sample, lambda task, worker: True)
    late = WorkerInfo("cpu2", 15.0, instance="a")
    lease = sample.assign(late)
    assert sample.queue.assign(late) is None
    assert sample.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "no") is State.PENDING
    assert sample.queue.entry(lease.task.key).failures == 0
    assert sample.queue.assign(late) is None
    restarted = sample.assign(WorkerInfo("cpu2", 15.0, instance="b"))
    sample.queue.complete(restarted.task.key)
    assert sample.queue.holds.explain() == {}, "a success ends the hold"
    assert sample.queue.assign(late) is not None


@pytest.mark.parametrize(
    "take_back",
    [
        lambda queue, lease: queue.release(lease.lease_id, lease.task.key),
        lambda queue, lease: queue.lose(lease.lease_id, lease.task.key),
        lambda queue, lease: queue.unassign(lease),
        lambda queue, lease: queue.cancel(lease.task.key),
    ],
    ids=["given back", "lost", "not journalled", "cancelled"],
)
def test_a_task_that_says_nothing_of_a_held_phase_is_no_trial(
    take_back: Callable[[TaskQueue, Lease], object],
) -> None:
    sample = SampleQueue(sweep())
    run(sample, lambda task, worker: True)
    late = WorkerInfo("cpu2", 15.0)
    take_back(sample.queue, sample.assign(late))
    lease = sample.assign(late)
    sample.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "no")
    assert sample.queue.assign(late) is None
    assert [sample.queue.assign(each) for each in WORKERS] == [None, None], "they have had theirs"


def test_a_held_phase_holds_up_no_other_phase() -> None:
    sample = SampleQueue([*sweep(), *sweep(phase="exp2")])
    run(sample, lambda task, worker: task.phase == "exp1")
    assert list(sample.queue.holds.explain()) == ["exp1"]
    assert sample.queue.counts()[State.COMPLETE] == 40


def test_retries_wait_behind_first_attempts_until_a_task_succeeds() -> None:
    sample = SampleQueue(sweep())
    first = sample.assign()
    sample.queue.fail(first.lease_id, first.task.key, Cause.ERROR, "no")
    assert sample.assign(CPU1).task.key != first.task.key
    sample.queue.complete(sample.assign(CPU1).task.key)
    assert sample.assign(CPU1).task.key == first.task.key


def test_a_phase_of_few_tasks_fails_by_its_budgets() -> None:
    sample = SampleQueue(sweep(1, HOLD_AFTER - 1))
    assert run(sample, lambda task, worker: True) == FAILURE_BUDGET * (HOLD_AFTER - 1)
    assert sample.queue.is_over()


def test_ending_a_hold_lets_workers_import_anew_and_counts_from_the_start() -> None:
    sample = SampleQueue([*sweep(), *sweep(phase="exp2")])
    run(sample, lambda task, worker: task.phase == "exp1")
    assert sample.queue.holds.end_all() == ["exp1"]
    assert sample.queue.holds.end_all() == []
    assert [sample.queue.holds.code_version(phase) for phase in ("exp1", "exp2")] == [1, 0]
    assert run(sample, lambda task, worker: True) >= HOLD_AFTER
    sample.queue.holds.end_all()
    run(sample, lambda task, worker: False)
    assert sample.queue.counts()[State.COMPLETE] == 80


def not_imported(queue: TaskQueue, lease: Lease, error: str) -> bool:
    return queue.not_begun(lease.lease_id, lease.task.key, Cause.IMPORT, error)


def test_an_import_that_fails_holds_at_once_and_costs_nothing() -> None:
    sample = SampleQueue(sweep())
    one, two = sample.assign(CPU0), sample.assign(CPU1)
    for lease in (one, two):
        assert not_imported(sample.queue, lease, "mine:run cannot be imported: no")
        assert sample.queue.entry(lease.task.key).failures == 0
    assert sample.queue.holds.explain() == {"exp1": "mine:run cannot be imported: no"}
    assert not not_imported(sample.queue, one, "late")


def test_keep_going_holds_nothing() -> None:
    queue = TaskQueue(Clock(), lambda record: None, keep_going=True)
    tasks = sweep(2, 5)
    queue.sync(tasks)
    while (lease := queue.assign(CPU0)) is not None:
        assert not not_imported(queue, lease, "no")
        queue.fail(lease.lease_id, lease.task.key, Cause.IMPORT, "no")
    assert queue.counts()[State.FAILED] == len(tasks)


def test_a_host_whose_setup_fails_gets_no_task_of_the_phase_though_others_do() -> None:
    sample = SampleQueue([*sweep(), *sweep(phase="exp2")])
    bad = sample.assign(CPU0)
    assert sample.queue.not_begun(bad.lease_id, bad.task.key, Cause.SETUP, "setup failed")
    assert sample.queue.holds.explain() == {"exp1": "setup failed"}
    good = sample.assign(CPU1)
    assert good.task.phase == "exp1", "its trial"
    sample.queue.complete(good.task.key)
    assert sample.queue.holds.explain() == {}
    assert sample.assign(CPU0).task.phase == "exp2"
    assert sample.queue.queries.phases_left() == {"exp1", "exp2"}
    assert [sample.queue.holds.unable(each) for each in (CPU0, CPU1)] == [{"exp1"}, set()]
    sample.queue.holds.end_all()
    assert sample.queue.holds.code_version("exp1") == 1, "it runs the setup again"
    assert sample.assign(CPU0).task.phase == "exp1", "somebody has fixed it"


def test_a_phase_that_has_worked_is_held_too_and_no_worker_tries_it_again_and_again() -> None:
    sample = SampleQueue(sweep())
    sample.queue.complete(sample.assign().task.key)
    for cause in (Cause.IMPORT, Cause.SETUP):
        broken = sample.assign()
        assert sample.queue.not_begun(broken.lease_id, broken.task.key, cause, "no")
        assert sample.queue.assign(CPU0) is None
        sample.queue.holds.end_all()
