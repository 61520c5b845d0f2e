"""The sampler process: what it suggests depends on what it is told alone, and it is started again."""

import os
import signal
from collections.abc import Iterator
from copy import copy

import pytest

from distexp.errors import SamplerFailed
from distexp.search.sampler import Begin, Trial
from distexp.search.sampler_process import SamplerProcess

BEGIN = Begin("p", [None, 4], maximize=False)


def trial(number: int) -> Trial:
    unit = (number * 7 % 20) / 20
    value = abs(unit - 0.3) + number % 4
    return Trial("p", number, [unit, number % 4], None if number == 5 else value, 1 if number % 3 else None)


@pytest.fixture
def sampler() -> Iterator[SamplerProcess]:
    sampler = SamplerProcess()
    yield sampler
    sampler.close()


def test_the_order_in_which_it_hears_of_trials_does_not_matter(sampler: SamplerProcess) -> None:
    trials = [trial(number) for number in range(30)]
    sampler.ask(BEGIN, trials[10:20], 1)
    sampler.ask(BEGIN, trials[::-1], 2)
    known = [sampler.ask(BEGIN, trials, seed) for seed in range(5)]
    begin = copy(BEGIN)
    assert [sampler.ask(begin, trials, seed) for seed in range(5)] == known
    assert len({*map(tuple, known)}) == 5


def test_it_learns(sampler: SamplerProcess) -> None:
    places = [sampler.ask(BEGIN, [trial(number) for number in range(0, 60, 3)], seed) for seed in range(20)]
    assert sum(place == 0 for _, place in places) > 10  # the best choice of four
    assert all(0 <= unit <= 1 for unit, _ in places)


def test_a_trial_that_runs_on_counts_as_it_ends_at_last(sampler: SamplerProcess) -> None:
    stopped = [Trial("p", number, [number / 30, 0], 1.0, 1) for number in range(20)]
    ended = [Trial("p", each.number, each.places, each.places[0]) for each in stopped]  # type: ignore[arg-type]
    sampler.ask(BEGIN, stopped, 1)
    late = sampler.ask(BEGIN, ended, 1)
    assert sampler.ask(copy(BEGIN), ended, 1) == late


def test_a_search_that_begins_anew_knows_nothing_of_before(sampler: SamplerProcess) -> None:
    fresh = sampler.ask(BEGIN, [], 1)
    sampler.ask(BEGIN, [trial(number) for number in range(30)], 1)
    assert sampler.ask(copy(BEGIN), [], 1) == fresh


def test_one_that_dies_is_started_again_and_told_everything(sampler: SamplerProcess) -> None:
    trials = [trial(number) for number in range(30)]
    known = sampler.ask(BEGIN, trials, 7)
    assert sampler._process is not None
    os.kill(sampler._process.pid, signal.SIGTERM)
    sampler._process.wait()
    with pytest.raises(SamplerFailed, match="the process that asks Optuna has ended: killed"):
        sampler.ask(BEGIN, trials, 7)
    assert sampler.ask(BEGIN, trials, 7) == known


def test_the_last_words_of_one_that_dies_are_told(sampler: SamplerProcess) -> None:
    with pytest.raises(SamplerFailed, match="ValueError"):
        sampler.ask(Begin("p", [0], maximize=True), [], 1)


def test_after_its_end_nothing_is_suggested(sampler: SamplerProcess) -> None:
    sampler.ask(BEGIN, [], 1)
    sampler.close()
    with pytest.raises(SamplerFailed, match="the manager stops"):
        sampler.ask(BEGIN, [], 1)
