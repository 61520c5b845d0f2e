"""The space of an adaptive search: choices to configurations and back."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.errors import ConfigError
from distexp.sweep.config import parse_config
from distexp.sweep.space import Space
from tests.support import examples

LR = "{lr: {distribution: log_uniform_values, min: 1e-4, max: 1}}"
UNITS = st.floats(0, 1).filter(lambda unit: min(unit, 1 - unit) > 1e-9 or unit in (0, 1))  # not far in tails
FORMS = [
    "{distribution: log_uniform_values, min: 1e-4, max: 1}",
    "{min: 0.5, max: 1.5}",
    "{min: 1, max: 8}",
    "{min: 1, max: 8000000}",
    "{distribution: q_uniform, min: 0.1, max: 2, q: 0.25}",
    "{distribution: q_log_uniform_values, min: 16, max: 512, q: 16}",
    "{distribution: normal, mu: 3, sigma: 2}",
    "{distribution: q_normal, mu: 3, sigma: 2, q: 2}",
    "{distribution: log_normal, mu: 1, sigma: 1}",
    "{distribution: q_log_normal, mu: 0, sigma: 1, q: 1}",
]


def space_of(items: str, more: str = "", search: str = "method: tpe, samples: 9") -> Space:
    text = f"metric: loss\np:\n  search: {{{search}}}\n  combinations: {items}\n{more}"
    (phase,) = parse_config(text, "c.yaml")
    assert phase.space is not None
    return phase.space


def problem_of(items: str, more: str = "", search: str = "method: tpe, samples: 9") -> str:
    with pytest.raises(ConfigError) as caught:
        space_of(items, more, search)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@given(unit=UNITS)
@examples(30)
def test_a_number_that_is_drawn_is_found_again(form: str, unit: float) -> None:
    space = space_of(f"[{{x: {form}}}]")
    config = space.configuration([unit])
    assert config is not None
    choices = space.choices_of(config)
    assert choices is not None and choices[0] is not None
    again = space.configuration(choices)
    assert again == pytest.approx(config, rel=2e-6)
    assert space.choices_of(again or {}) is not None


@pytest.mark.parametrize(
    ("form", "outside"),
    [
        (FORMS[0], [2.0, 9e-5, 0, -1, "0.1", None, float("nan")]),
        (FORMS[2], [0, 9, 1.5, True]),
        (FORMS[4], [0.3, 3.0]),
        (FORMS[8], [0.0, -1.0]),
    ],
)
def test_a_number_outside_is_in_no_space(form: str, outside: list[object]) -> None:
    assert [space_of(f"[{{x: {form}}}]").choices_of({"x": value}) for value in outside] == [None] * len(
        outside
    )


def test_zip_and_cases_are_one_choice_each() -> None:
    space = space_of("[{zip: {a: [1, 2], b: [3, 4]}}, {cases: [{}, {o: sgd}, {o: adam, wd: 0.1}]}]")
    assert [part.count for part in space.parts] == [2, 3]
    assert space.configuration([1, 0]) == {"a": 2, "b": 4}
    assert space.configuration([0, 2]) == {"a": 1, "b": 3, "o": "adam", "wd": 0.1}
    assert space.choices_of({"a": 1, "b": 4}) is None
    assert space.choices_of({"a": 2, "b": 4, "o": "sgd"}) == [1, 1]
    assert space.absent == ["o", "wd"]


def test_a_choice_whose_condition_does_not_hold_changes_nothing() -> None:
    space = space_of(
        "[{o: [sgd, adam]}, {when: {o: adam}, beta: {min: 0.5, max: 1.0}}]", "defaults: {beta: 0}\n"
    )
    assert space.configuration([0, 0.3]) == {"o": "sgd", "beta": 0}
    assert space.configuration([1, 0.5]) == {"o": "adam", "beta": 0.75}
    assert space.choices_of({"o": "sgd", "beta": 0}) == [0, None]
    assert space.choices_of({"o": "sgd", "beta": 0.75}) is None


def test_configurations_that_differ_in_what_does_not_hold_are_one() -> None:
    space = space_of("[{o: [sgd, adam]}, {when: {o: adam}, beta: [1, 2, 3]}]")
    assert (space.size, space.most) == (6, 4)


def test_what_is_excluded_is_not_in_the_space() -> None:
    space = space_of("[{a: [1, 2]}, {b: [1, 2]}]", "exclude: [{a: 1, b: [1]}]\n")
    assert space.configuration([0, 0]) is None
    assert space.choices_of({"a": 1, "b": 1}) is None
    assert sorted((each["a"], each["b"]) for each in space.walk(0.6)) == [(1, 2), (2, 1), (2, 2)]
    assert (space.size, space.most) == (4, 3)


def test_the_walk_meets_each_value_of_a_range_of_whole_numbers() -> None:
    space = space_of("[{n: {min: 3, max: 7}}, {b: [x, y]}]")
    assert space.size == 10
    assert {(each["n"], each["b"]) for each in space.walk(0.99)} == {
        (n, b) for n in range(3, 8) for b in "xy"
    }
    assert space_of(f"[{LR}]").size is None


@pytest.mark.parametrize(
    ("items", "search", "problem"),
    [
        (f"[{LR}]", "method: tpe, samples: 4, for_each: [lr]",
         "c.yaml:3: p.search.for_each: is for method: random; with tpe write a phase for each value"),
        ("[{when: {o: adam}, beta: [1, 2]}, {o: [adam]}]", "method: tpe, samples: 4",
         "c.yaml:4: p.combinations[0].when: the item of o comes later: move it up"),
        ("[{o: [a, b]}, {when: {o: a}, k: [null, 1]}]", "method: tpe, samples: 4",
         "c.yaml:4: p.combinations[1]: k is null in some combinations and missing in others, "
         "which no row can tell apart"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(items: str, search: str, problem: str) -> None:
    assert problem_of(items, "", search) == problem


def test_tpe_needs_a_metric() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:2: p.search: tpe needs `metric: \{name: val_acc"):
        parse_config(f"p:\n  search: {{method: tpe, samples: 4}}\n  combinations: [{LR}]\n", "c.yaml")


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    monkeypatch.setattr("sys.path", [])
    assert problem_of(f"[{LR}]") == (
        "c.yaml:3: p.search.method: tpe needs Optuna: pip install optuna (the extra `search`)"
    )


def test_a_tag_is_no_choice() -> None:
    space = space_of("[{name: [x]}, {a: [1, 2]}]", "tags: [name]\n")
    assert space.configuration([0, 1]) == {"name": "x", "a": 2}
