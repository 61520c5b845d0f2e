"""Means and intervals over seeds: each seed counts once."""

import math
import statistics as reference

import pytest

from distexp.statistics import Point, Sample, across, along, point, ranked, t95

SAMPLES = [
    Sample(place=(width, lr), seed=seed, value=10.0 * width + lr + seed / 10)
    for width in (0, 1)
    for lr in (0, 1, 2)
    for seed in (1, 2, 3)
]


def test_the_interval_of_five_seeds_is_students() -> None:
    values = [0.9, 0.91, 0.93, 0.88, 0.94]
    half = 2.776 * reference.stdev(values) / math.sqrt(5)
    found = point({seed: [value] for seed, value in enumerate(values)})
    assert found == Point(pytest.approx(0.912), pytest.approx(half, rel=1e-5), 5)


def test_one_seed_has_no_interval() -> None:
    assert point({42: [0.5, 0.7]}) == Point(0.6, None, 1)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (30, 2.042), (31, 2.0395), (60, 2.0003), (10**6, 1.95997)]
)
def test_students_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t95(freedom) == pytest.approx(quantile, abs=1e-4)


def test_along_an_axis_a_seed_counts_once_whatever_else_varies() -> None:
    found = along(SAMPLES, 0)
    assert list(found) == [0, 1]
    assert found[1] == Point(pytest.approx(11.2), pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-4), 3)


def test_across_two_axes_stand_means_and_gaps() -> None:
    found = across([sample for sample in SAMPLES if sample.place != (1, 2)], 0, 1, (2, 3))
    assert found == [[0.2, 10.2], [1.2, 11.2], [2.2, None]]


def test_the_best_combinations_come_first_in_both_directions() -> None:
    found = ranked(SAMPLES, 2)
    assert [place for place, _ in found["highest"]] == [(1, 2), (1, 1)]
    assert [place for place, _ in found["lowest"]] == [(0, 0), (0, 1)]
