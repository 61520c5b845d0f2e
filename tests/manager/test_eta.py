"""When will a sweep be done: the model and its estimate, on sweeps whose times are known."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from distexp.manager.eta import Features, features_of, fit, remaining_s
from distexp.task import Task
from tests.row_cases import a_task

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
def test_the_estimate_is_right_within_one_and_a_half_once_a_tenth_is_done(name: str) -> None:
    tasks, took_s = SWEEPS[name]
    assert 1 / 1.5 < error_after(tasks, took_s, tenth(tasks)) < 1.5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", SWEEPS)
def test_the_estimate_stays_right_to_the_end(name: str, share: float) -> None:
    tasks, took_s = SWEEPS[name]
    assert 1 / 1.5 < error_after(tasks, took_s, int(share * len(tasks))) < 1.5


def facts(**values: object) -> Features:
    return features_of(a_task(**values))  # type: ignore[arg-type]


def test_factors_of_a_crossed_grid_are_told_exactly() -> None:
    measured = [(facts(a=a, b=b), 2.0 * a * b) for a in (1, 3) for b in (1, 5)]
    model = fit(measured)
    assert model is not None
    for values, seconds in measured:
        assert model.predict_s(values) == pytest.approx(seconds)


def test_a_value_that_was_not_seen_follows_the_trend_of_numbers_and_else_takes_the_mean() -> None:
    model = fit([(facts(epochs=e, model=m), s) for e, m, s in [(10, "a", 10.0), (20, "a", 20.0)]])
    assert model is not None
    assert model.predict_s(facts(epochs=40, model="a")) == pytest.approx(40.0)
    assert model.predict_s(facts(epochs="many", model="a")) == pytest.approx(15.0)
    assert model.predict_s(facts(epochs=10**9, model="a")) == pytest.approx(320.0), "a bounded trend"


def test_odd_values_and_no_time_at_all_make_no_trouble() -> None:
    odd = [True, None, [1, 2], {"a": 1}, "", -1, 0, 1e300, float("inf")]
    model = fit([(facts(x=value), 0.0) for value in odd])
    assert model is not None
    assert model.predict_s(facts(x=[3])) == pytest.approx(1e-3)
    assert fit([]) is None


def test_the_rest_is_shared_by_the_workers_and_never_shorter_than_its_longest_task() -> None:
    assert remaining_s([10.0, 20.0], 100, [6.0], 4) == pytest.approx((1500 + 6) / 4)
    assert remaining_s([], 0, [5.0, 90.0], 8) == 90.0
    assert remaining_s([], 0, [], 1) == 0.0
