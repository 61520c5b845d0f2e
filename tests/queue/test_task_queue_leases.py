"""How long a lease lasts, duplicates, edits of the sweep, and what outlives the manager."""

from collections.abc import Iterable

import pytest

from distexp.queue.entry import WorkerInfo
from distexp.queue.task_queue import REATTACH_S, RECONNECT_S
from distexp.task import Cause, State, Task, TaskRecord
from tests.desk import CPU0, CPU1, Desk
from tests.row_cases import a_task, tasks_of

SCRIPT = WorkerInfo("script", None)  # a hand-written client: it never beats


def lost(desk: Desk) -> int:
    """End the leases whose time is up, as the manager does, and return how many."""
    overdue = desk.queue.overdue()
    for lease in overdue:
        desk.queue.lose(lease.lease_id, lease.task.key)
    return len(overdue)


# -- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "term_s"), [(CPU0, 60), (WorkerInfo("a", 0.5), 2), (SCRIPT, 7200)])
def test_a_lease_ends_after_four_missed_heartbeats_or_two_silent_hours(
    worker: WorkerInfo, term_s: float
) -> None:
    desk = Desk()
    lease = desk.assign(worker)
    desk.clock.advance(term_s - 1)
    assert desk.queue.overdue() == []
    assert desk.queue.heartbeat(lease.lease_id, desk.key, worker)
    desk.clock.advance(term_s - 1)
    assert lost(desk) == 0
    desk.clock.advance(1)
    assert lost(desk) == 1
    assert desk.state() is State.PENDING


def test_a_worker_has_ten_seconds_to_come_back_on_a_new_connection() -> None:
    desk = Desk(2)
    gone = desk.assign(WorkerInfo("cpu0", 15.0, connection=1))
    back = desk.assign(WorkerInfo("cpu1", 15.0, connection=1))
    assert {lease.lease_id for lease in desk.queue.disconnect(1)} == {gone.lease_id, back.lease_id}
    desk.clock.advance(RECONNECT_S - 1)
    assert lost(desk) == 0
    assert desk.queue.heartbeat(back.lease_id, back.task.key, WorkerInfo("cpu1", 15.0, connection=2))
    desk.clock.advance(1)
    assert [lease.lease_id for lease in desk.queue.overdue()] == [gone.lease_id]
    assert lost(desk) == 1
    assert desk.queue.disconnect(1) == [], "the lease lives on the new connection now"
    assert desk.state(back.task) is State.ASSIGNED


def test_a_broken_connection_lengthens_no_lease() -> None:
    desk = Desk()
    desk.assign(WorkerInfo("cpu0", 15.0, connection=1))
    desk.clock.advance(59)
    desk.queue.disconnect(1)
    desk.clock.advance(1)
    assert lost(desk) == 1


def test_a_client_that_never_heartbeats_may_disconnect() -> None:
    desk = Desk()
    desk.assign(WorkerInfo("script", None, connection=1))
    assert desk.queue.disconnect(1) == []
    desk.clock.advance(7199)
    assert lost(desk) == 0


def test_the_first_heartbeat_after_a_loss_takes_the_task_up_again_while_nobody_has_it() -> None:
    desk = Desk()
    lease = desk.assign()
    desk.queue.lose(lease.lease_id, desk.key)
    assert desk.queue.heartbeat(lease.lease_id, desk.key, CPU0)
    assert [(each.lease_id, each.attempt) for each in desk.queue.leases()] == [(lease.lease_id, 1)]
    desk.queue.lose(lease.lease_id, desk.key)
    desk.assign(CPU1)
    assert not desk.queue.heartbeat(lease.lease_id, desk.key, CPU0), "another worker has it: stop"


@pytest.mark.parametrize("ending", ["release", "fail", "cancel"])
def test_a_late_heartbeat_does_not_take_up_what_was_given_back(ending: str) -> None:
    desk = Desk()
    lease = desk.assign()
    match ending:
        case "release":
            desk.queue.release(lease.lease_id, desk.key)
        case "fail":
            desk.queue.fail(lease.lease_id, desk.key, Cause.ERROR, "boom")
        case "cancel":
            desk.queue.cancel(desk.key)
            desk.queue.requeue(desk.key)
    assert not desk.queue.heartbeat(lease.lease_id, desk.key, CPU0)
    assert desk.state() is State.PENDING


# -- duplicates --------------------------------------------------------------------------------------------


def duplicates() -> Desk:
    return Desk([a_task(phase="exp1"), a_task(phase="exp2")])


def test_the_same_work_in_two_phases_runs_once_and_is_copied() -> None:
    desk = duplicates()
    first = desk.assign()
    assert desk.queue.assign(CPU1) is None
    assert desk.queue.duplicate_copies() == []
    desk.queue.complete(first.task.key)
    assert desk.queue.assign(CPU1) is None
    assert desk.queue.duplicate_copies() == [(desk.tasks[0], desk.tasks[1])]
    assert not desk.queue.is_over()
    desk.queue.complete(desk.tasks[1].key)
    assert desk.queue.duplicate_copies() == []
    assert desk.queue.is_over()


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED, State.WITHDRAWN, State.PENDING])
def test_a_waiting_duplicate_becomes_eligible_when_the_first_ends_without_a_row(end: State) -> None:
    desk = duplicates()
    lease = desk.assign()
    assert desk.queue.assign(CPU1) is None, "this look drops the duplicate from the line"
    match end:
        case State.FAILED:
            desk.queue.fail(lease.lease_id, desk.key, Cause.ERROR, "no", retry=False)
        case State.CANCELLED:
            desk.queue.cancel(desk.key)
        case State.WITHDRAWN:
            desk.queue.sync(desk.tasks[1:])
            desk.queue.complete(desk.key)
        case State.PENDING:
            desk.queue.lose(lease.lease_id, desk.key)
            desk.queue.cancel(desk.key)
    assert desk.assign(CPU1).task == desk.tasks[1]


def test_a_lost_worker_does_not_come_back_to_a_task_whose_duplicate_runs() -> None:
    desk = duplicates()
    lease = desk.assign()
    desk.queue.lose(lease.lease_id, desk.key)
    desk.queue.cancel(desk.key)
    other = desk.assign(CPU1)
    desk.queue.requeue(desk.key)
    assert other.task == desk.tasks[1]
    assert not desk.queue.heartbeat(lease.lease_id, desk.key, CPU0)
    assert desk.queue.assign(CPU0) is None


# -- edits of the sweep ------------------------------------------------------------------------------------


def test_an_edit_withdraws_pending_tasks_and_takes_them_back() -> None:
    desk = Desk(4)
    desk.assign()
    desk.queue.complete(desk.tasks[1].key)
    assert desk.queue.sync([]) == (0, 2)
    assert [desk.state(task) for task in desk.tasks] == ["assigned", "complete", "withdrawn", "withdrawn"]
    assert desk.queue.sync(desk.tasks) == (2, 0)
    assert {desk.assign().task.key, desk.assign().task.key} == {task.key for task in desk.tasks[2:]}


@pytest.mark.parametrize("ending", ["lose", "release"])
def test_a_running_task_that_left_the_sweep_is_withdrawn_when_it_comes_back(ending: str) -> None:
    desk = Desk()
    lease = desk.assign()
    assert desk.queue.sync([]) == (0, 0)
    assert desk.queue.heartbeat(lease.lease_id, desk.key, CPU0), "it may finish"
    getattr(desk.queue, ending)(lease.lease_id, desk.key)
    assert desk.state() is State.WITHDRAWN
    is_back = desk.queue.heartbeat(lease.lease_id, desk.key, CPU0)
    assert is_back is (ending == "lose"), "a worker that was only thought to be lost may finish it"


def test_what_left_the_sweep_is_not_run_again() -> None:
    desk = Desk(2)
    desk.queue.cancel(desk.tasks[0].key)
    desk.queue.complete(desk.tasks[1].key)
    desk.queue.sync([])
    assert not desk.queue.requeue(desk.tasks[0].key)
    assert not desk.queue.reset_complete(desk.tasks[1].key)


# -- after a restart ---------------------------------------------------------------------------------------


def after_restart(desk: Desk, *, retry_failed: bool = False, tasks: Iterable[Task] = ()) -> Desk:
    """A later manager's queue, filled from what the first one recorded: the last record of each key."""
    later = Desk(list(tasks) or desk.tasks)
    last: dict[str, TaskRecord] = {record.key: record for record in desk.records}
    later.queue.restore(last.values(), retry_failed=retry_failed)
    return later


def test_a_known_lease_gets_a_minute_to_show_up_after_a_restart() -> None:
    desk = Desk()
    lease = desk.assign()
    later = after_restart(desk)
    assert later.queue.assign(CPU1) is None
    later.clock.advance(REATTACH_S - 1)
    assert later.queue.heartbeat(lease.lease_id, later.key, CPU0)
    assert later.queue.leases()[0].attempt == 1
    later = after_restart(desk)
    later.clock.advance(REATTACH_S)
    assert lost(later) == 1
    assert later.assign(CPU1).attempt == 2


def test_a_lease_without_heartbeats_keeps_its_two_hours_over_a_restart() -> None:
    desk = Desk()
    desk.assign(SCRIPT)
    later = after_restart(desk)
    later.clock.advance(7199)
    assert lost(later) == 0
    later.clock.advance(1)
    assert lost(later) == 1


def test_budgets_and_memory_outlive_the_manager() -> None:
    desk = Desk(2)
    lease = desk.assign(WorkerInfo("gpu0", 15.0, memory_mib=8000))
    desk.queue.fail(lease.lease_id, desk.key, Cause.OUT_OF_MEMORY, "too big")
    later = after_restart(desk)
    entry = later.queue.entry(desk.key)
    assert (entry.failures, entry.attempts, entry.last_worker, entry.error) == (1, 1, "gpu0", "too big")
    small, large = WorkerInfo("gpu1", 15.0, memory_mib=8000), WorkerInfo("gpu2", 15.0, memory_mib=16000)
    assert later.assign(small).task == desk.tasks[1], "not the one that needs a larger card"
    assert later.queue.assign(small) is None
    assert later.assign(large).attempt == 2


def ended(cause: Cause, state: State) -> Desk:
    desk = Desk()
    lease = desk.assign()
    if state is State.FAILED:
        desk.queue.fail(lease.lease_id, desk.key, cause, "no", retry=False)
    else:
        desk.queue.cancel(desk.key, cause=cause)
    return desk


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


def test_rows_win_over_the_journal_and_foreign_records_are_left_alone() -> None:
    desk = ended(Cause.ERROR, State.FAILED)
    later = Desk(tasks_of(2))
    later.queue.complete(later.key)
    later.queue.restore([*desk.records, TaskRecord(key="of another sweep", state="failed")])
    assert [later.state(task) for task in later.tasks] == [State.COMPLETE, State.PENDING]


def test_a_lease_whose_row_came_while_no_manager_was_there_is_remembered_no_longer() -> None:
    desk = Desk()
    desk.assign()
    later = Desk()
    later.queue.complete(later.key)
    later.queue.restore(desk.records[-1:])
    [record] = later.records
    assert (record.state, record.lease) == ("complete", None)
