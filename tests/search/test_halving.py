"""Who goes on at a rung."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.search.halving import judge
from distexp.task import Halving
from tests.support import examples

UP, DOWN = Halving(metric="acc"), Halving(metric="loss", goal="minimize")


def stopped(values: Sequence[float | None], halving: Halving = UP) -> list[bool]:
    """Return the verdict of each of these, which come one after the other."""
    return [
        judge(str(at), {str(each): [values[each]] for each in range(at + 1)}, halving).stops
        for at in range(len(values))
    ]


def test_the_first_goes_on_and_a_worse_second_stops() -> None:
    assert stopped([0.5, 0.4]) == [False, True]
    assert stopped([0.5, 0.6]) == [False, False]


def test_of_nine_the_best_three_would_go_on() -> None:
    values = {str(at): [at / 10] for at in range(9)}
    found = [judge(str(at), values, UP) for at in range(9)]
    assert [each.stops for each in found] == [True] * 6 + [False] * 3
    assert (found[6].rank, found[6].of, found[6].kept) == (3, 9, 3)


def test_a_loss_is_better_when_it_is_small() -> None:
    assert stopped([0.5, 0.4, 0.6], DOWN) == [False, False, True]


def test_equals_share_a_rank_and_go_on_together() -> None:
    assert stopped([0.5, 0.5, 0.5]) == [False] * 3


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("halving", [UP, DOWN])
def test_what_is_no_number_is_worse_than_any(bad: float | None, halving: Halving) -> None:
    assert stopped([-1e9, bad, 1e9, bad], halving)[1::2] == [True, True]
    assert stopped([bad, bad], halving) == [False, False]


def test_seeds_count_by_their_mean_as_far_as_they_are_there() -> None:
    values = {"a": [0.9, 0.1], "b": [0.6]}
    assert judge("a", values, UP).stops
    assert judge("a", values, UP).mean == 0.5
    assert not judge("b", values, UP).stops
    assert judge("a", {"a": [0.9, None], "b": [0.1]}, UP).stops


@examples(100)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(2, 5))
def test_at_most_the_promised_share_goes_on_and_always_the_best(values: list[float], eta: int) -> None:
    halving = Halving(metric="acc", eta=eta)
    shown = {str(at): [value] for at, value in enumerate(values)}
    going = [at for at in range(len(values)) if not judge(str(at), shown, halving).stops]
    assert values.index(max(values)) in going
    assert len({values[at] for at in going}) <= max(1, len(values) // eta)


def test_rungs_are_powers_of_eta_up_to_max_iter() -> None:
    assert UP.rungs(4) == [1, 3, 9, 27]
    assert Halving(metric="acc", min_iter=2, eta=4, max_iter=32).rungs(9) == [2, 8, 32]


@pytest.mark.parametrize(("step", "rung"), [(0, None), (1, 1), (2.5, 1), (3, 3), (10, 9), (27, 27), (80, 27)])
def test_a_report_passes_the_rungs_at_or_below_its_step(step: float, rung: int | None) -> None:
    assert Halving(metric="acc", max_iter=27).rung_at(step) == rung
