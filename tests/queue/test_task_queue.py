"""The table of states, and how tasks are assigned and given back."""

import threading
from collections import deque
from typing import Any

import pytest
from msgspec import structs

from distexp.errors import IllegalTransition, UnknownTask
from distexp.queue.entry import TRANSITIONS, WorkerInfo
from distexp.queue.scheduler import RETRY_LOOK
from distexp.queue.task_queue import FAILURE_BUDGET, LOSS_BUDGET
from distexp.task import Cause, State, Task
from tests.queue.sample_queue import CPU0, CPU1, SampleQueue
from tests.row_cases import a_task, tasks_of

DESIGN_TABLE = """
pending                       -> assigned | complete | cancelled | withdrawn | pruned
assigned                      -> pending | complete | failed | cancelled | pruned
failed, cancelled, withdrawn  -> pending | complete | pruned
pruned                        -> pending | complete
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
    sample = SampleQueue(2)
    sample.reach(source)
    before, counts, recorded = sample.queue.entry(sample.key), sample.queue.counts(), len(sample.records)
    entry = sample.queue._entries[sample.key]
    if target in TRANSITIONS[source]:
        sample.queue._transition(entry, target)
        assert sample.state() is target
        assert sample.queue.counts()[target] == counts[target] + 1
        return
    with pytest.raises(IllegalTransition) as error:
        sample.queue._transition(entry, target)
    assert str(error.value) == f"exp1_0_42: {source} -> {target} is not in the table"
    assert sample.queue.entry(sample.key) == before
    assert sample.queue.counts() == counts
    assert len(sample.records) == recorded


@pytest.mark.parametrize("source", [state for state in State if state is not State.COMPLETE])
def test_a_row_completes_a_task_from_every_state(source: State) -> None:
    sample = SampleQueue(2)
    sample.reach(source)
    before = sample.queue.complete(sample.key)
    assert before is not None
    assert before.state is source
    assert sample.state() is State.COMPLETE
    assert sample.queue.complete(sample.key) is None
    assert sample.queue.leases() == []


def test_rows_complete_tasks_that_were_never_assigned_at_once_and_the_others_are_told() -> None:
    sample = SampleQueue(4)
    assigned, cancelled, *unassigned = [task.key for task in sample.tasks]
    sample.assign()
    sample.queue.cancel(cancelled)
    recorded = len(sample.records)
    assert sample.queue.complete_unassigned({assigned, *unassigned, cancelled, "nope"}) == {
        assigned,
        cancelled,
    }
    states = [State.ASSIGNED, State.CANCELLED, State.COMPLETE, State.COMPLETE]
    assert [sample.state(task) for task in sample.tasks] == states
    assert sample.queue.counts()[State.COMPLETE] == 2
    assert sample.queue.counts()[State.PENDING] == 0
    assert len(sample.records) == recorded
    assert sample.queue.complete_unassigned({*unassigned}) == set()


def test_unknown_keys_and_labels_are_refused_by_name() -> None:
    sample = SampleQueue()
    with pytest.raises(UnknownTask, match="task nope is not in this sweep"):
        sample.queue.entry("nope")
    with pytest.raises(UnknownTask, match="task 'exp9_0_1' is not in this sweep; `tasks` lists"):
        sample.queue.key_of("exp9_0_1")
    assert sample.queue.key_of("exp1_0_42") == sample.key
    assert sample.queue.complete("nope") is None


def test_entries_are_copies_in_the_order_of_the_sweep_of_all_states_or_one() -> None:
    sample = SampleQueue(3)
    lease = sample.assign()
    sample.queue.fail(lease.lease_id, sample.key, Cause.ERROR, "boom", retry=False)
    assert [entry.task for entry in sample.queue.entries()] == sample.tasks
    assert sample.queue.entries(State.FAILED) == [sample.queue.entry(sample.key)]
    assert [entry.task for entry in sample.queue.entries(State.PENDING)] == sample.tasks[1:]
    (copy,) = sample.queue.entries(State.FAILED)
    copy.error = "another"
    assert sample.queue.entry(sample.key).error == "boom"


# -- budgets -----------------------------------------------------------------------------------------------


def test_three_failures_of_the_experiment_end_a_task() -> None:
    sample = SampleQueue()
    states = []
    for _ in range(FAILURE_BUDGET):
        lease = sample.assign()
        states.append(sample.queue.fail(lease.lease_id, sample.key, Cause.ERROR, "boom"))
    assert states == [State.PENDING, State.PENDING, State.FAILED]
    entry = sample.queue.entry(sample.key)
    assert (entry.attempts, entry.failures, entry.cause, entry.error) == (3, 3, "error", "boom")
    assert sample.queue.is_over()


def test_five_losses_of_the_worker_end_a_task() -> None:
    sample = SampleQueue()
    states = [sample.queue.lose(sample.assign().lease_id, sample.key) for _ in range(LOSS_BUDGET)]
    assert states == [State.PENDING] * 4 + [State.FAILED]
    assert sample.queue.entry(sample.key).error == "5 workers were lost while running it"


def test_each_budget_is_its_own_and_giving_back_costs_nothing() -> None:
    sample = SampleQueue()
    for _ in range(FAILURE_BUDGET - 1):
        sample.queue.fail(sample.assign().lease_id, sample.key, Cause.CRASH, "boom")
    for _ in range(LOSS_BUDGET - 1):
        sample.queue.lose(sample.assign().lease_id, sample.key)
    for _ in range(20):
        assert sample.queue.release(sample.assign().lease_id, sample.key) is State.PENDING
    entry = sample.queue.entry(sample.key)
    assert (entry.failures, entry.losses, entry.attempts) == (2, 4, 26)


def test_reports_of_an_ended_lease_change_nothing() -> None:
    sample = SampleQueue()
    old = sample.assign().lease_id
    sample.queue.lose(old, sample.key)
    new = sample.assign(CPU1)
    assert sample.queue.fail(old, sample.key, Cause.ERROR, "late") is None
    assert sample.queue.lose(old, sample.key) is None
    assert sample.queue.release(old, sample.key) is None
    entry = sample.queue.entry(sample.key)
    assert (entry.lease, entry.failures, entry.losses) == (new, 0, 1)


def test_requeue_gives_new_budgets_and_reset_complete_starts_all_over() -> None:
    sample = SampleQueue(2)
    sample.reach(State.FAILED)
    assert sample.queue.requeue(sample.key)
    entry = sample.queue.entry(sample.key)
    assert (entry.state, entry.failures, entry.error, entry.attempts) == (State.PENDING, 0, "", 1)
    assert not sample.queue.requeue(sample.key)
    assert not sample.queue.reset_complete(sample.key)
    sample.queue.complete(sample.key)
    assert sample.queue.reset_complete(sample.key)
    assert (sample.records[-1].key, sample.records[-1].state) == (sample.key, "pending")
    entry = sample.queue.entry(sample.key)
    assert (entry.state, entry.attempts) == (State.PENDING, 0)
    assert [entry.task for entry in sample.queue.entries()] == sample.tasks
    assert {sample.assign().task.key, sample.assign(CPU1).task.key} == {task.key for task in sample.tasks}


# -- who gets a retry --------------------------------------------------------------------------------------


def test_a_retry_goes_to_another_worker_first_and_to_the_same_one_last() -> None:
    sample = SampleQueue(4)
    first, other = sample.assign(), sample.assign()
    sample.queue.complete(other.task.key)
    sample.queue.fail(first.lease_id, sample.key, Cause.ERROR, "boom")
    assert [sample.assign().task, sample.assign(CPU1).task] == [sample.tasks[2], sample.tasks[0]]
    assert sample.assign().task == sample.tasks[3]
    second = sample.queue.entry(sample.key).lease
    assert second is not None
    sample.queue.fail(second.lease_id, sample.key, Cause.ERROR, "boom")
    assert sample.assign(CPU1).task == sample.tasks[0], (
        "when nothing else is left, the same worker may try again"
    )


def test_tasks_of_a_phase_that_takes_too_long_are_passed_over_and_keep_their_places() -> None:
    sample = SampleQueue(
        [a_task(width=1, phase="long"), a_task(width=2, phase="long"), a_task(width=3, phase="short")]
    )
    sample.queue.release(sample.assign().lease_id, sample.key)
    hurried = WorkerInfo("cpu1", 15.0, too_long=frozenset({"long"}))
    assert sample.assign(hurried).task == sample.tasks[2]
    assert sample.queue.assign(hurried) is None
    assert [sample.assign(CPU1).task, sample.assign(CPU1).task] == sample.tasks[:2]


def test_those_that_fit_are_assigned_however_many_take_too_long_and_only_these_lack_time() -> None:
    sample = SampleQueue([*(a_task(seed, phase="long") for seed in range(1500)), a_task(phase="short")])
    hurried = WorkerInfo("cpu1", 15.0, too_long=frozenset({"long"}))
    assert sample.assign(hurried).task == sample.tasks[-1]
    assert sample.queue.queries.is_short_of_time(hurried)
    assert not sample.queue.queries.is_short_of_time(WorkerInfo("cpu1", 15.0, too_long=frozenset({"short"})))
    for task in sample.tasks[:-1]:
        sample.queue.cancel(task.key)
    assert not sample.queue.queries.is_short_of_time(hurried)


def test_retries_never_starve_behind_others_that_a_worker_may_not_have() -> None:
    sample = SampleQueue(3 * RETRY_LOOK + 1)
    small = WorkerInfo("gpu0", 15.0, memory_mib=8000)
    leases = [sample.assign(small) for _ in sample.tasks]
    for lease in leases[:-1]:
        sample.queue.fail(lease.lease_id, lease.task.key, Cause.OUT_OF_MEMORY, "too big")
    sample.queue.lose(leases[-1].lease_id, leases[-1].task.key)
    assigned = [sample.queue.assign(small) for _ in range(4)]
    assert [lease.task for lease in assigned if lease] == [sample.tasks[-1]]


def test_out_of_memory_is_retried_on_a_larger_device_alone() -> None:
    sample = SampleQueue()
    lease = sample.assign(WorkerInfo("gpu0", 15.0, memory_mib=8000))
    sample.queue.fail(lease.lease_id, sample.key, Cause.OUT_OF_MEMORY, "too big")
    for memory_mib in (0, 7000, 8000):
        assert sample.queue.assign(WorkerInfo("gpu1", 15.0, memory_mib=memory_mib)) is None
    assert sample.assign(WorkerInfo("gpu2", 15.0, memory_mib=8001)).attempt == 2


def test_what_needs_a_larger_device_than_there_is_fails_once_nothing_else_is_left() -> None:
    sample = SampleQueue(2)
    small = WorkerInfo("gpu0", 15.0, memory_mib=8000)
    lease, other = sample.assign(small), sample.assign(small)
    sample.queue.fail(lease.lease_id, sample.key, Cause.OUT_OF_MEMORY, "too big")
    assert sample.queue.fail_unplaceable(lambda gpus: 8000) == [], "the other one runs"
    sample.queue.release(other.lease_id, other.task.key)
    assert sample.queue.fail_unplaceable(lambda gpus: 8000) == [], "the other one waits"
    sample.queue.complete(other.task.key)
    assert sample.queue.fail_unplaceable(lambda gpus: 8001) == [], "a larger device is there"
    assert [entry.task for entry in sample.queue.fail_unplaceable(lambda gpus: 8000)] == [sample.tasks[0]]
    entry = sample.queue.entry(sample.key)
    assert (entry.state, entry.cause, entry.error) == (State.FAILED, "out_of_memory", "too big")
    assert sample.queue.is_over()


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
    one = SampleQueue().tasks[0]
    names = [f"task{number}" for number in range(size)]
    sample = SampleQueue(
        [structs.replace(one, task_id=name, key=name, config={"name": name}) for name in names]
    )
    sample.queue.complete(sample.assign().task.key)
    for lease in [sample.assign() for _ in range(50)]:
        sample.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "boom")
    CountingDeque.turns = 0
    for _ in range(50):  # the worker that failed them all: its retries are looked past, within the bound
        sample.queue.complete(sample.assign().task.key)
    assert CountingDeque.turns == 50 * (RETRY_LOOK + 1)
    assert sample.queue.counts()[State.PENDING] == size - 51


# -- who has what a task needs -----------------------------------------------------------------------------

CPU = WorkerInfo("cpu0", 15.0, memory_mib=64_000)
ONE = WorkerInfo("gpu0", 15.0, memory_mib=40_000, gpus=1, free_mib=8 * 1024, device="NVIDIA A100")
TWO = WorkerInfo(
    "gpu1+2", 15.0, memory_mib=40_000, gpus=2, free_mib=20 * 1024, device="NVIDIA A100-SXM4-40GB, NVIDIA T4"
)


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
        ({"gpu_model": ("a100", "H100")}, [ONE]),
        ({"gpu_model": ("A10", "H200")}, []),
        ({"gpu_model": ("A100", "T4")}, [ONE, TWO]),
    ],
)
def test_a_task_goes_to_a_worker_that_has_what_it_needs(need: dict[str, Any], workers: list[Any]) -> None:
    assert [
        worker for worker in (CPU, ONE, TWO) if SampleQueue(needing(**need)).queue.assign(worker)
    ] == workers


def test_a_worker_takes_the_task_that_needs_most_of_what_it_has() -> None:
    plain = needing(2, phase="plain")
    small, large = needing(phase="small", min_free_gb=1), needing(phase="large", min_free_gb=2)
    sample = SampleQueue([*plain, *small, *large, *needing(phase="double", gpus=2)])
    assigned = [sample.assign(worker).task.phase for worker in (ONE, TWO, ONE, CPU, TWO)]
    assert assigned == ["large", "double", "small", "plain", "plain"]


@pytest.mark.parametrize("size", [100, 10_000])
def test_tasks_that_fit_no_worker_neither_hold_others_up_nor_cost_them(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.queue.scheduler.deque", CountingDeque)
    wide, plain = needing(size, phase="wide", gpus=2), needing(20, phase="plain")
    sample = SampleQueue([*wide, *plain])
    sample.queue.sync(plain)
    sample.queue.sync([*wide, *plain])  # now the wide ones stand among the retries
    CountingDeque.turns = 0
    assert [sample.assign(ONE).task for _ in plain] == plain
    assert CountingDeque.turns == len(plain)
    assert sample.queue.assign(ONE) is None
    assert sample.assign(TWO).task.phase == "wide"


def test_an_edit_of_what_tasks_need_counts_from_then_on() -> None:
    sample = SampleQueue(needing(2, gpus=2))
    assert sample.queue.assign(ONE) is None
    sample.queue.sync(needing(2, gpus=1))
    lease = sample.assign(ONE)
    sample.queue.sync(needing(2, gpus=2))
    assert sample.queue.assign(ONE) is None
    sample.queue.release(lease.lease_id, lease.task.key)
    assert sample.queue.assign(ONE) is None, (
        "what runs when the edit comes waits for two GPUs, too, when it is back"
    )
    assert {sample.assign(TWO).task.key, sample.assign(TWO).task.key} == {task.key for task in sample.tasks}
    assert sample.queue.assign(TWO) is None


def test_what_ran_out_of_memory_on_two_cards_waits_for_two_larger_ones_unless_there_are_smaller_ones() -> (
    None
):
    sample = SampleQueue(needing(gpus=2))
    sample.queue.fail(sample.assign(TWO).lease_id, sample.key, Cause.OUT_OF_MEMORY, "too big")
    large: dict[int, int | None] = {2: None}
    assert sample.queue.fail_unplaceable(large.get) == [], "no worker has two GPUs now; one may come"
    large[2] = 80_000
    assert sample.queue.fail_unplaceable(large.get) == []
    large[2] = 40_000
    assert [entry.task for entry in sample.queue.fail_unplaceable(large.get)] == sample.tasks


def test_a_task_that_fits_no_worker_is_never_given_up() -> None:
    sample = SampleQueue([*needing(phase="wide", gpus=8), *needing(phase="big")])
    lease = sample.assign(ONE)
    sample.queue.fail(lease.lease_id, lease.task.key, Cause.OUT_OF_MEMORY, "too big")
    assert sample.queue.fail_unplaceable(lambda gpus: None if gpus == 8 else 40_000) == []
    assert not sample.queue.is_over()


def test_no_task_is_out_twice_at_a_time_under_eight_threads(switch_often: None) -> None:
    sample = SampleQueue(300)
    out: set[str] = set()
    guard = threading.Lock()
    twice: list[str] = []

    def work(number: int) -> None:
        completion: list[Any] = [sample.queue.lose, sample.queue.release]
        turn = 0
        while not sample.queue.is_over():
            lease = sample.queue.assign(WorkerInfo(f"cpu{number}", 15.0))
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
                sample.queue.complete(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    assert sample.queue.counts()[State.COMPLETE] + sample.queue.counts()[State.FAILED] == 300
    assert sample.queue.leases() == []


# -- looking ------------------------------------------------------------------------------------------------


def test_the_place_of_a_task_counts_the_pending_ones_that_are_assigned_first() -> None:
    sample = SampleQueue(4)
    keys = [task.key for task in sample.tasks]
    lease = sample.assign(CPU0)
    assert [sample.queue.queries.place(key) for key in keys[1:]] == [(None, 0), (None, 1), (None, 2)]
    sample.queue.release(lease.lease_id, keys[0])  # a retry goes to the other workers first
    assert [sample.queue.queries.place(key)[1] for key in keys] == [0, 1, 2, 3]
    assert sample.assign(CPU1).task.key == keys[0]
    assert [sample.queue.queries.place(key)[1] for key in keys[1:]] == [0, 1, 2]


def test_the_place_of_a_duplicate_names_the_one_that_runs() -> None:
    sample = SampleQueue([a_task(), a_task(phase="exp2")])
    duplicate = sample.tasks[1].key
    assert sample.queue.queries.place(duplicate)[0] is None
    sample.assign()
    ahead, _ = sample.queue.queries.place(duplicate)
    assert ahead is not None
    assert ahead.task.task_id == "exp1_1_42"


def test_a_sample_holds_pending_tasks_and_no_more_than_asked_for() -> None:
    sample = SampleQueue(tasks_of(50))
    sample.queue.complete(sample.key)
    assigned = sample.assign().task
    left = sample.queue.queries.sample(100)
    assert {task.key for task in left} == {task.key for task in sample.tasks[1:]} - {assigned.key}
    assert len({task.key for task in sample.queue.queries.sample(20)}) == 20
    assert len(sample.queue.queries.pending_among([*left, assigned, sample.tasks[0]])) == 48


def test_a_page_is_a_part_of_what_is_accepted_in_the_order_of_the_sweep() -> None:
    sample = SampleQueue(tasks_of(9))
    sample.queue.complete(sample.tasks[2].key)
    page, total = sample.queue.queries.page(lambda entry: entry.state is State.PENDING, 1, 3)
    assert ([entry.key for entry in page], total) == ([sample.tasks[at].key for at in (1, 3, 4)], 8)
    assert sample.queue.queries.page(lambda entry: True, 8, 3)[0] == [sample.queue.entry(sample.tasks[8].key)]
    assert sample.queue.queries.page(lambda entry: True, 9, 3) == ([], 9)


# -- what cannot run now -----------------------------------------------------------------------------------


def test_tasks_of_a_blocked_folder_wait_in_their_order_until_it_is_free_or_an_edit_moves_them() -> None:
    sample = SampleQueue(4)
    sample.queue.release(sample.assign().lease_id, sample.key)
    for _ in range(2):
        sample.queue.block({"results_exp1"})
        assert sample.queue.assign(CPU1) is None
    assert not sample.queue.can_run()
    sample.queue.block(set())
    assert sample.queue.can_run()
    assert [sample.assign(CPU1).task for _ in range(2)] == sample.tasks[:2]
    sample.queue.block({"results_exp1"})
    assert sample.queue.assign(CPU1) is None
    moved = [structs.replace(task, output_dir="results_exp1_moved") for task in sample.tasks]
    sample.queue.sync(moved)
    assert sample.queue.can_run()
    assert [sample.assign(CPU1).task for _ in range(2)] == moved[2:]


def test_what_was_looked_through_for_a_task_that_can_run_is_not_until_something_changes() -> None:
    class Walked(dict[str, Any]):
        times = 0

        def values(self) -> Any:
            self.times += 1
            return super().values()

    sample = SampleQueue(3)
    queue, walked = sample.queue, Walked(sample.queue._entries)
    queue._scheduler._entries = walked
    queue.block({"results_exp1"})
    assert [queue.can_run() for _ in range(3)] == [False] * 3
    assert walked.times == 1, "each worker that waits asks, and there may be a million tasks"
    queue.block(set())
    assert [queue.can_run() for _ in range(3)] == [True] * 3
    queue.holds.not_begun("exp1", Cause.IMPORT, "no module", CPU0)
    assert not queue.can_run()
    queue.holds.end_all()
    assert queue.can_run()
    for task in sample.tasks:
        queue.cancel(task.key)
    assert not queue.can_run()
