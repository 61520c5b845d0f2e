"""What `early_terminate` may say, and what becomes of it."""

import pytest

from distexp.errors import ConfigError
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.task import Halving

METRIC = "metric: {name: loss, goal: minimize}"
PHASE = "p:\n  combinations: [{lr: [1, 2]}, {dataset: [a, b]}]\n"


def halving_of(beside: str, top: str = METRIC) -> Halving | None:
    (phase,) = parse_config(f"{top}\n{PHASE}  {beside}\n", "f.yaml")
    assert expand([phase])[0].grid.halving == phase.halving
    return phase.halving


def problem_of(beside: str, top: str = METRIC) -> str:
    with pytest.raises(ConfigError) as error:
        halving_of(beside, top)
    (line,) = error.value.problems
    return line


def test_what_is_left_out_has_a_default() -> None:
    assert halving_of("early_terminate: {type: asha}") == Halving(metric="loss", goal="minimize")
    assert halving_of("order: file") is None


def test_a_phase_wins_over_its_file() -> None:
    top = f"{METRIC}\nearly_terminate: {{type: asha, eta: 2}}"
    assert halving_of("order: file", top) == Halving(metric="loss", goal="minimize", eta=2)
    own = "early_terminate: {type: asha, eta: 4, min_iter: 2, max_iter: 32}\n  metric: acc"
    assert halving_of(own, top) == Halving(metric="acc", min_iter=2, eta=4, max_iter=32)


def test_hyperband_as_wandb_writes_it_is_the_same() -> None:
    said = "early_terminate: {type: hyperband, min_iter: 3, strict: true}"
    assert halving_of(said) == Halving(metric="loss", goal="minimize", min_iter=3)
    found = halving_of("early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27}")
    assert found == Halving(metric="loss", goal="minimize", min_iter=3, max_iter=27)


def test_datasets_are_compared_apart_as_the_search_or_the_key_says() -> None:
    search = "search: {method: random, samples: 2, for_each: [dataset]}\n  early_terminate: {type: asha"
    for said, names in ((f"{search}}}", ("dataset",)), (f"{search}, for_each: [lr]}}", ("lr",))):
        found = halving_of(said)
        assert found is not None and found.for_each == names


def test_it_is_no_part_of_a_task_s_key() -> None:
    one, other = (
        expand(parse_config(f"{METRIC}\n{PHASE}{more}", "f.yaml"))
        for more in ("", "  early_terminate: {type: asha}\n")
    )
    assert [each.key for each in one] == [each.key for each in other]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("early_terminate: asha",
         "must be such as early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 27} "
         '(it is "asha")'),
        ("early_terminate: {type: median}",
         'type: must be asha, or hyperband as W&B calls it (it is "median")'),
        ("early_terminate: {type: asha, s: 2}",
         "s: is no key of `early_terminate`. There are: type, min_iter, eta, max_iter, for_each"),
        ("early_terminate: {type: asha, eta: 1}", "eta: must be a whole number from 2 on (it is 1)"),
        ("early_terminate: {type: asha, min_iter: 0.5}",
         "min_iter: must be a whole number from 1 on (it is 0.5)"),
        ("early_terminate: {type: asha, min_iter: 9, max_iter: 3}",
         "min_iter: is more than max_iter: 3, so nothing would be stopped"),
        ("early_terminate: {type: asha, for_each: [data]}",
         "for_each: there is no parameter data in p. There are: lr, dataset"),
        ("early_terminate: {type: asha, for_each: [1]}",
         "for_each: must be names of parameters, such as [dataset] (it is [1])"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(said: str, problem: str) -> None:
    line = problem_of(said)
    assert line.startswith("f.yaml:4: p.early_terminate")
    assert line.endswith(problem)


def test_without_a_metric_it_says_which_line_to_add() -> None:
    assert problem_of("early_terminate: {type: asha}", top="seeds: [1]") == (
        "f.yaml:4: p.early_terminate: needs `metric: {name: val_acc, goal: maximize}` beside it, "
        "or at the top of the file: p has none"
    )
