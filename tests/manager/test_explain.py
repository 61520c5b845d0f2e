"""Each reason for which a task does not run, told in a line."""

from typing import Any

import pytest
from msgspec import structs

from distexp.manager.explain import Hand, QueueView, why_not_running
from distexp.queue.entry import Entry, WorkerInfo
from distexp.task import Cause, State
from tests.desk import CPU0, Desk
from tests.row_cases import a_task

GPU = Hand("gpu0", 80_000)


def waiting(**facts: int) -> Entry:
    return Entry(a_task(), **facts)


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (QueueView(0.0, is_paused=True, hands=[GPU]), "the sweep is paused; `resume` goes on"),
        (
            QueueView(0.0),
            "no worker is connected; start one with `python experiment_runner_gpu.py`",
        ),
        (
            QueueView(0.0, hands=[Hand("gpu0", 0, "drained"), Hand("gpu1", 0, "3 failures in a row")]),
            "all workers are excluded (gpu0: drained; gpu1: 3 failures in a row)",
        ),
        (
            QueueView(0.0, hands=[GPU], before=7),
            "its turn has not come: 7 pending tasks before it",
        ),
        (QueueView(0.0, hands=[GPU]), "it is next: the workers are busy with other tasks"),
        (
            QueueView(0.0, hands=[GPU], duplicate=Entry(a_task(phase="exp2"), State.ASSIGNED)),
            "waits for its duplicate exp2_1_42, the same work in another phase, which runs",
        ),
        (
            QueueView(0.0, hands=[GPU], duplicate=Entry(a_task(phase="exp2"), State.COMPLETE)),
            "waits for its duplicate exp2_1_42, the same work in another phase, which is complete; "
            "its row is copied at the next scan",
        ),
    ],
)
def test_a_pending_task_says_what_it_waits_for(view: QueueView, why: str) -> None:
    assert why_not_running(waiting(), view) == why


def test_a_task_that_ran_out_of_memory_waits_for_a_larger_gpu_than_there_is() -> None:
    excluded = Hand("gpu1", 140_000, "drained")
    why = why_not_running(waiting(oom_at_mib=80_000), QueueView(0.0, hands=[GPU, excluded]))
    assert why == (
        "needs a larger GPU: it ran out of memory with 80000 MiB, "
        "and the largest device of a worker has 80000 MiB"
    )
    larger = QueueView(0.0, hands=[GPU, Hand("gpu2", 140_000)])
    assert why_not_running(waiting(oom_at_mib=80_000), larger).startswith("it is next")


@pytest.mark.parametrize(
    ("need", "hands", "why"),
    [
        ({"gpus": 1}, [Hand("cpu0", 64_000)], "needs a GPU, and no worker that is connected holds one"),
        (
            {"gpus": 2},
            [Hand("cpu0", 64_000), Hand("gpu0", 40_000, gpus=1), Hand("gpu1+2", 40_000, "drained", gpus=2)],
            "needs 2 GPUs, and no worker that is connected holds more than 1: "
            "`python experiment_runner_gpu.py --gpus 2`",
        ),
        (
            {"min_free_gb": 12},
            [
                Hand("cpu0", 64_000),
                Hand("gpu0", 40_000, gpus=1, free_mib=12 * 1024 - 1),
                Hand("gpu1", 9, gpus=1),
            ],
            "needs 12 GB free on its GPU, and the most that a worker had when it last asked "
            "is 11.9 GB (gpu0)",
        ),
        (
            {"gpus": 2, "min_free_gb": 30.5},
            [Hand("gpu0", 80_000, gpus=1, free_mib=80_000), Hand("gpu1+2", 40_000, gpus=2, free_mib=2048)],
            "needs 30.5 GB free on each of 2 GPUs, and the most that a worker had when it last asked "
            "is 2.0 GB (gpu1+2)",
        ),
        (
            {"gpus": 2, "min_free_gb": 2},
            [Hand("gpu1+2", 40_000, gpus=2, free_mib=2048)],
            "it is next: the workers are busy with other tasks",
        ),
    ],
)
def test_a_task_that_fits_no_worker_says_what_is_missing(
    need: dict[str, Any], hands: list[Hand], why: str
) -> None:
    entry = Entry(structs.replace(a_task(), **need))
    assert why_not_running(entry, QueueView(0.0, hands=hands)) == why


def test_out_of_memory_on_two_cards_is_compared_with_workers_of_two_cards() -> None:
    hands = [Hand("gpu0", 80_000, gpus=1), Hand("gpu1+2", 40_000, gpus=2)]
    entry = Entry(structs.replace(a_task(), gpus=2), oom_at_mib=40_000)
    assert why_not_running(entry, QueueView(0.0, hands=hands)).endswith("of a worker has 40000 MiB")


def test_a_task_that_runs_says_where_since_when_and_how_long_without_a_sign_of_life() -> None:
    desk = Desk()
    desk.assign(CPU0)
    desk.clock.advance(20)
    assert why_not_running(desk.queue.entry(desk.key), QueueView(desk.clock())) == (
        "runs: assigned to cpu0 20 s ago (attempt 1); without a sign of life it goes back in 40 s"
    )


def test_a_lease_of_an_earlier_manager_has_no_age() -> None:
    desk = Desk()
    desk.assign(CPU0)
    later = Desk(desk.tasks)
    later.queue.restore(desk.records[-1:])
    why = why_not_running(later.queue.entry(desk.key), QueueView(later.clock()))
    assert why.startswith("runs: assigned to cpu0 before this manager started (attempt 1)")


def test_an_ended_task_says_how_it_ended_and_what_brings_it_back() -> None:
    desk = Desk(5)
    keys = [task.key for task in desk.tasks]
    desk.queue.complete(keys[0])
    lease = desk.assign(WorkerInfo("gpu0"))
    error = "Traceback ...\nRuntimeError: CUDA out of memory"
    desk.queue.fail(lease.lease_id, keys[1], Cause.OUT_OF_MEMORY, error, retry=False)
    desk.queue.cancel(keys[2])
    desk.queue.cancel(keys[3], cause=Cause.IMPORT, error="mine:run cannot be imported: No module")
    desk.queue.sync(desk.tasks[:4])
    told = [why_not_running(desk.queue.entry(key), QueueView(0.0)) for key in keys]
    assert told == [
        "complete: its row is in results_exp1/final_results.csv",
        "failed (1 failures, 0 lost workers): RuntimeError: CUDA out of memory; "
        "`requeue exp1_1_42` runs it again",
        "cancelled by the user; `requeue exp1_2_42` runs it again",
        "its phase has ended: mine:run cannot be imported: No module; "
        "mend the module, then `requeue exp1_3_42`",
        "withdrawn: the config files no longer ask for it",
    ]
