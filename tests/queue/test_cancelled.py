"""A task that was cancelled while it ran, and asked for again, runs once at a time."""

from distexp.queue.entry import Lease, WorkerInfo
from distexp.task import State
from tests.queue.sample_queue import CPU0, CPU1, SampleQueue


def requeued(sample: SampleQueue) -> Lease:
    """Let the one task be cancelled while it runs, and asked for again; return the lease that it had."""
    lease = sample.assign(CPU0)
    assert sample.queue.cancel(sample.key)
    assert sample.queue.requeue(sample.key)
    return lease


def is_assigned(sample: SampleQueue, worker: WorkerInfo = CPU1) -> bool:
    sample.queue.block(set())  # as each rescan does
    return sample.queue.assign(worker) is not None


def test_a_task_that_was_cancelled_while_it_ran_is_not_assigned_before_its_worker_has_heard_of_it() -> None:
    sample = SampleQueue()
    lease = requeued(sample)
    assert not sample.queue.heartbeat(lease.lease_id, sample.key, CPU0), "it is told to stop"
    sample.queue.cancelled.heard(CPU1)
    assert not is_assigned(sample)
    assert sample.queue.can_run(), "it is waited for"
    assert sample.queue.cancelled.left_s(sample.key) == CPU0.term_s
    sample.queue.cancelled.heard(CPU0, "another lease")
    assert not is_assigned(sample)
    sample.queue.cancelled.heard(CPU0)
    assert sample.queue.cancelled.left_s(sample.key) == 0
    assert is_assigned(sample)


def test_its_report_tells_that_it_has_ended_and_so_does_the_end_of_its_term() -> None:
    sample = SampleQueue()
    sample.queue.cancelled.heard(CPU0, requeued(sample).lease_id)
    assert is_assigned(sample)
    sample = SampleQueue()
    requeued(sample)
    sample.clock.advance(CPU0.term_s - 1)
    sample.queue.update_leases(lambda each: each.extended(5, sample.clock()))
    sample.clock.advance(2)
    assert not is_assigned(sample), "the manager was asleep"
    sample.clock.advance(CPU0.term_s)
    assert is_assigned(sample)


def test_a_row_of_the_attempt_that_was_cancelled_completes_the_task_that_waits_for_its_end() -> None:
    sample = SampleQueue()
    requeued(sample)
    assert not is_assigned(sample)
    sample.queue.complete(sample.key)
    sample.queue.cancelled.heard(CPU0)
    assert sample.state() is State.COMPLETE
    assert not is_assigned(sample)


def test_a_worker_without_heartbeats_which_would_not_hear_of_it_is_not_waited_for() -> None:
    sample = SampleQueue()
    sample.assign(WorkerInfo("script", None))
    assert sample.queue.cancel(sample.key)
    assert sample.queue.requeue(sample.key)
    assert is_assigned(sample)
