"""Phases with a higher priority come first: by the configs, by request, after an edit and after a restart."""

from pathlib import Path

import pytest

from distexp.errors import UnknownTask
from distexp.queue.entry import WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.priorities import Priorities
from distexp.queue.records import PhaseRecord
from distexp.queue.task_queue import TaskQueue
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from distexp.task import Cause
from tests.queue.sample_queue import CPU0, CPU1
from tests.support import Clock

GPU0 = WorkerInfo("gpu0", 15.0, gpus=1)


def points(priorities: str = "0 0 0", widths: str = "[1, 2]", more: str = "") -> list[GridPoint]:
    """Three phases a, b and c; c needs a GPU."""
    a, b, c = priorities.split()
    return expand(
        parse_config(
            f"a: {{priority: {a}, combinations: [{{width: {widths}}}] {more}}}\n"
            f"b: {{priority: {b}, combinations: [{{width: [1, 2]}}], defaults: {{depth: 1}}}}\n"
            f"c: {{priority: {c}, combinations: [{{width: [1, 2]}}], defaults: {{gpus: 1, depth: 2}}}}\n",
            "f.yaml",
        )
    )


def queue_of(tasks: list[GridPoint], priorities: Priorities | None = None) -> TaskQueue:
    queue = TaskQueue(Clock(), lambda record: None, priorities=priorities)
    queue.sync(tasks)
    return queue


def assigned(queue: TaskQueue, worker: WorkerInfo = CPU0) -> str:
    """Assign every task that this worker may have and return their phases in order."""
    return "".join([lease.task.phase for lease in iter(lambda: queue.assign(worker), None)])


@pytest.mark.parametrize(
    ("stated", "worker", "order"),
    [
        ("0 0 0", CPU0, "aabb"),
        ("0 1 0", CPU0, "bbaa"),
        ("-1 -2 9", CPU0, "aabb"),  # a worker without a GPU passes over c
        ("0 0 0", GPU0, "ccaabb"),  # of equal priority, the greatest need that a worker meets
        ("0 1 0", GPU0, "bbccaa"),
    ],
)
def test_phases_with_a_higher_priority_come_first(stated: str, worker: WorkerInfo, order: str) -> None:
    assert assigned(queue_of(points(stated)), worker) == order


def test_a_retry_waits_for_a_phase_of_higher_priority() -> None:
    queue = queue_of(points("0 1 0"))
    b_first = queue.assign(CPU0)
    queue.priorities.ask("a", None)
    a_first = queue.assign(CPU0)
    assert a_first is not None
    assert b_first is not None
    queue.fail(a_first.lease_id, a_first.task.key, Cause.OUT_OF_MEMORY, "no")
    queue.lose(b_first.lease_id, b_first.task.key)
    assert assigned(queue, WorkerInfo("big", 15.0, memory_mib=1000)) == "aabb"


def test_a_phase_that_is_asked_for_comes_before_all_others_and_may_go_back() -> None:
    queue = queue_of(points("5 0 0"))
    assert queue.priorities.ask("b", None) == "b (6), a (5), c (0)"
    assert queue.priorities.ask("b", None) == "b (6), a (5), c (0)"
    assert queue.priorities.ask("a", -1) == "b (6), c (0), a (-1)"
    assert queue.queries.place(points()[0].key)[1] == 2
    assert assigned(queue) == "bbaa"
    with pytest.raises(UnknownTask, match=r"^no phase is called 'd': there are a, b, c$"):
        queue.priorities.ask("d", None)


def test_many_phases_are_shown_in_part() -> None:
    priorities = Priorities()
    priorities.sync({f"p{number}": 0 for number in range(14)})
    assert priorities.ask("p7", 3).endswith(", p9 (0), and 4 more")


def test_what_was_asked_for_outlives_a_restart_and_ends_with_an_edit(tmp_path: Path) -> None:
    def restarted(stated: str) -> TaskQueue:
        journal = Journal(tmp_path / "journal")
        queue = queue_of(points(stated), Priorities(journal.record))
        queue.priorities.restore(journal.load(PhaseRecord))
        order = "".join(sorted("abc", key=queue.priorities.of, reverse=True))
        queue.priorities.ask("b", None)
        journal.close()
        assert order == restarts.pop(0)
        return queue

    restarts = ["abc", "bac", "cab", "bca"]
    restarted("5 0 0")
    restarted("5 0 0")
    restarted("5 1 9")  # b was edited while no manager ran
    queue = restarted("5 1 9")
    queue.sync(points("5 2 9"))  # while one runs
    assert [queue.priorities.of(phase) for phase in "abc"] == [5, 2, 9]


def test_an_edit_of_order_and_of_an_axis_moves_tasks_that_have_not_run() -> None:
    queue = queue_of(points(widths="[1, 2, 3, 4]"))
    first = queue.assign(CPU0)
    assert first is not None
    queue.release(first.lease_id, first.task.key)
    queue.sync(points(widths="[9, 4, 3, 2, 1]"))
    left = [lease.task.config["width"] for lease in iter(lambda: queue.assign(CPU1), None)]
    assert left == [1, 9, 4, 3, 2, 1, 2]  # a retry comes first; the last two are of b


def test_a_shuffled_phase_is_assigned_in_an_order_of_chance_that_a_restart_keeps() -> None:
    def order(more: str) -> list[object]:
        queue = queue_of(points(widths="{range: [50]}", more=more))
        return [lease.task.config["width"] for lease in iter(lambda: queue.assign(CPU0), None)][:50]

    assert order("") == list(range(50))
    assert order(", order: shuffled") == order(", order: shuffled") != list(range(50))
    assert sorted(map(str, order(", order: shuffled"))) == sorted(map(str, range(50)))
