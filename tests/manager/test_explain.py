"""Each reason for which a task does not run, told in a line."""

from typing import Any

import pytest
from msgspec import structs

from distexp.manager.explain import Available, QueueView, why_not_running
from distexp.queue.entry import Entry, WorkerInfo
from distexp.queue.versions import EarlierVersion
from distexp.task import Cause, State
from tests.queue.sample_queue import CPU0, SampleQueue
from tests.row_cases import a_task


def a_worker(name: str, memory_mib: int = 0, excluded: str = "", **more: int | str) -> Available:
    return WorkerInfo(name, memory_mib=memory_mib, **more), excluded  # type: ignore[arg-type]


GPU = a_worker("gpu0", 80_000)


def outdated(name: str, host: str) -> Available:
    return WorkerInfo(name, host=host, earlier=EarlierVersion("0.1.0", needs_own_code=True)), ""


def waiting(**facts: int) -> Entry:
    return Entry(a_task(), **facts)


@pytest.mark.parametrize(
    ("workers", "view", "why"),
    [
        ([GPU], QueueView(0.0, is_paused=True), "the sweep is paused; `resume` goes on"),
        (
            [],
            QueueView(0.0),
            "no worker is connected; start one with `distexp worker`",
        ),
        (
            [outdated("cpu0", "ada"), outdated("bob/cpu0", "bob")],
            QueueView(0.0),
            "`--freeze-code` needs 0.2 or later, and all workers are of an earlier version: "
            "update distexp on ada, bob",
        ),
        (
            [a_worker("gpu0", 0, "drained"), a_worker("gpu1", 0, "3 failures in a row")],
            QueueView(0.0),
            "all workers are excluded (gpu0: drained; gpu1: 3 failures in a row)",
        ),
        (
            [GPU],
            QueueView(0.0, before=7),
            "its turn has not come: 7 pending tasks before it",
        ),
        (
            [GPU],
            QueueView(0.0, held="5 tasks failed"),
            "its phase is held: 5 tasks failed; fix it, then `resume` goes on",
        ),
        ([GPU], QueueView(0.0), "it is next: the workers are busy with other tasks"),
        (
            [GPU],
            QueueView(0.0, duplicate=Entry(a_task(phase="exp2"), State.ASSIGNED)),
            "waits for its duplicate exp2_1_42, the same work in another phase, which runs",
        ),
        (
            [GPU],
            QueueView(0.0, duplicate=Entry(a_task(phase="exp2"), State.COMPLETE)),
            "waits for its duplicate exp2_1_42, the same work in another phase, which is complete; "
            "its row is copied at the next scan",
        ),
    ],
)
def test_a_pending_task_says_what_it_waits_for(workers: list[Available], view: QueueView, why: str) -> None:
    assert why_not_running(waiting(), workers, view) == why


def test_a_task_that_ran_out_of_memory_waits_for_a_larger_gpu_than_there_is() -> None:
    excluded = a_worker("gpu1", 140_000, "drained")
    why = why_not_running(waiting(oom_at_mib=80_000), [GPU, excluded], QueueView(0.0))
    assert why == (
        "needs a larger GPU: it ran out of memory with 80000 MiB, "
        "and the largest device of a worker has 80000 MiB"
    )
    larger = [GPU, a_worker("gpu2", 140_000)]
    assert why_not_running(waiting(oom_at_mib=80_000), larger, QueueView(0.0)).startswith("it is next")


@pytest.mark.parametrize(
    ("need", "workers", "why"),
    [
        ({"gpus": 1}, [a_worker("cpu0", 64_000)], "needs a GPU, and no worker that is connected holds one"),
        (
            {"gpus": 2},
            [
                a_worker("cpu0", 64_000),
                a_worker("gpu0", 40_000, gpus=1),
                a_worker("gpu1+2", 40_000, "drained", gpus=2),
            ],
            "needs 2 GPUs, and no worker that is connected holds more than 1: `distexp worker --gpus 2`",
        ),
        (
            {"min_free_gb": 12},
            [
                a_worker("cpu0", 64_000),
                a_worker("gpu0", 40_000, gpus=1, free_mib=12 * 1024 - 1),
                a_worker("gpu1", 9, gpus=1),
            ],
            "needs 12 GB free on its GPU, and the most that a worker had when it last asked "
            "is 11.9 GB (gpu0)",
        ),
        (
            {"gpus": 2, "min_free_gb": 30.5},
            [
                a_worker("gpu0", 80_000, gpus=1, free_mib=80_000),
                a_worker("gpu1+2", 40_000, gpus=2, free_mib=2048),
            ],
            "needs 30.5 GB free on each of 2 GPUs, and the most that a worker had when it last asked "
            "is 2.0 GB (gpu1+2)",
        ),
        (
            {"gpu_model": ("A100", "H100")},
            [
                a_worker("gpu0", 40_000, gpus=1, device="NVIDIA A10"),
                a_worker("gpu1+2", 40_000, gpus=2, device="2 x NVIDIA T4"),
            ],
            "needs a GPU of the model A100 or H100, and the workers that are connected have 2 x NVIDIA T4, "
            "NVIDIA A10",
        ),
        (
            {"gpus": 2, "min_free_gb": 2},
            [a_worker("gpu1+2", 40_000, gpus=2, free_mib=2048)],
            "it is next: the workers are busy with other tasks",
        ),
    ],
)
def test_a_task_that_fits_no_worker_says_what_is_missing(
    need: dict[str, Any], workers: list[Available], why: str
) -> None:
    entry = Entry(structs.replace(a_task(), **need))
    assert why_not_running(entry, workers, QueueView(0.0)) == why


def test_out_of_memory_on_two_cards_is_compared_with_workers_of_two_cards() -> None:
    workers = [a_worker("gpu0", 80_000, gpus=1), a_worker("gpu1+2", 40_000, gpus=2)]
    entry = Entry(structs.replace(a_task(), gpus=2), oom_at_mib=40_000)
    assert why_not_running(entry, workers, QueueView(0.0)).endswith("of a worker has 40000 MiB")


def test_a_task_that_runs_says_where_since_when_and_how_long_without_a_sign_of_life() -> None:
    sample = SampleQueue()
    sample.assign(CPU0)
    sample.clock.advance(20)
    assert why_not_running(sample.queue.entry(sample.key), [], QueueView(sample.clock())) == (
        "runs: assigned to cpu0 20 s ago (attempt 1); without a sign of life it goes back in 40 s"
    )


def test_a_lease_of_an_earlier_manager_has_no_age() -> None:
    sample = SampleQueue()
    sample.assign(CPU0)
    later = SampleQueue(sample.tasks)
    later.queue.restore(sample.records[-1:])
    why = why_not_running(later.queue.entry(sample.key), [], QueueView(later.clock()))
    assert why.startswith("runs: assigned to cpu0 before this manager started (attempt 1)")


def test_an_ended_task_says_how_it_ended_and_what_brings_it_back() -> None:
    sample = SampleQueue(5)
    keys = [task.key for task in sample.tasks]
    sample.queue.complete(keys[0])
    lease = sample.assign(WorkerInfo("gpu0"))
    error = "Traceback ...\nRuntimeError: CUDA out of memory"
    sample.queue.fail(lease.lease_id, keys[1], Cause.OUT_OF_MEMORY, error, retry=False)
    sample.queue.cancel(keys[2])
    sample.queue.cancel(keys[3], cause=Cause.IMPORT, error="mine:run cannot be imported: No module")
    sample.queue.sync(sample.tasks[:4])
    told = [why_not_running(sample.queue.entry(key), [], QueueView(0.0)) for key in keys]
    assert told == [
        "complete: its row is in results_exp1/final_results.csv",
        "failed (1 failures, 0 lost workers): RuntimeError: CUDA out of memory; "
        "`requeue exp1_1_42` runs it again",
        "cancelled by the user; `requeue exp1_2_42` runs it again",
        "mine:run cannot be imported: No module; `requeue exp1_3_42` runs it again",
        "withdrawn: the config files no longer ask for it",
    ]


def test_a_task_that_was_cancelled_while_it_ran_says_for_how_long_it_may_wait_for_its_worker() -> None:
    entry = Entry(a_task(), last_worker="mine")
    assert why_not_running(entry, [GPU], QueueView(0.0, cancelled_s=7100.0)) == (
        "waits until mine has heard that the attempt before was cancelled, and ends it, "
        "for 1 h 58 min at most"
    )
