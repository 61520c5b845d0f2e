"""Looking at the tasks of a queue: what stands before one, and a sample of those that are left."""

from distexp.task import State
from tests.desk import CPU0, CPU1, Desk
from tests.row_cases import a_task, tasks_of


def test_the_place_of_a_task_counts_the_pending_ones_that_are_assigned_first() -> None:
    desk = Desk(4)
    keys = [task.key for task in desk.tasks]
    lease = desk.assign(CPU0)
    assert [desk.queue.place(key) for key in keys[1:]] == [(None, 0), (None, 1), (None, 2)]
    desk.queue.release(lease.lease_id, keys[0])  # a retry goes to the other workers first
    assert [desk.queue.place(key)[1] for key in keys] == [0, 1, 2, 3]
    assert desk.assign(CPU1).task.key == keys[0]
    assert [desk.queue.place(key)[1] for key in keys[1:]] == [0, 1, 2]


def test_the_place_of_a_duplicate_names_the_one_that_runs() -> None:
    desk = Desk([a_task(), a_task(phase="exp2")])
    duplicate = desk.tasks[1].key
    assert desk.queue.place(duplicate)[0] is None
    desk.assign()
    ahead, _ = desk.queue.place(duplicate)
    assert ahead is not None
    assert ahead.task.task_id == "exp1_1_42"


def test_a_sample_holds_pending_tasks_and_no_more_than_asked_for() -> None:
    desk = Desk(tasks_of(50))
    desk.queue.complete(desk.key)
    assigned = desk.assign().task
    left = desk.queue.sample(100)
    assert {task.key for task in left} == {task.key for task in desk.tasks[1:]} - {assigned.key}
    assert len({task.key for task in desk.queue.sample(20)}) == 20
    assert len(desk.queue.pending_among([*left, assigned, desk.tasks[0]])) == 48


def test_a_page_is_a_part_of_what_is_accepted_in_the_order_of_the_sweep() -> None:
    desk = Desk(tasks_of(9))
    desk.queue.complete(desk.tasks[2].key)
    page, total = desk.queue.page(lambda entry: entry.state is State.PENDING, 1, 3)
    assert ([entry.key for entry in page], total) == ([desk.tasks[at].key for at in (1, 3, 4)], 8)
    assert desk.queue.page(lambda entry: True, 8, 3)[0] == [desk.queue.entry(desk.tasks[8].key)]
    assert desk.queue.page(lambda entry: True, 9, 3) == ([], 9)
