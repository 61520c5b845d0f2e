"""How fast a sweep goes, when it will be done: told while workers come, work and go."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from distexp.manager.forecast import (
    HANGS,
    HELD,
    KEPT,
    SAMPLE,
    TOO_EARLY,
    Features,
    Forecast,
    Forecaster,
    features_of,
    fit,
    remaining_s,
)
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Lease
from distexp.queue.task_queue import TaskQueue
from distexp.task import Cause, State, Task
from distexp.wire import messages as wire
from distexp.workdir import Workdir
from tests.row_cases import a_task
from tests.support import Clock


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """Let the sample that stands for all pending tasks be the same in every run."""
    random.seed(7)


class SimulatedSweep:
    """A queue that workers work through, on a clock of its own, with its forecaster."""

    def __init__(self, tasks: Sequence[Task], workers: int = 4) -> None:
        self.clock = Clock()
        self.queue = TaskQueue(self.clock, lambda record: None)
        self.queue.sync(tasks)
        self.registry = WorkerRegistry(
            host="here", machine="", nonce="", task_lock=Workdir(Path()).task_lock, clock=self.clock
        )
        self.forecaster = Forecaster(self.queue, self.registry)
        self.busy: dict[int, tuple[Lease, float]] = {}  # worker -> what it runs, until when
        self.workers = range(workers)

    def heartbeat(self, worker: int, progress: wire.Progress | None = None) -> None:
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
            for each in self.workers:  # all send heartbeats
                self.heartbeat(each)
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
    sweep = SimulatedSweep(tasks, workers)
    sweep.run(took_s := lambda task: (2 + task.config["width"]) * noise.uniform(0.7, 1.4), len(tasks) // 10)
    estimate_s = sweep.eta_s()
    assert estimate_s is not None
    assert 1 / 1.5 < estimate_s / sweep.run(took_s, len(tasks)) < 1.5
    assert sweep.eta_s() == 0.0


def test_a_task_of_a_new_kind_tells_by_its_progress_how_long_its_like_will_take() -> None:
    tasks = [a_task(seed, epochs=epochs) for epochs in ("few", "many") for seed in range(10)]
    sweep = SimulatedSweep(tasks, 1)
    sweep.run(lambda task: 10.0, 10)
    assert sweep.eta_s() == pytest.approx(100.0)
    sweep.assign(0)
    sweep.clock.advance(20.0)
    sweep.heartbeat(0, wire.Progress(step=2, total=100))
    assert sweep.eta_s() == pytest.approx(10 * 1000 - 20)


@pytest.mark.parametrize(("count", "enough"), [(15, 2), (1000, 20)])
def test_an_estimate_comes_with_a_twentieth_of_the_tasks_or_with_twenty(count: int, enough: int) -> None:
    sweep = SimulatedSweep(mixed(count))
    sweep.run(lambda task: 1.0, enough - 1)
    assert (sweep.eta_s(), sweep.forecast().why_no_eta) == (None, TOO_EARLY)
    sweep.run(lambda task: 1.0, enough)
    assert sweep.eta_s() is not None


def test_one_long_task_tells_by_its_progress_when_it_ends() -> None:
    sweep = SimulatedSweep([a_task(1)], 1)
    sweep.assign(0)
    for step, estimate_s in ((3, None), (6, 940.0)):
        sweep.clock.advance(30.0)
        sweep.heartbeat(0, wire.Progress(step=step, total=100))
        assert sweep.eta_s() == estimate_s


def test_there_is_no_estimate_before_the_first_task_nor_without_a_worker() -> None:
    sweep = SimulatedSweep(mixed(10))
    assert sweep.forecast().why_no_eta == TOO_EARLY
    sweep.run(lambda task: 1.0, 1)
    assert sweep.eta_s() is not None
    for lease, _ in sweep.busy.values():
        sweep.queue.release(lease.lease_id, lease.task.key)
    for worker in sweep.workers:
        sweep.registry.disconnect(worker)
    assert sweep.forecast().why_no_eta == "no worker may have tasks"


def test_the_rate_is_that_of_the_tasks_completed_last() -> None:
    sweep = SimulatedSweep(mixed(100), 1)
    assert sweep.forecast().per_hour is None
    sweep.run(lambda task: 36.0, 11)
    assert sweep.forecast().per_hour == pytest.approx(100.0)


def test_what_is_kept_stays_small_whatever_the_sweep_and_a_changed_sweep_is_sampled_anew() -> None:
    sweep = SimulatedSweep(mixed(3000))
    sweep.run(lambda task: 1.0, 3 * KEPT)
    sweep.eta_s()
    assert len(sweep.forecaster._measured) == KEPT
    assert len(sweep.forecaster._sample) <= SAMPLE
    sample = dict(sweep.forecaster._sample)
    sweep.eta_s()
    assert sweep.forecaster._sample == sample, "it is not drawn at each look"
    sweep.queue.sync(sweep.queue.queries.sample(10))
    sweep.forecaster.sweep_changed()
    sweep.eta_s()
    assert len(sweep.forecaster._sample) <= 10


def test_what_a_running_task_should_take_is_told_by_its_values_and_not_by_what_hangs() -> None:
    sweep = SimulatedSweep([a_task(seed, width=width) for seed in range(8) for width in (1, 10)], 2)
    assert sweep.forecaster.usual_s(a_task(1, width=1)) is None
    sweep.run(lambda task: 6.0 if task.config["width"] == 1 else 60.0, 8)
    lease = sweep.assign(7)
    assert lease is not None
    for _ in range(2):
        sweep.eta_s()
        assert sweep.forecaster.usual_s(a_task(1, width=1)) == pytest.approx(6.0)
        assert sweep.forecaster.usual_s(a_task(1, width=10)) == pytest.approx(60.0)
        sweep.clock.advance(10_000.0)


def test_a_worker_that_hangs_is_not_counted_on_and_what_it_runs_is_not_waited_for() -> None:
    sweep = SimulatedSweep([a_task(seed, width=width) for seed in range(8) for width in (1, 2)], 2)
    sweep.run(lambda task: 10.0, 6)
    sweep.assign(1)  # it never ends

    def go_on(times: int) -> None:
        for _ in range(times):
            sweep.clock.advance(10.0)
            sweep.heartbeat(0), sweep.heartbeat(1)
            sweep.complete(0)
            sweep.assign(0)

    go_on(1)
    assert sweep.eta_s() == pytest.approx((8 * 10) / 2)
    go_on(3)
    assert sweep.eta_s() == pytest.approx(5 * 10)
    go_on(5)
    assert (sweep.eta_s(), sweep.forecast().why_no_eta) == (None, HANGS)
    sweep.complete(1)
    assert sweep.eta_s() == 0.0


def test_a_task_whose_like_nobody_has_seen_or_that_tells_its_progress_does_not_hang() -> None:
    sweep = SimulatedSweep([a_task(seed, epochs=epochs) for epochs in (1, 2, 90) for seed in range(4)], 1)
    sweep.run(lambda task: 10.0 * task.config["epochs"], 8)
    sweep.assign(0)
    sweep.clock.advance(3000.0)
    assert sweep.eta_s() == pytest.approx(750.0 + 3 * 3750.0, rel=0.01)
    sweep.heartbeat(0, wire.Progress(step=50, total=100))
    sweep.clock.advance(100.0)
    assert sweep.eta_s() == pytest.approx(2900.0 + 3 * 6000.0, rel=0.01)
    sweep.heartbeat(0, wire.Progress(step=51, total=100))
    sweep.clock.advance(290.0)
    sweep.heartbeat(0, wire.Progress(step=51, total=100))
    assert sweep.eta_s() is not None
    sweep.clock.advance(20.0)  # three times as long as between its last two steps
    assert (sweep.eta_s(), sweep.forecast().why_no_eta) == (None, HANGS)


def test_a_held_phase_is_not_waited_for() -> None:
    phases = ("exp1", "exp2")
    sweep = SimulatedSweep([a_task(seed, phase=phase) for phase in phases for seed in range(8)], 1)
    sweep.run(lambda task: 10.0, 2)
    assert sweep.eta_s() == pytest.approx(140.0)
    lease = next(iter(sweep.queue.leases()), None) or sweep.assign(0)
    assert lease is not None
    sweep.queue.holds.not_begun("exp2", Cause.IMPORT, "no", lease.worker)
    sweep.queue.release(lease.lease_id, lease.task.key)
    sweep.busy.clear()
    assert sweep.eta_s() == pytest.approx(60.0)
    sweep.run(lambda task: 10.0, 8)
    assert (sweep.eta_s(), sweep.forecast().why_no_eta) == (None, HELD)


def test_the_sample_of_pending_tasks_is_one_of_those_that_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    short_long = [a_task(seed, phase="exp1", width=1 + (seed >= 15)) for seed in range(40)]
    sweep = SimulatedSweep([*short_long, *[a_task(seed, phase="exp2") for seed in range(4000)]], 1)
    sweep.run(lambda task: 10.0 if task.config["width"] == 1 else 100.0, 25)
    held = sweep.queue.assign(sweep.registry.all()[0][0].info)
    assert held is not None
    sweep.queue.holds.not_begun("exp2", Cause.IMPORT, "no", held.worker)
    sweep.queue.release(held.lease_id, held.task.key)
    drawn, sample = list[int](), sweep.queue.queries.sample
    monkeypatch.setattr(sweep.queue.queries, "sample", lambda *words: drawn.append(1) or sample(*words))
    for _ in range(3):
        assert sweep.eta_s() == pytest.approx(1500.0)
    assert len(drawn) == 1, "each draw walks through the whole sweep"
    sweep.queue.holds.end_all()
    assert sweep.eta_s() == pytest.approx(1500.0 + 4000 * 10.0, rel=0.05)


def test_a_phase_is_too_long_by_the_median_of_its_tasks_that_were_completed_last() -> None:
    phases = (("exp1", 1), ("exp2", 2))
    sweep = SimulatedSweep(
        [a_task(seed, phase=phase, width=width) for phase, width in phases for seed in range(40)], 1
    )
    assert sweep.forecaster.too_long(0.0) == frozenset(), (
        "of a phase without a completed task nothing is known"
    )
    took_s = iter([10.0] * 10 + [100.0, 100.0, 30.0] * 10)
    sweep.run(lambda task: next(took_s), 40)
    assert sweep.forecaster.too_long(99.0) == {"exp1"}
    assert sweep.forecaster.too_long(100.0) == frozenset()
    sweep.run(lambda task: 5.0, 41)
    assert sweep.forecaster.too_long(4.0) == {"exp1", "exp2"}
    assert sweep.forecaster.too_long(None) == frozenset()


def test_the_latest_failure_of_each_cause_is_told_the_latest_cause_first() -> None:
    sweep = SimulatedSweep(mixed(1))
    causes = ["error: nan at step 3", "timeout: 60 s", *(f"error: nan at step {n}" for n in range(20))]
    for number, why in enumerate(causes):
        sweep.forecaster.failed(a_task(number), "gpu0", why, State.PENDING)
    assert [each.why for each in sweep.forecaster.failures()] == ["error: nan at step 19", "timeout: 60 s"]


def test_of_many_causes_the_latest_eight_are_told() -> None:
    sweep = SimulatedSweep(mixed(1))
    for letter in "abcdefghij":
        sweep.forecaster.failed(a_task(1), "gpu0", f"error: {letter}", State.PENDING)
    assert [each.why[-1] for each in sweep.forecaster.failures()] == [*"jihgfedc"]


# -- the model ----------------------------------------------------------------------------------------------

Times = Callable[[Task], float]


def grid(phase: str = "exp1", seeds: int = 5, **axes: Sequence[object]) -> list[Task]:
    """The tasks of a phase in the order of the sweep: the first axis varies slowest, the seed fastest."""
    points = itertools.product(*axes.values())
    return [
        a_task(seed, phase=phase, axes=tuple(axes), **dict(zip(axes, point, strict=True)))
        for point in points
        for seed in range(seeds)
    ]


def error_after(tasks: list[Task], took_s: Times, done: int, workers: int = 4) -> float:
    """The estimate once the first `done` tasks are measured, divided by the truth."""
    noise = random.Random(1)
    times_s = [took_s(task) * noise.uniform(0.8, 1.25) for task in tasks]
    measured = [(features_of(task), s) for task, s in zip(tasks[:done], times_s, strict=False)]
    model = fit(measured)
    assert model is not None
    left = tasks[done:]
    guess_s = remaining_s([model.predict_s(features_of(task)) for task in left], len(left), [], workers)
    return guess_s * workers / sum(times_s[done:])


def tenth(tasks: list[Task]) -> int:
    return -(-len(tasks) // 10)


SWEEPS: dict[str, tuple[list[Task], Times]] = {
    "all alike": (grid(lr=[0.1, 0.2, 0.3], width=[1, 2, 4, 8]), lambda task: 20.0),
    "a slow axis without effect, a fast one with a large one": (
        grid(lr=list(range(12)), width=[1, 2, 4, 8]),
        lambda task: 3.0 * task.config["width"] ** 1.5,
    ),
    "two axes that multiply, the slow one of many values": (
        grid(epochs=[5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60], width=[1, 2, 4], seeds=3),
        lambda task: task.config["epochs"] * (1.0 + task.config["width"]),
    ),
    "a slow axis of numbers of which two values were seen": (
        grid(epochs=[10, 11, *range(12, 32)], seeds=10),
        lambda task: 0.5 * task.config["epochs"],
    ),
    "a second phase that takes other values of the same parameter": (
        grid("exp1", epochs=[5, 10, 20], seeds=4) + grid("exp2", epochs=[40, 80], seeds=30),
        lambda task: 2.0 * task.config["epochs"],
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_model_is_right_within_one_and_a_half_once_a_tenth_is_done(name: str) -> None:
    tasks, took_s = SWEEPS[name]
    assert 1 / 1.5 < error_after(tasks, took_s, tenth(tasks)) < 1.5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", SWEEPS)
def test_the_model_stays_right_to_the_end(name: str, share: float) -> None:
    tasks, took_s = SWEEPS[name]
    assert 1 / 1.5 < error_after(tasks, took_s, int(share * len(tasks))) < 1.5


def features(**values: object) -> Features:
    return features_of(a_task(**values))  # type: ignore[arg-type]


def test_factors_of_a_crossed_grid_are_told_exactly() -> None:
    measured = [(features(a=a, b=b), 2.0 * a * b) for a in (1, 3) for b in (1, 5)]
    model = fit(measured)
    assert model is not None
    for values, seconds in measured:
        assert model.predict_s(values) == pytest.approx(seconds)


def test_a_value_that_was_not_seen_follows_the_trend_of_numbers_and_else_takes_the_mean() -> None:
    model = fit([(features(epochs=e, model=m), s) for e, m, s in [(10, "a", 10.0), (20, "a", 20.0)]])
    assert model is not None
    assert model.predict_s(features(epochs=40, model="a")) == pytest.approx(40.0)
    assert model.predict_s(features(epochs="many", model="a")) == pytest.approx(15.0)
    assert model.predict_s(features(epochs=10**9, model="a")) == pytest.approx(320.0), "a bounded trend"


def test_odd_values_and_no_time_at_all_make_no_trouble() -> None:
    odd = [True, None, [1, 2], {"a": 1}, "", -1, 0, 1e300, float("inf")]
    model = fit([(features(x=value), 0.0) for value in odd])
    assert model is not None
    assert model.predict_s(features(x=[3])) == pytest.approx(1e-3)
    assert fit([]) is None


def test_the_rest_is_shared_by_the_workers_and_never_shorter_than_its_longest_task() -> None:
    assert remaining_s([10.0, 20.0], 100, [6.0], 4) == pytest.approx((1500 + 6) / 4)
    assert remaining_s([], 0, [5.0, 90.0], 8) == 90.0
    assert remaining_s([], 0, [], 1) == 0.0
