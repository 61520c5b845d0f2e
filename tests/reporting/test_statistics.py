"""Means and intervals over seeds: each seed counts once."""

import math
import statistics as reference

import pytest

from distexp.reporting.statistics import Point, Samples, point, t95

GRID = [(width, lr, seed) for width in (0, 1) for lr in (0, 1, 2) for seed in (1, 2, 3)]
SAMPLES = Samples([(width, lr) for width, lr, _ in GRID], [seed for *_, seed in GRID])
VALUES = [10.0 * width + lr + seed / 10 for width, lr, seed in GRID]


def test_the_interval_of_five_seeds_is_students() -> None:
    values = [0.9, 0.91, 0.93, 0.88, 0.94]
    half = 2.776 * reference.stdev(values) / math.sqrt(5)
    assert point(values) == Point(pytest.approx(0.912), pytest.approx(half, rel=1e-5), 5)


def test_one_seed_has_no_interval() -> None:
    assert point([0.6]) == Point(0.6, None, 1)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (30, 2.042), (31, 2.0395), (60, 2.0003), (10**6, 1.95997)]
)
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t95(freedom) == pytest.approx(quantile, abs=1e-4)


def test_along_an_axis_a_seed_counts_once_whatever_else_varies() -> None:
    found = dict(SAMPLES.along(0, VALUES))
    assert list(found) == [0, 1]
    assert found[1] == Point(pytest.approx(11.2), pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-4), 3)


def test_across_two_axes_stand_means_and_gaps() -> None:
    values = [None if at >= 15 else value for at, value in enumerate(VALUES)]
    assert SAMPLES.across(0, 1, (2, 3), values) == [[0.2, 10.2], [1.2, 11.2], [2.2, None]]


def test_the_best_combinations_come_first_in_both_directions() -> None:
    found = SAMPLES.ranked(2, VALUES)
    assert [place for place, _ in found["highest"]] == [(1, 2), (1, 1)]
    assert [place for place, _ in found["lowest"]] == [(0, 0), (0, 1)]


def test_a_value_of_which_nothing_is_known_is_left_out() -> None:
    values = [value if width == 0 else None for (width, *_), value in zip(GRID, VALUES, strict=True)]
    assert [at for at, _ in SAMPLES.along(0, values)] == [0]
    assert len(SAMPLES.ranked(9, values)["lowest"]) == 3
