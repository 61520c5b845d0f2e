"""Means and intervals over seeds; every value of an axis is judged by the same runs."""

import math
import statistics

import pytest

from distexp.reporting.aggregate import make_report
from distexp.reporting.comparison import Point, Space, compare, frame_of, means_of, rank
from distexp.results.audit import FileAudit, Row
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

GRID = [(width, lr, seed) for width in (0, 1) for lr in (0, 1, 2) for seed in (1, 2, 3)]
PLACES, SEEDS, SIZES = [(width, lr) for width, lr, _ in GRID], [seed for *_, seed in GRID], (2, 3)
VALUES: list[float | None] = [10.0 * width + lr + seed / 10 for width, lr, seed in GRID]


def test_the_interval_of_five_seeds_is_students() -> None:
    values = [0.9, 0.91, 0.93, 0.88, 0.94]
    half = 2.776 * statistics.stdev(values) / math.sqrt(5)
    found = rank(frame_of([(0,)] * 5, [1, 2, 3, 4, 5], values), 1)
    assert found["highest"] == [([0], Point(pytest.approx(0.912), pytest.approx(half, rel=1e-3), 5))]


@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_interval_and_a_phase_may_have_no_axis() -> None:
    assert rank(frame_of([()], [1], [0.6]), 0)["lowest"] == [([], Point(0.6, None, 1))]


def test_along_an_axis_a_seed_counts_once_whatever_else_varies() -> None:
    found = compare(frame_of(PLACES, SEEDS, VALUES), [0], SIZES, runs=9, groups=2)
    assert found.points
    assert (found.runs, found.of, found.absent) == (9, 9, 0)
    assert [at for at, _ in found.points] == [0, 1]
    half = pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert found.points[1][1] == Point(pytest.approx(11.2), half, 3)


def test_a_value_whose_bad_runs_failed_is_not_better_for_it() -> None:
    """Width 1 is worse by 1 everywhere, but all its runs with the bad learning rate have failed."""
    values = [None if (w, lr) == (1, 0) else 10.0 * lr - w for w, lr, _ in GRID]
    found = compare(frame_of(PLACES, SEEDS, values), [0], SIZES, runs=9, groups=2)
    assert found.points
    assert [point.mean for _, point in found.points] == [15, 14]
    assert (found.runs, found.of, found.absent) == (6, 9, 0)


def test_a_value_without_any_number_is_left_out_and_counted() -> None:
    values = [value if width == 0 else None for (width, *_), value in zip(GRID, VALUES, strict=True)]
    found = compare(frame_of(PLACES, SEEDS, values), [0], SIZES, runs=9, groups=2)
    assert found.points
    assert ([at for at, _ in found.points], found.runs, found.absent) == ([0], 9, 1)


def test_values_that_share_no_run_are_not_compared() -> None:
    values = [
        value if (w == 0) == (lr == 0) else None for (w, lr, _), value in zip(GRID, VALUES, strict=True)
    ]
    assert compare(frame_of(PLACES, SEEDS, values), [0], SIZES, runs=9, groups=2).points == []


def test_across_two_axes_stand_means_of_the_same_seeds_and_gaps() -> None:
    values = [None if at >= 15 or at == 2 else value for at, value in enumerate(VALUES)]  # seed 3 of one pair
    found = compare(frame_of(PLACES, SEEDS, values), (0, 1), SIZES, runs=3, groups=6)
    assert found.pairs
    means = [[point and point.mean for point in line] for line in found.pairs]
    assert means == [[0.15, 10.15], [1.15, 11.15], [2.15, None]]
    half = pytest.approx(12.706 * 0.05, rel=1e-3)  # of two seeds, 0.1 apart
    assert found.pairs[0][1] == Point(10.15, half, 2)
    assert (found.runs, found.of, found.absent) == (2, 3, 1)


def test_the_best_combinations_come_first_in_both_directions() -> None:
    found = rank(frame_of(PLACES, SEEDS, VALUES), 2)
    assert [place for place, _ in found["highest"]][:2] == [[1, 2], [1, 1]]
    assert [place for place, _ in found["lowest"]][:2] == [[0, 0], [0, 1]]


def test_values_that_share_no_run_by_plan_show_each_combination() -> None:
    """As in a random search, or in pairs: width 0 has the learning rate 0 alone, width 1 the rate 1."""
    frame = frame_of([(0, 0), (0, 0), (1, 1)], [1, 2, 1], [1.0, 2.0, 3.0])
    found = compare(frame, [0], SIZES, runs=0, groups=2)
    assert found.points is None
    assert means_of(frame, 2) == [([0, 0], 1.5), ([1, 1], 3.0)]


SWEEP = """
defaults: {output_dir: ./results, experiment: "mine:run"}
seeds: [1, 2]
metric: {name: cost, goal: minimize}
optimizers:
  combinations:
    - optimizer: [sgd, adam]
    - lr: [0.1, 0.3]
    - momentum: [0, 0.9]
      when: {optimizer: sgd}
"""


def test_an_axis_that_not_every_combination_has_is_compared_among_those_that_have_it() -> None:
    (phase,) = parse_config(SWEEP, "configs/config_exp1.yaml")
    tasks = expand([phase])
    space = Space.of(phase, tasks)
    places = [task.grid.positions(task.number)[:-1] for task in tasks]
    values = [float(task.task.config.get("momentum") or 0) for task in tasks]
    charts = space.charts(frame_of(places, [task.seed for task in tasks], values))
    optimizer, lr, momentum = charts["axes"]
    assert optimizer.points is None, "adam has no momentum: no run of it is one of sgd"
    assert (lr.runs, lr.of, lr.absent) == (6, 6, 0)
    assert (momentum.runs, momentum.of, momentum.absent) == (4, 4, 0)
    assert [point.mean for _, point in momentum.points] == [0, 0.9]


def test_the_metric_of_a_phase_is_shown_first_and_its_goal_says_what_is_best() -> None:
    phases = parse_config(SWEEP, "configs/config_exp1.yaml")
    file = FileAudit(path="f", columns=("acc", "cost"), rows=[Row(["1", "2"], [])])
    report = make_report(phases, expand(phases), [file], [], None)
    assert (report["metric"], report["lower"]) == ("cost", ["cost"])
