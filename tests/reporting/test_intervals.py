"""Means and intervals over seeds; every value of an axis is judged by the same runs."""

import math
import statistics

import pytest

from distexp.reporting.aggregate import Point, compare, frame_of, rank

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
    found = compare(frame_of(PLACES, SEEDS, VALUES), [0], SIZES, 9)
    assert found.points
    assert (found.runs, found.of, found.absent) == (9, 9, 0)
    assert [at for at, _ in found.points] == [0, 1]
    half = pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert found.points[1][1] == Point(pytest.approx(11.2), half, 3)


def test_a_value_whose_bad_runs_failed_is_not_better_for_it() -> None:
    """Width 1 is worse by 1 everywhere, but all its runs with the bad learning rate have failed."""
    values = [None if (w, lr) == (1, 0) else 10.0 * lr - w for w, lr, _ in GRID]
    found = compare(frame_of(PLACES, SEEDS, values), [0], SIZES, 9)
    assert found.points
    assert [point.mean for _, point in found.points] == [15, 14]
    assert (found.runs, found.of, found.absent) == (6, 9, 0)


def test_a_value_without_any_number_is_left_out_and_counted() -> None:
    values = [value if width == 0 else None for (width, *_), value in zip(GRID, VALUES, strict=True)]
    found = compare(frame_of(PLACES, SEEDS, values), [0], SIZES, 9)
    assert found.points
    assert ([at for at, _ in found.points], found.runs, found.absent) == ([0], 9, 1)


def test_values_that_share_no_run_are_not_compared() -> None:
    values = [
        value if (w == 0) == (lr == 0) else None for (w, lr, _), value in zip(GRID, VALUES, strict=True)
    ]
    assert compare(frame_of(PLACES, SEEDS, values), [0], SIZES, 9).points == []


def test_across_two_axes_stand_means_of_the_same_seeds_and_gaps() -> None:
    values = [None if at >= 15 or at == 2 else value for at, value in enumerate(VALUES)]  # seed 3 of one pair
    found = compare(frame_of(PLACES, SEEDS, values), (0, 1), SIZES, 3)
    assert found.means == [[0.15, 10.15], [1.15, 11.15], [2.15, None]]
    assert (found.runs, found.of, found.absent) == (2, 3, 1)


def test_the_best_combinations_come_first_in_both_directions() -> None:
    found = rank(frame_of(PLACES, SEEDS, VALUES), 2)
    assert [place for place, _ in found["highest"]][:2] == [[1, 2], [1, 1]]
    assert [place for place, _ in found["lowest"]][:2] == [[0, 0], [0, 1]]
