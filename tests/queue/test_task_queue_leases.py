"""How long a lease lasts, duplicates, edits of the sweep, and what outlives the manager."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from distexp.queue.entry import REATTACH_S, RECONNECT_S, WorkerInfo
from distexp.queue.records import TaskRecord
from distexp.task import Cause, State, Task
from tests.queue.sample_queue import CPU0, CPU1, SampleQueue
from tests.row_cases import a_task, tasks_of

SCRIPT = WorkerInfo("script", None)  # a hand-written client: it sends no heartbeats


def lost(sample: SampleQueue) -> int:
    """End the leases whose time is up, as the manager does, and return how many."""
    overdue = sample.queue.overdue(sample.clock())
    for lease in overdue:
        sample.queue.lose(lease.lease_id, lease.task.key)
    return len(overdue)


# -- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "term_s"), [(CPU0, 60), (WorkerInfo("a", 0.5), 2), (SCRIPT, 7200)])
def test_a_lease_ends_after_four_missed_heartbeats_or_two_silent_hours(
    worker: WorkerInfo, term_s: float
) -> None:
    sample = SampleQueue()
    lease = sample.assign(worker)
    sample.clock.advance(term_s - 1)
    assert sample.queue.overdue(sample.clock()) == []
    assert sample.queue.heartbeat(lease.lease_id, sample.key, worker)
    sample.clock.advance(term_s - 1)
    assert lost(sample) == 0
    sample.clock.advance(1)
    assert lost(sample) == 1
    assert sample.state() is State.PENDING


def test_a_worker_has_ten_seconds_to_come_back_on_a_new_connection() -> None:
    sample = SampleQueue(2)
    gone = sample.assign(WorkerInfo("cpu0", 15.0, connection=1))
    back = sample.assign(WorkerInfo("cpu1", 15.0, connection=1))
    assert {lease.lease_id for lease in sample.queue.disconnect(1)} == {gone.lease_id, back.lease_id}
    sample.clock.advance(RECONNECT_S - 1)
    assert lost(sample) == 0
    assert sample.queue.heartbeat(back.lease_id, back.task.key, WorkerInfo("cpu1", 15.0, connection=2))
    sample.clock.advance(1)
    assert [lease.lease_id for lease in sample.queue.overdue(sample.clock())] == [gone.lease_id]
    assert lost(sample) == 1
    assert sample.queue.disconnect(1) == [], "the lease lives on the new connection now"
    assert sample.state(back.task) is State.ASSIGNED


def test_a_broken_connection_lengthens_no_lease() -> None:
    sample = SampleQueue()
    sample.assign(WorkerInfo("cpu0", 15.0, connection=1))
    sample.clock.advance(59)
    sample.queue.disconnect(1)
    sample.clock.advance(1)
    assert lost(sample) == 1


def test_a_client_that_never_heartbeats_may_disconnect() -> None:
    sample = SampleQueue()
    sample.assign(WorkerInfo("script", None, connection=1))
    assert sample.queue.disconnect(1) == []
    sample.clock.advance(7199)
    assert lost(sample) == 0


def test_the_first_heartbeat_after_a_loss_takes_the_task_up_again_while_nobody_has_it() -> None:
    sample = SampleQueue()
    lease = sample.assign()
    sample.queue.lose(lease.lease_id, sample.key)
    assert sample.queue.heartbeat(lease.lease_id, sample.key, CPU0)
    assert [(each.lease_id, each.attempt) for each in sample.queue.leases()] == [(lease.lease_id, 1)]
    sample.queue.lose(lease.lease_id, sample.key)
    sample.assign(CPU1)
    assert not sample.queue.heartbeat(lease.lease_id, sample.key, CPU0), "another worker has it: stop"


def test_a_task_whose_worker_was_lost_comes_first_for_one_that_follows_under_its_name() -> None:
    sample = SampleQueue(2)
    lease = sample.assign()
    sample.queue.lose(lease.lease_id, sample.key)
    assert sample.assign().task.key == sample.key


@pytest.mark.parametrize(("is_alone", "first"), [(False, 1), (True, 0)])
def test_a_task_whose_worker_was_lost_twice_goes_to_another_if_there_is_one(
    first: int, *, is_alone: bool
) -> None:
    sample = SampleQueue(3)
    for _ in range(2):
        lease = sample.assign()
        assert lease.task == sample.tasks[0]
        sample.queue.lose(lease.lease_id, sample.key)
    assert sample.assign(replace(CPU0, is_alone=is_alone)).task == sample.tasks[first]
    assert sample.assign(CPU1).task == sample.tasks[0 if first else 1]


@pytest.mark.parametrize("ending", ["release", "fail", "cancel"])
def test_a_late_heartbeat_does_not_take_up_what_was_given_back(ending: str) -> None:
    sample = SampleQueue()
    lease = sample.assign()
    match ending:
        case "release":
            sample.queue.release(lease.lease_id, sample.key)
        case "fail":
            sample.queue.fail(lease.lease_id, sample.key, Cause.ERROR, "boom")
        case "cancel":
            sample.queue.cancel(sample.key)
            sample.queue.requeue(sample.key)
    assert not sample.queue.heartbeat(lease.lease_id, sample.key, CPU0)
    assert sample.state() is State.PENDING


# -- duplicates --------------------------------------------------------------------------------------------


def duplicates() -> SampleQueue:
    return SampleQueue([a_task(phase="exp1"), a_task(phase="exp2")])


def test_the_same_work_in_two_phases_runs_once_and_is_copied() -> None:
    sample = duplicates()
    first = sample.assign()
    assert sample.queue.assign(CPU1) is None
    assert sample.queue.queries.duplicate_copies() == []
    sample.queue.complete(first.task.key)
    assert sample.queue.assign(CPU1) is None
    assert sample.queue.queries.duplicate_copies() == [(sample.tasks[0], sample.tasks[1])]
    assert not sample.queue.is_over()
    sample.queue.complete(sample.tasks[1].key)
    assert sample.queue.queries.duplicate_copies() == []
    assert sample.queue.is_over()


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED, State.WITHDRAWN, State.PENDING])
def test_a_waiting_duplicate_becomes_eligible_when_the_first_ends_without_a_row(end: State) -> None:
    sample = duplicates()
    lease = sample.assign()
    assert sample.queue.assign(CPU1) is None, "this look drops the duplicate from the line"
    match end:
        case State.FAILED:
            sample.queue.fail(lease.lease_id, sample.key, Cause.ERROR, "no", retry=False)
        case State.CANCELLED:
            sample.queue.cancel(sample.key)
        case State.WITHDRAWN:
            sample.queue.sync(sample.tasks[1:])
            sample.queue.complete(sample.key)
        case State.PENDING:
            sample.queue.lose(lease.lease_id, sample.key)
            sample.queue.cancel(sample.key)
    assert sample.assign(CPU1).task == sample.tasks[1]


def test_a_lost_worker_does_not_come_back_to_a_task_whose_duplicate_runs() -> None:
    sample = duplicates()
    lease = sample.assign()
    sample.queue.lose(lease.lease_id, sample.key)
    sample.queue.cancel(sample.key)
    other = sample.assign(CPU1)
    sample.queue.requeue(sample.key)
    assert other.task == sample.tasks[1]
    assert not sample.queue.heartbeat(lease.lease_id, sample.key, CPU0)
    assert sample.queue.assign(CPU0) is None


# -- edits of the sweep ------------------------------------------------------------------------------------


def test_an_edit_withdraws_pending_tasks_and_takes_them_back() -> None:
    sample = SampleQueue(4)
    sample.assign()
    sample.queue.complete(sample.tasks[1].key)
    assert sample.queue.sync([]) == (0, 2)
    assert [sample.state(task) for task in sample.tasks] == ["assigned", "complete", "withdrawn", "withdrawn"]
    assert sample.queue.sync(sample.tasks) == (2, 0)
    assert {sample.assign().task.key, sample.assign().task.key} == {task.key for task in sample.tasks[2:]}


@pytest.mark.parametrize("ending", ["lose", "release"])
def test_a_running_task_that_left_the_sweep_is_withdrawn_when_it_comes_back(ending: str) -> None:
    sample = SampleQueue()
    lease = sample.assign()
    assert sample.queue.sync([]) == (0, 0)
    assert sample.queue.heartbeat(lease.lease_id, sample.key, CPU0), "it may finish"
    getattr(sample.queue, ending)(lease.lease_id, sample.key)
    assert sample.state() is State.WITHDRAWN
    is_back = sample.queue.heartbeat(lease.lease_id, sample.key, CPU0)
    assert is_back is (ending == "lose"), "a worker that was only thought to be lost may finish it"


def test_what_left_the_sweep_is_not_run_again() -> None:
    sample = SampleQueue(2)
    sample.queue.cancel(sample.tasks[0].key)
    sample.queue.complete(sample.tasks[1].key)
    sample.queue.sync([])
    assert not sample.queue.requeue(sample.tasks[0].key)
    assert not sample.queue.reset_complete(sample.tasks[1].key)


# -- after a restart ---------------------------------------------------------------------------------------


def after_restart(
    sample: SampleQueue, *, retry_failed: bool = False, tasks: Iterable[Task] = ()
) -> SampleQueue:
    """A later manager's queue, filled from what the first one recorded: the last record of each key."""
    later = SampleQueue(list(tasks) or sample.tasks)
    last: dict[str, TaskRecord] = {record.key: record for record in sample.records}
    later.queue.restore(last.values(), retry_failed=retry_failed)
    return later


def test_a_known_lease_gets_a_minute_to_show_up_after_a_restart() -> None:
    sample = SampleQueue()
    lease = sample.assign()
    later = after_restart(sample)
    assert later.queue.assign(CPU1) is None
    later.clock.advance(REATTACH_S - 1)
    assert later.queue.heartbeat(lease.lease_id, later.key, CPU0)
    assert later.queue.leases()[0].attempt == 1
    later = after_restart(sample)
    later.clock.advance(REATTACH_S)
    assert lost(later) == 1
    assert later.assign(CPU1).attempt == 2


def test_the_minute_to_show_up_is_serving_time_summed_over_restarts() -> None:
    sample = SampleQueue()
    sample.assign()
    for _ in range(2):
        sample = after_restart(sample)
        sample.clock.advance(25)
        now_s = sample.clock()
        sample.queue.update_leases(lambda lease, now_s=now_s: lease.waited(now_s), is_recorded=True)  # type: ignore[misc]
    sample = after_restart(sample)
    sample.clock.advance(9)
    assert lost(sample) == 0
    sample.clock.advance(1)
    assert lost(sample) == 1


def test_a_worker_that_showed_up_has_its_minute_again_at_the_next_restart() -> None:
    sample = SampleQueue()
    lease = sample.assign()
    sample = after_restart(sample)
    now_s = sample.clock() + 40
    sample.queue.update_leases(lambda each: each.waited(now_s), is_recorded=True)
    assert sample.queue.heartbeat(lease.lease_id, sample.key, replace(CPU0, connection=1))
    sample = after_restart(sample)
    sample.clock.advance(59)
    assert lost(sample) == 0


def test_after_a_pause_of_the_manager_every_lease_has_a_fresh_term() -> None:
    sample = SampleQueue(2)
    sample.assign()
    gone = sample.assign(WorkerInfo("cpu1", 15.0, connection=1))
    sample.queue.disconnect(1)
    sample.clock.advance(75)
    now_s = sample.clock()
    sample.queue.update_leases(lambda lease: lease.extended(75, now_s))
    assert lost(sample) == 0
    sample.clock.advance(59)
    assert lost(sample) == 0
    sample.clock.advance(1)
    assert lost(sample) == 2
    assert gone.until_s < now_s


def test_a_lease_without_heartbeats_keeps_its_two_hours_over_a_restart() -> None:
    sample = SampleQueue()
    sample.assign(SCRIPT)
    later = after_restart(sample)
    later.clock.advance(7199)
    assert lost(later) == 0
    later.clock.advance(1)
    assert lost(later) == 1


def test_budgets_and_memory_outlive_the_manager() -> None:
    sample = SampleQueue(2)
    lease = sample.assign(WorkerInfo("gpu0", 15.0, memory_mib=8000))
    sample.queue.fail(lease.lease_id, sample.key, Cause.OUT_OF_MEMORY, "too big")
    later = after_restart(sample)
    entry = later.queue.entry(sample.key)
    assert (entry.failures, entry.attempts, entry.last_worker, entry.error) == (1, 1, "gpu0", "too big")
    small, large = WorkerInfo("gpu1", 15.0, memory_mib=8000), WorkerInfo("gpu2", 15.0, memory_mib=16000)
    assert later.assign(small).task == sample.tasks[1], "not the one that needs a larger GPU"
    assert later.queue.assign(small) is None
    assert later.assign(large).attempt == 2


def ended(cause: Cause, state: State) -> SampleQueue:
    sample = SampleQueue()
    lease = sample.assign()
    if state is State.FAILED:
        sample.queue.fail(lease.lease_id, sample.key, cause, "no", retry=False)
    else:
        sample.queue.cancel(sample.key, cause=cause)
    return sample


def test_failures_and_cancellations_stand_after_a_restart_unless_a_retry_is_asked_for() -> None:
    failed, cancelled = ended(Cause.ERROR, State.FAILED), ended(Cause.ERROR, State.CANCELLED)
    assert after_restart(failed).state() is State.FAILED
    assert after_restart(failed, retry_failed=True).state() is State.PENDING
    assert after_restart(cancelled).state() is State.CANCELLED
    assert after_restart(cancelled, retry_failed=True).state() is State.CANCELLED


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_import_failures_are_forgotten_by_a_restart(state: State) -> None:
    later = after_restart(ended(Cause.IMPORT, state))
    lease = later.assign()
    assert (lease.attempt, later.queue.entry(later.key).failures) == (2, 0)


def test_a_lease_outlives_the_manager_although_an_earlier_attempt_could_not_begin() -> None:
    sample = SampleQueue()
    sample.queue.complete(sample.key)
    sample.queue.reset_complete(sample.key, superseded="0ther")
    first = sample.assign()
    sample.queue.not_begun(first.lease_id, sample.key, Cause.IMPORT, "no module")
    sample.queue.holds.end_all()
    second = sample.assign()
    later = after_restart(sample)
    assert later.queue.assign(CPU1) is None, "it runs"
    assert later.queue.heartbeat(second.lease_id, later.key, CPU0)
    later.queue.release(second.lease_id, later.key)
    assert later.records[-1].superseded == "0ther", "its row does not count at the next restart either"


def test_rows_win_over_the_journal_and_foreign_records_are_left_alone() -> None:
    sample = ended(Cause.ERROR, State.FAILED)
    later = SampleQueue(tasks_of(2))
    later.queue.complete(later.key)
    later.queue.restore([*sample.records, TaskRecord(key="of another sweep", state="failed")])
    assert [later.state(task) for task in later.tasks] == [State.COMPLETE, State.PENDING]


def test_a_lease_whose_row_came_while_no_manager_was_there_is_remembered_no_longer() -> None:
    sample = SampleQueue()
    sample.assign()
    later = SampleQueue()
    later.queue.complete(later.key)
    later.queue.restore(sample.records[-1:])
    [record] = later.records
    assert (record.state, record.lease) == ("complete", None)


def test_the_journal_forgets_what_came_before_a_row_that_came_while_no_manager_was_there() -> None:
    failed = ended(Cause.ERROR, State.FAILED)
    later = SampleQueue(failed.tasks)
    later.queue.complete(later.key)
    later.records.clear()
    later.queue.restore(failed.records[-1:])
    assert [record.is_settled for record in later.records] == [True]
    later.queue.restore([*later.records])
    assert len(later.records) == 1, "it is told once"
