"""How much of a metric's variance each axis explains, beside SciPy's analysis of variance."""

import random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway

from distexp.reporting.comparison import frame_of, importance

DRAW = random.Random(3)
PLACES = [(a, b) for a in range(4) for b in range(3) for _ in range(5)]
SEEDS = [seed for _ in range(12) for seed in range(5)]
VALUES = [2.0 * a + 0.5 * b + DRAW.gauss(0, 1) for a, b in PLACES]


def eta_squared(groups: list[int]) -> float:
    """Return what SciPy's F says: F x df / (F x df + df of the rest)."""
    frame = pd.DataFrame({"group": groups, "value": VALUES})
    parts = [part["value"].to_numpy() for _, part in frame.groupby("group")]
    between, within = len(parts) - 1, len(VALUES) - len(parts)
    f = f_oneway(*parts).statistic * between
    return float(f / (f + within))


def test_each_axis_and_the_seed_explain_what_an_anova_says_the_largest_first() -> None:
    found = importance(frame_of(PLACES, SEEDS, VALUES), [None, None])
    assert [share.axis for share in found] == [0, 1, None]
    oracle = [eta_squared([a for a, _ in PLACES]), eta_squared([b for _, b in PLACES]), eta_squared(SEEDS)]
    assert [share.explained for share in found] == pytest.approx(oracle, rel=1e-5)
    assert [(share.groups, share.chance) for share in found] == [
        (4, pytest.approx(3 / 59, rel=1e-5)),
        (3, pytest.approx(2 / 59, rel=1e-5)),
        (5, pytest.approx(4 / 59, rel=1e-5)),
    ]


def test_many_numbers_are_cut_into_eight_groups_of_equal_size() -> None:
    """As in a random search: each value alone would explain everything."""
    values = [DRAW.random() for _ in range(80)]
    results = [value + DRAW.gauss(0, 0.1) for value in values]
    (share,) = importance(frame_of([(at,) for at in range(80)], [1] * 80, results), [values])
    octiles = pd.qcut(pd.Series(values), 8, labels=False)
    parts = [np.asarray(results)[octiles == at] for at in range(8)]
    f = f_oneway(*parts).statistic * 7
    assert (share.groups, share.explained) == (8, pytest.approx(f / (f + 72), rel=1e-5))


def test_an_axis_of_which_each_run_has_its_own_text_explains_nothing_that_can_be_told() -> None:
    assert importance(frame_of([(at,) for at in range(9)], [1] * 9, [*map(float, range(9))]), [None]) == []


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300])
def test_a_metric_that_never_varies_has_nothing_to_explain(value: float) -> None:
    assert importance(frame_of(PLACES, SEEDS, [value] * len(SEEDS)), [None, None]) == []
