"""The benchmark `search`: its table of recorded trainings can be made again, its searches are real ones."""

from pathlib import Path

import pytest

from benchmarks.search import ours
from benchmarks.search.record import train
from benchmarks.search.replay import AXES, EPOCHS, SEEDS, best_so_far, recordings, space
from benchmarks.search.strategies import Searches

POINTS = 0.03  # of val_acc, between processors that round differently


@pytest.mark.parametrize(("values", "seed"), [((0.01, 8, 128), 1), ((0.1, 4, 128), 2), ((0.0001, 2, 64), 1)])
def test_a_training_made_anew_is_the_recorded_one(values: tuple[float, int, int], seed: int) -> None:
    row = train(*values, seed)
    val_acc = [row[str(step)] for step in range(1, EPOCHS + 1)]
    assert val_acc == pytest.approx(recordings(seed)[values].val_acc, abs=POINTS)
    assert row["epoch_ms"] > 0


def test_the_table_holds_every_combination_for_both_seeds() -> None:
    axes = space()
    assert list(axes) == list(AXES)
    assert [len(axis) for axis in axes.values()] == [9, 4, 4]
    assert [len(recordings(seed)) for seed in SEEDS] == [144, 144]


def test_a_search_of_ours_logs_every_epoch_that_its_workers_spend(tmp_path: Path) -> None:
    ours.search("random", repeats=2, samples=4, logs=tmp_path, halves=True)
    for repeat in range(2):
        best = best_so_far(tmp_path / f"{repeat}.log", repeat)
        assert EPOCHS + 3 <= len(best) <= 4 * EPOCHS  # one comes to its end in any case
        assert best == sorted(best, reverse=True)
    assert len(ours.verdicts_ms(tmp_path)) >= 8


def test_a_search_that_never_comes_near_counts_with_all_that_it_spent() -> None:
    searches = Searches("some", [[30.0, 1.0, 0.0], [30.0, 20.0, 1.1], [0.5], [9.0, 0.9]])
    assert searches.epochs == [2, 3, 1, 2]
    assert searches.in_vain == 1
    assert searches.quartiles == (1.75, 2, 2.25)
