"""How fast a sweep goes, when it will be done: told while workers come, work and go."""

import random
from collections.abc import Callable, Sequence

import pytest

from distexp.manager.forecast import KEPT, SAMPLE, Forecast, Forecaster
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Lease
from distexp.queue.task_queue import TaskQueue
from distexp.task import State, Task
from distexp.wire import messages as wire
from tests.row_cases import a_task
from tests.support import Clock


class Shop:
    """A queue that workers work off on a clock of its own, with its pace."""

    def __init__(self, tasks: Sequence[Task], workers: int = 4) -> None:
        self.clock = Clock()
        self.queue = TaskQueue(self.clock, lambda record: None)
        self.queue.sync(tasks)
        self.registry = WorkerRegistry(host="here", machine="", nonce="", clock=self.clock)
        self.forecaster = Forecaster(self.queue, self.registry)
        self.busy: dict[int, tuple[Lease, float]] = {}  # worker -> what it runs, until when
        self.workers = range(workers)

    def greet(self, worker: int, progress: wire.Progress | None = None) -> None:
        request = wire.Heartbeat(worker_id=f"gpu{worker}", instance=str(worker), progress=progress)
        self.registry.register(request, worker)

    def assign(self, worker: int, seconds: float = 0.0) -> Lease | None:
        request = wire.RequestTask(worker_id=f"gpu{worker}", instance=str(worker), heartbeat_s=15.0)
        lease = self.queue.assign(self.registry.register(request, worker).info)
        if lease is not None:
            self.busy[worker] = (lease, self.clock() + seconds)
        return lease

    def complete(self, worker: int) -> None:
        lease, _ = self.busy.pop(worker)
        before = self.queue.complete(lease.task.key)
        assert before is not None
        assert before.lease is not None
        self.forecaster.completed(before.lease)

    def run(self, took_s: Callable[[Task], float], until: int) -> float:
        """Work until so many tasks are complete, or all; return the time that it took, in seconds."""
        began_s = self.clock()
        while self.queue.counts()[State.COMPLETE] < until:
            for worker in self.workers:
                if worker not in self.busy and (lease := self.assign(worker)) is not None:
                    self.busy[worker] = (lease, self.clock() + took_s(lease.task))
            worker = min(self.busy, key=lambda each: self.busy[each][1])
            self.clock.advance(self.busy[worker][1] - self.clock())
            for each in self.workers:  # all beat
                self.greet(each)
            self.complete(worker)
        return self.clock() - began_s

    def forecast(self) -> Forecast:
        self.forecaster._stale_at_s = 0.0  # as one that is asked for later
        return self.forecaster.forecast(self.queue.counts())

    def eta_s(self) -> float | None:
        return self.forecast().eta_s


def mixed(count: int) -> list[Task]:
    """Tasks of mixed cost: a slow axis of many values, a fast one with a large effect."""
    return [
        a_task(seed, lr=number // 8, width=2 ** (number % 8)) for number in range(count) for seed in (1, 2)
    ]


@pytest.mark.parametrize("count", [200, 400, 2000])
@pytest.mark.parametrize("workers", [1, 4, 16])
def test_the_estimate_is_right_within_one_and_a_half_once_a_tenth_is_done(count: int, workers: int) -> None:
    tasks, noise = mixed(count), random.Random(7)
    shop = Shop(tasks, workers)
    shop.run(took_s := lambda task: (2 + task.config["width"]) * noise.uniform(0.7, 1.4), len(tasks) // 10)
    estimate_s = shop.eta_s()
    assert estimate_s is not None
    assert 1 / 1.5 < estimate_s / shop.run(took_s, len(tasks)) < 1.5
    assert shop.eta_s() == 0.0


def test_a_task_of_a_new_kind_tells_by_its_progress_how_long_its_like_will_take() -> None:
    tasks = [a_task(seed, epochs=epochs) for epochs in ("few", "many") for seed in range(10)]
    shop = Shop(tasks, 1)
    shop.run(lambda task: 10.0, 10)
    assert shop.eta_s() == pytest.approx(100.0)
    shop.assign(0)
    shop.clock.advance(20.0)
    shop.greet(0, wire.Progress(step=2, total=100))
    assert shop.eta_s() == pytest.approx(10 * 1000 - 20)


def test_there_is_no_estimate_before_the_first_task_nor_without_a_worker() -> None:
    shop = Shop(mixed(10))
    assert shop.forecast().why_no_eta == "after the first task"
    shop.run(lambda task: 1.0, 1)
    assert shop.eta_s() is not None
    for lease, _ in shop.busy.values():
        shop.queue.release(lease.lease_id, lease.task.key)
    for worker in shop.workers:
        shop.registry.disconnect(worker)
    assert shop.forecast().why_no_eta == "no worker may have tasks"


def test_the_rate_is_that_of_the_tasks_completed_last() -> None:
    shop = Shop(mixed(100), 1)
    assert shop.forecast().per_hour is None
    shop.run(lambda task: 36.0, 11)
    assert shop.forecast().per_hour == pytest.approx(100.0)


def test_what_is_kept_stays_small_whatever_the_sweep_and_a_changed_sweep_is_sampled_anew() -> None:
    shop = Shop(mixed(3000))
    shop.run(lambda task: 1.0, 3 * KEPT)
    shop.eta_s()
    assert len(shop.forecaster._measured) == KEPT
    assert len(shop.forecaster._sample) <= SAMPLE
    sample = dict(shop.forecaster._sample)
    shop.eta_s()
    assert shop.forecaster._sample == sample, "it is not drawn at each look"
    shop.queue.sync(shop.queue.sample(10))
    shop.forecaster.forget_sample()
    shop.eta_s()
    assert len(shop.forecaster._sample) <= 10


def test_a_phase_is_too_long_by_the_median_of_its_tasks_that_were_completed_last() -> None:
    phases = (("exp1", 1), ("exp2", 2))
    shop = Shop([a_task(seed, phase=phase, width=width) for phase, width in phases for seed in range(40)], 1)
    assert shop.forecaster.too_long(0.0) == frozenset(), (
        "of a phase without a completed task nothing is known"
    )
    took_s = iter([10.0] * 10 + [100.0, 100.0, 30.0] * 10)
    shop.run(lambda task: next(took_s), 40)
    assert shop.forecaster.too_long(99.0) == {"exp1"}
    assert shop.forecaster.too_long(100.0) == frozenset()
    shop.run(lambda task: 5.0, 41)
    assert shop.forecaster.too_long(4.0) == {"exp1", "exp2"}
    assert shop.forecaster.too_long(None) == frozenset()


def test_failures_are_told_with_the_latest_first() -> None:
    shop = Shop(mixed(1))
    for number in range(20):
        shop.forecaster.failed(a_task(number), "gpu0", "error: no", State.PENDING)
    assert [each.task_id for each in shop.forecaster.failures()][:2] == ["exp1_1_19", "exp1_1_18"]
    assert len(shop.forecaster.failures()) == 8
