"""What is left to run, by what is held, blocked or too large."""

from msgspec import structs

from distexp.queue.entry import WorkerInfo
from distexp.task import Cause
from tests.queue.sample_queue import SampleQueue
from tests.row_cases import a_task


def test_what_no_device_has_the_memory_for_fails_when_all_else_that_is_left_cannot_run() -> None:
    tasks = [a_task(width=width, phase=f"p{width}") for width in range(4)]
    sample = SampleQueue([structs.replace(each, output_dir=f"results_{each.phase}") for each in tasks])
    small = WorkerInfo("gpu0", 15.0, memory_mib=8000)
    big, held, blocked, kept = [sample.assign(small) for _ in sample.tasks]
    for lease in (held, blocked, kept):
        sample.queue.release(lease.lease_id, lease.task.key)
    sample.queue.fail(big.lease_id, big.task.key, Cause.OUT_OF_MEMORY, "too big")
    sample.queue.holds.held["p1"] = "no module"
    assert sample.queue.fail_unplaceable(lambda gpus: 8000) == [], "two wait"
    sample.queue.block({blocked.task.output_dir})
    assert sample.queue.fail_unplaceable(lambda gpus: 8000) == [], "one waits"
    sample.queue.block({blocked.task.output_dir, kept.task.output_dir})
    assert sample.queue.can_run()
    assert [entry.key for entry in sample.queue.fail_unplaceable(lambda gpus: 8000)] == [big.task.key]
    assert not sample.queue.can_run()
