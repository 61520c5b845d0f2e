"""The table of states, and how tasks are assigned and given back."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from distexp.errors import IllegalTransition, UnknownTask
from distexp.queue.entry import TRANSITIONS, WorkerInfo
from distexp.queue.scheduler import RETRY_LOOK
from distexp.queue.task_queue import FAILURE_BUDGET, LOSS_BUDGET
from distexp.task import Cause, State, Task
from tests.desk import CPU1, Desk
from tests.row_cases import a_task

DESIGN_TABLE = """
pending            -> assigned | complete | cancelled | withdrawn
assigned           -> pending | complete | failed | cancelled
failed, cancelled  -> pending | complete
withdrawn          -> pending | complete
"""


# -- the table ---------------------------------------------------------------------------------------------


def test_the_table_is_the_one_of_the_design() -> None:
    moves: dict[State, set[State]] = {State.COMPLETE: set()}
    for line in DESIGN_TABLE.strip().splitlines():
        sources, targets = line.split("->")
        for source in sources.split(","):
            moves[State(source.strip())] = {State(each.strip()) for each in targets.split("|")}
    assert moves == TRANSITIONS


@pytest.mark.parametrize("target", State)
@pytest.mark.parametrize("source", State)
def test_a_move_outside_the_table_raises_and_changes_nothing(source: State, target: State) -> None:
    desk = Desk(2)
    desk.reach(source)
    before, counts, recorded = desk.queue.entry(desk.key), desk.queue.counts(), len(desk.records)
    entry = desk.queue._entries[desk.key]
    if target in TRANSITIONS[source]:
        desk.queue._transition(entry, target)
        assert desk.state() is target
        assert desk.queue.counts()[target] == counts[target] + 1
        return
    with pytest.raises(IllegalTransition) as error:
        desk.queue._transition(entry, target)
    assert str(error.value) == f"exp1_0_42: {source} -> {target} is not in the table"
    assert desk.queue.entry(desk.key) == before
    assert desk.queue.counts() == counts
    assert len(desk.records) == recorded


@pytest.mark.parametrize("source", [state for state in State if state is not State.COMPLETE])
def test_a_row_completes_a_task_from_every_state(source: State) -> None:
    desk = Desk(2)
    desk.reach(source)
    before = desk.queue.complete(desk.key)
    assert before is not None
    assert before.state is source
    assert desk.state() is State.COMPLETE
    assert desk.queue.complete(desk.key) is None
    assert desk.queue.leases() == []


def test_rows_complete_tasks_that_were_never_assigned_at_once_and_the_others_are_told() -> None:
    desk = Desk(4)
    assigned, cancelled, *unassigned = [task.key for task in desk.tasks]
    desk.assign()
    desk.queue.cancel(cancelled)
    recorded = len(desk.records)
    assert desk.queue.complete_unassigned({assigned, *unassigned, cancelled, "nope"}) == {assigned, cancelled}
    states = [State.ASSIGNED, State.CANCELLED, State.COMPLETE, State.COMPLETE]
    assert [desk.state(task) for task in desk.tasks] == states
    assert desk.queue.counts()[State.COMPLETE] == 2
    assert desk.queue.counts()[State.PENDING] == 0
    assert len(desk.records) == recorded
    assert desk.queue.complete_unassigned({*unassigned}) == set()


def test_unknown_keys_and_labels_are_refused_by_name() -> None:
    desk = Desk()
    with pytest.raises(UnknownTask, match="task nope: not in this sweep"):
        desk.queue.entry("nope")
    with pytest.raises(UnknownTask, match="task 'exp9_0_1': not in this sweep, expected a task id such as"):
        desk.queue.key_of("exp9_0_1")
    assert desk.queue.key_of("exp1_0_42") == desk.key
    assert desk.queue.complete("nope") is None


def test_entries_are_copies_in_the_order_of_the_sweep_of_all_states_or_one() -> None:
    desk = Desk(3)
    lease = desk.assign()
    desk.queue.fail(lease.lease_id, desk.key, Cause.ERROR, "boom", retry=False)
    assert [entry.task for entry in desk.queue.entries()] == desk.tasks
    assert desk.queue.entries(State.FAILED) == [desk.queue.entry(desk.key)]
    assert [entry.task for entry in desk.queue.entries(State.PENDING)] == desk.tasks[1:]
    (copy,) = desk.queue.entries(State.FAILED)
    copy.error = "another"
    assert desk.queue.entry(desk.key).error == "boom"


# -- budgets -----------------------------------------------------------------------------------------------


def test_three_failures_of_the_experiment_end_a_task() -> None:
    desk = Desk()
    states = []
    for _ in range(FAILURE_BUDGET):
        lease = desk.assign()
        states.append(desk.queue.fail(lease.lease_id, desk.key, Cause.ERROR, "boom"))
    assert states == [State.PENDING, State.PENDING, State.FAILED]
    entry = desk.queue.entry(desk.key)
    assert (entry.attempts, entry.failures, entry.cause, entry.error) == (3, 3, "error", "boom")
    assert desk.queue.is_over()


def test_five_losses_of_the_worker_end_a_task() -> None:
    desk = Desk()
    states = [desk.queue.lose(desk.assign().lease_id, desk.key) for _ in range(LOSS_BUDGET)]
    assert states == [State.PENDING] * 4 + [State.FAILED]
    assert desk.queue.entry(desk.key).error == "5 workers were lost while running it"


def test_each_budget_is_its_own_and_giving_back_costs_nothing() -> None:
    desk = Desk()
    for _ in range(FAILURE_BUDGET - 1):
        desk.queue.fail(desk.assign().lease_id, desk.key, Cause.CRASH, "boom")
    for _ in range(LOSS_BUDGET - 1):
        desk.queue.lose(desk.assign().lease_id, desk.key)
    for _ in range(20):
        assert desk.queue.release(desk.assign().lease_id, desk.key) is State.PENDING
    entry = desk.queue.entry(desk.key)
    assert (entry.failures, entry.losses, entry.attempts) == (2, 4, 26)


def test_reports_of_an_ended_lease_change_nothing() -> None:
    desk = Desk()
    old = desk.assign().lease_id
    desk.queue.lose(old, desk.key)
    new = desk.assign(CPU1)
    assert desk.queue.fail(old, desk.key, Cause.ERROR, "late") is None
    assert desk.queue.lose(old, desk.key) is None
    assert desk.queue.release(old, desk.key) is None
    entry = desk.queue.entry(desk.key)
    assert (entry.lease, entry.failures, entry.losses) == (new, 0, 1)


def test_requeue_gives_new_budgets_and_reset_complete_starts_all_over() -> None:
    desk = Desk(2)
    desk.reach(State.FAILED)
    assert desk.queue.requeue(desk.key)
    entry = desk.queue.entry(desk.key)
    assert (entry.state, entry.failures, entry.error, entry.attempts) == (State.PENDING, 0, "", 1)
    assert not desk.queue.requeue(desk.key)
    assert not desk.queue.reset_complete(desk.key)
    desk.queue.complete(desk.key)
    assert desk.queue.reset_complete(desk.key)
    assert (desk.records[-1].key, desk.records[-1].state) == (desk.key, "pending")
    entry = desk.queue.entry(desk.key)
    assert (entry.state, entry.attempts) == (State.PENDING, 0)
    assert [entry.task for entry in desk.queue.entries()] == desk.tasks
    assert {desk.assign().task.key, desk.assign(CPU1).task.key} == {task.key for task in desk.tasks}


# -- who gets a retry --------------------------------------------------------------------------------------


def test_a_retry_goes_to_another_worker_first_and_to_the_same_one_last() -> None:
    desk = Desk(3)
    first = desk.assign()
    desk.queue.fail(first.lease_id, desk.key, Cause.ERROR, "boom")
    assert [desk.assign().task, desk.assign(CPU1).task] == [desk.tasks[1], desk.tasks[0]]
    assert desk.assign().task == desk.tasks[2]
    second = desk.queue.entry(desk.key).lease
    assert second is not None
    desk.queue.fail(second.lease_id, desk.key, Cause.ERROR, "boom")
    assert desk.assign(CPU1).task == desk.tasks[0], "when nothing else is left, the same worker may try again"


def test_tasks_of_a_phase_that_takes_too_long_are_passed_over_and_keep_their_places() -> None:
    desk = Desk(
        [a_task(width=1, phase="long"), a_task(width=2, phase="long"), a_task(width=3, phase="short")]
    )
    desk.queue.release(desk.assign().lease_id, desk.key)
    hurried = WorkerInfo("cpu1", 15.0, too_long=frozenset({"long"}))
    assert desk.assign(hurried).task == desk.tasks[2]
    assert desk.queue.assign(hurried) is None
    assert [desk.assign(CPU1).task, desk.assign(CPU1).task] == desk.tasks[:2]


def test_those_that_fit_are_assigned_however_many_take_too_long_and_only_these_lack_time() -> None:
    desk = Desk([*(a_task(seed, phase="long") for seed in range(1500)), a_task(phase="short")])
    hurried = WorkerInfo("cpu1", 15.0, too_long=frozenset({"long"}))
    assert desk.assign(hurried).task == desk.tasks[-1]
    assert desk.queue.is_short_of_time(hurried)
    assert not desk.queue.is_short_of_time(WorkerInfo("cpu1", 15.0, too_long=frozenset({"short"})))
    for task in desk.tasks[:-1]:
        desk.queue.cancel(task.key)
    assert not desk.queue.is_short_of_time(hurried)


def test_retries_never_starve_behind_others_that_a_worker_may_not_have() -> None:
    desk = Desk(3 * RETRY_LOOK + 1)
    small = WorkerInfo("gpu0", 15.0, memory_mib=8000)
    leases = [desk.assign(small) for _ in desk.tasks]
    for lease in leases[:-1]:
        desk.queue.fail(lease.lease_id, lease.task.key, Cause.OUT_OF_MEMORY, "too big")
    desk.queue.lose(leases[-1].lease_id, leases[-1].task.key)
    assigned = [desk.queue.assign(small) for _ in range(4)]
    assert [lease.task for lease in assigned if lease] == [desk.tasks[-1]]


def test_out_of_memory_is_retried_on_a_larger_device_alone() -> None:
    desk = Desk()
    lease = desk.assign(WorkerInfo("gpu0", 15.0, memory_mib=8000))
    desk.queue.fail(lease.lease_id, desk.key, Cause.OUT_OF_MEMORY, "too big")
    for memory_mib in (0, 7000, 8000):
        assert desk.queue.assign(WorkerInfo("gpu1", 15.0, memory_mib=memory_mib)) is None
    assert desk.assign(WorkerInfo("gpu2", 15.0, memory_mib=8001)).attempt == 2


def test_what_needs_a_larger_device_than_there_is_fails_once_nothing_else_is_left() -> None:
    desk = Desk(2)
    small = WorkerInfo("gpu0", 15.0, memory_mib=8000)
    lease, other = desk.assign(small), desk.assign(small)
    desk.queue.fail(lease.lease_id, desk.key, Cause.OUT_OF_MEMORY, "too big")
    assert desk.queue.fail_unplaceable(lambda gpus: 8000) == [], "the other one runs"
    desk.queue.release(other.lease_id, other.task.key)
    assert desk.queue.fail_unplaceable(lambda gpus: 8000) == [], "the other one waits"
    desk.queue.complete(other.task.key)
    assert desk.queue.fail_unplaceable(lambda gpus: 8001) == [], "a larger device is there"
    assert [entry.task for entry in desk.queue.fail_unplaceable(lambda gpus: 8000)] == [desk.tasks[0]]
    entry = desk.queue.entry(desk.key)
    assert (entry.state, entry.cause, entry.error) == (State.FAILED, "out_of_memory", "too big")
    assert desk.queue.is_over()


class CountingDeque(deque[str]):
    """A real deque that counts how often it is turned."""

    turns = 0

    def popleft(self) -> str:
        type(self).turns += 1
        return super().popleft()


@pytest.mark.parametrize("size", [100, 10_000])
def test_assigning_and_completing_cost_the_same_however_many_tasks_wait(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.queue.scheduler.deque", CountingDeque)
    one = Desk().tasks[0]
    names = [f"task{number}" for number in range(size)]
    desk = Desk([structs.replace(one, task_id=name, key=name, config={"name": name}) for name in names])
    for lease in [desk.assign() for _ in range(50)]:
        desk.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "boom")
    CountingDeque.turns = 0
    for _ in range(50):  # the worker that failed them all: its retries are looked past, within the bound
        desk.queue.complete(desk.assign().task.key)
    assert CountingDeque.turns == 50 * (RETRY_LOOK + 1)
    assert desk.queue.counts()[State.PENDING] == size - 50


# -- who has what a task needs -----------------------------------------------------------------------------

CPU = WorkerInfo("cpu0", 15.0, memory_mib=64_000)
ONE = WorkerInfo("gpu0", 15.0, memory_mib=40_000, gpus=1, free_mib=8 * 1024)
TWO = WorkerInfo("gpu1+2", 15.0, memory_mib=40_000, gpus=2, free_mib=20 * 1024)


def needing(count: int = 1, *, phase: str = "exp1", **need: Any) -> list[Task]:
    """Tasks of a phase, each of which needs this."""
    tasks = [a_task(phase=phase, width=width, of=phase) for width in range(count)]
    return [structs.replace(task, **need) for task in tasks]


@pytest.mark.parametrize(
    ("need", "workers"),
    [
        ({}, [CPU, ONE, TWO]),
        ({"gpus": 1}, [ONE, TWO]),
        ({"gpus": 2}, [TWO]),
        ({"gpus": 3}, []),
        ({"min_free_gb": 8}, [ONE, TWO]),
        ({"min_free_gb": 8.1}, [TWO]),
        ({"gpus": 2, "min_free_gb": 20.5}, []),
    ],
)
def test_a_task_goes_to_a_worker_that_has_what_it_needs(need: dict[str, Any], workers: list[Any]) -> None:
    assert [worker for worker in (CPU, ONE, TWO) if Desk(needing(**need)).queue.assign(worker)] == workers


def test_a_worker_takes_the_task_that_needs_most_of_what_it_has() -> None:
    plain = needing(2, phase="plain")
    small, large = needing(phase="small", min_free_gb=1), needing(phase="large", min_free_gb=2)
    desk = Desk([*plain, *small, *large, *needing(phase="double", gpus=2)])
    assigned = [desk.assign(worker).task.phase for worker in (ONE, TWO, ONE, CPU, TWO)]
    assert assigned == ["large", "double", "small", "plain", "plain"]


@pytest.mark.parametrize("size", [100, 10_000])
def test_tasks_that_fit_no_worker_neither_hold_others_up_nor_cost_them(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.queue.scheduler.deque", CountingDeque)
    wide, plain = needing(size, phase="wide", gpus=2), needing(20, phase="plain")
    desk = Desk([*wide, *plain])
    desk.queue.sync(plain)
    desk.queue.sync([*wide, *plain])  # now the wide ones stand among the retries
    CountingDeque.turns = 0
    assert [desk.assign(ONE).task for _ in plain] == plain
    assert CountingDeque.turns == len(plain)
    assert desk.queue.assign(ONE) is None
    assert desk.assign(TWO).task.phase == "wide"


def test_an_edit_of_what_tasks_need_counts_from_then_on() -> None:
    desk = Desk(needing(2, gpus=2))
    assert desk.queue.assign(ONE) is None
    desk.queue.sync(needing(2, gpus=1))
    lease = desk.assign(ONE)
    desk.queue.sync(needing(2, gpus=2))
    assert desk.queue.assign(ONE) is None
    desk.queue.release(lease.lease_id, lease.task.key)
    assert desk.queue.assign(ONE) is None, (
        "what runs when the edit comes waits for two cards, too, when it is back"
    )
    assert {desk.assign(TWO).task.key, desk.assign(TWO).task.key} == {task.key for task in desk.tasks}
    assert desk.queue.assign(TWO) is None


def test_what_ran_out_of_memory_on_two_cards_waits_for_two_larger_ones_unless_there_are_smaller_ones() -> (
    None
):
    desk = Desk(needing(gpus=2))
    desk.queue.fail(desk.assign(TWO).lease_id, desk.key, Cause.OUT_OF_MEMORY, "too big")
    large: dict[int, int | None] = {2: None}
    assert desk.queue.fail_unplaceable(large.get) == [], "no worker has two cards now; one may come"
    large[2] = 80_000
    assert desk.queue.fail_unplaceable(large.get) == []
    large[2] = 40_000
    assert [entry.task for entry in desk.queue.fail_unplaceable(large.get)] == desk.tasks


def test_a_task_that_fits_no_worker_is_never_given_up() -> None:
    desk = Desk([*needing(phase="wide", gpus=8), *needing(phase="big")])
    lease = desk.assign(ONE)
    desk.queue.fail(lease.lease_id, lease.task.key, Cause.OUT_OF_MEMORY, "too big")
    assert desk.queue.fail_unplaceable(lambda gpus: None if gpus == 8 else 40_000) == []
    assert not desk.queue.is_over()


@pytest.fixture
def switch_often() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


def test_no_task_is_out_twice_at_a_time_under_eight_threads(switch_often: None) -> None:
    desk = Desk(300)
    out: set[str] = set()
    guard = threading.Lock()
    twice: list[str] = []

    def work(number: int) -> None:
        completion: list[Any] = [desk.queue.lose, desk.queue.release]
        turn = 0
        while not desk.queue.is_over():
            lease = desk.queue.assign(WorkerInfo(f"cpu{number}", 15.0))
            if lease is None:
                continue
            key, turn = lease.task.key, turn + 1
            with guard:
                twice.extend({key} & out)
                out.add(key)
            with guard:
                out.remove(key)
            if turn % 5 == 0:
                completion[turn % 2](lease.lease_id, key)
            else:
                desk.queue.complete(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    assert desk.queue.counts()[State.COMPLETE] + desk.queue.counts()[State.FAILED] == 300
    assert desk.queue.leases() == []
