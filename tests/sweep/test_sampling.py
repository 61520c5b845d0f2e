"""Random search: stable, distinct samples, from the distributions that a file names."""

import hashlib
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distexp.errors import ConfigError
from distexp.sweep.config import parse_config
from distexp.sweep.distributions import uniform_again, uniforms
from distexp.sweep.expand import expand
from distexp.task import Value
from tests.support import examples


def samples_of(items: str, search: str = "samples: 40, seed: 1", beside: str = "") -> list[dict[str, Value]]:
    text = f"p:\n  search: {{{search}}}\n  {beside}\n  combinations: {items}\n"
    return [point.task.config for point in expand(parse_config(text, "f.yaml"))]


def problem_of(items: str, search: str = "samples: 40") -> str:
    with pytest.raises(ConfigError) as caught:
        samples_of(items, search)
    (problem,) = caught.value.problems
    return problem.removeprefix("f.yaml:")


LR = "{lr: {distribution: log_uniform_values, min: 1e-4, max: 1}}"
LAYERS = "{layers: {min: 1, max: 8}}"
OPTIMIZER = "{optimizer: [sgd, adam]}"


def test_more_samples_keep_the_first_ones() -> None:
    few, many = (samples_of(f"[{LR}, {LAYERS}]", f"samples: {count}") for count in (40, 80))
    assert many[:40] == few
    assert samples_of(f"[{LR}, {LAYERS}]", "samples: 40, seed: 2") != few


def test_another_axis_or_order_leaves_the_draws_of_the_others() -> None:
    first = samples_of(f"[{LR}, {LAYERS}]")
    swapped = samples_of(f"[{LAYERS}, {LR}]")
    more = samples_of(f"[{LR}, {OPTIMIZER}, {LAYERS}]")
    assert swapped == first
    assert [{n: v for n, v in each.items() if n != "optimizer"} for each in more] == first


@examples(100)
@given(st.integers(), st.text(min_size=1), st.integers(0, 100), st.integers(1, 50))
def test_a_draw_depends_on_seed_phase_axis_and_number_alone(
    seed: int, phase: str, number: int, attempt: int
) -> None:
    def literal(attempt: int) -> float:
        text = f"{seed}\0{phase}\0lr\0{attempt}\0{number // 8}"
        digest = hashlib.sha512(text.encode()).digest()
        bits = int.from_bytes(digest[number % 8 * 8 :][:8], "big") // 2**11
        return (bits + 0.5) / 2**53

    assert uniforms(seed, phase, "lr", number + 1)[number] == literal(0)
    assert uniform_again(seed, phase, "lr", number, attempt) == literal(attempt)


def test_draws_are_the_same_on_every_machine() -> None:
    found = samples_of(f"[{LR}, {LAYERS}, {{x: {{distribution: normal}}}}]", "samples: 3, seed: 1")
    assert found == EXPECTED


EXPECTED: list[dict[str, Value]] = [
    {"lr": 0.000248084, "layers": 5, "x": -0.120069},
    {"lr": 0.000125315, "layers": 6, "x": -1.52321},
    {"lr": 0.318938, "layers": 3, "x": -0.200399},
]


@pytest.mark.parametrize(
    ("text", "cdf"),
    [
        ("{min: 0.5, max: 2.0}", stats.uniform(0.5, 1.5).cdf),
        ("{distribution: uniform, min: -1, max: 1}", stats.uniform(-1, 2).cdf),
        ("{distribution: log_uniform_values, min: 1e-4, max: 10}", stats.loguniform(1e-4, 10).cdf),
        ("{distribution: normal, mu: 3, sigma: 2}", stats.norm(3, 2).cdf),
        ("{distribution: log_normal, mu: 0, sigma: 0.5}", stats.lognorm(0.5).cdf),
    ],
)
def test_draws_follow_their_distribution(text: str, cdf: object) -> None:
    drawn = [each["x"] for each in samples_of(f"[{{x: {text}}}]", "samples: 5000, seed: 7")]
    assert stats.kstest(drawn, cdf).pvalue > 0.01
    assert all(float(f"{value:.6g}") == value for value in drawn)


@pytest.mark.parametrize(
    ("text", "probability"),
    [
        ("[a, b, c]", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ("{values: [a, b, c], probabilities: [0.5, 0.5, 0]}", {"a": 0.5, "b": 0.5}),
        ("{values: [a, b], probabilities: [0.9, 0.1]}", {"a": 0.9, "b": 0.1}),
        ("{min: 1, max: 4}", dict.fromkeys([1, 2, 3, 4], 0.25)),
        ("{distribution: q_uniform, min: 0, max: 1, q: 0.5}", {0.0: 0.25, 0.5: 0.5, 1.0: 0.25}),
        (
            "{distribution: q_log_uniform_values, min: 1, max: 8}",
            {n: math.log(min(n + 0.5, 8) / max(n - 0.5, 1)) / math.log(8) for n in range(1, 9)},
        ),
    ],
)
def test_discrete_draws_have_their_probabilities(text: str, probability: dict[Value, float]) -> None:
    noise = "{u: {min: 0.0, max: 1.0}}"  # keeps the samples apart
    counts = Counter(each["x"] for each in samples_of(f"[{{x: {text}}}, {noise}]", "samples: 4000, seed: 11"))
    assert counts.keys() == probability.keys()
    expected = [4000 * probability[value] for value in counts]
    assert stats.chisquare(list(counts.values()), expected).pvalue > 0.001


def test_samples_are_distinct_and_a_space_can_be_exhausted_to_the_last() -> None:
    found = samples_of(f"[{OPTIMIZER}, {{w: {{min: 1, max: 200}}}}]", "samples: 400")
    assert len({(each["optimizer"], each["w"]) for each in found}) == 400
    assert found[:300] == samples_of(f"[{OPTIMIZER}, {{w: {{min: 1, max: 200}}}}]", "samples: 300")
    assert problem_of(f"[{OPTIMIZER}, {LAYERS}]") == (
        "2: p.search.samples: there are only 16 different combinations: write samples: 16"
    )


def test_the_last_free_combinations_do_not_depend_on_the_order_of_axes() -> None:
    one = samples_of(f"[{OPTIMIZER}, {LAYERS}]", "samples: 16")
    assert samples_of(f"[{LAYERS}, {OPTIMIZER}]", "samples: 16") == one


def test_the_same_draws_are_repeated_for_each_value_of_an_axis() -> None:
    found = samples_of(f"[{{data: [a, b]}}, {LR}]", "samples: 3, for_each: [data]")
    alone = [each["lr"] for each in samples_of(f"[{LR}]", "samples: 3")]
    assert [(each["data"], each["lr"]) for each in found] == [(d, lr) for lr in alone for d in "ab"]


def test_conditions_pairs_and_cases_are_drawn_too() -> None:
    items = """[{m: [cnn, mlp]}, {k: {min: 1, max: 99}, when: {m: cnn}}, {zip: {a: [1, 2], b: [3, 4]}},
      {cases: [{}, {wd: 0.1}]}, {lr: {min: 0.0, max: 1.0}}]"""
    found = samples_of(items)
    assert {("k" in each) == (each["m"] == "cnn") for each in found} == {True}
    assert {(each["a"], each["b"]) for each in found} == {(1, 3), (2, 4)}
    assert {each.get("wd") for each in found} == {None, 0.1}
    assert samples_of(items, "samples: 20, seed: 1") == found[:20]


def test_excluded_combinations_are_drawn_again() -> None:
    exclude = "exclude: [{optimizer: sgd, layers: [1, 2, 3, 4, 5, 6, 7]}]"
    found = samples_of(f"[{OPTIMIZER}, {LAYERS}]", "samples: 9", exclude)
    assert Counter(each["optimizer"] for each in found) == {"adam": 8, "sgd": 1}


def test_samples_that_a_condition_makes_equal_for_one_value_stand_there_once() -> None:
    items = "[{data: [a, b]}, {lr: [1, 2]}, {k: [1, 2, 3], when: {data: a}}]"
    found = samples_of(items, "samples: 6, for_each: [data]")
    assert len(found) == 8
    assert {each["lr"] for each in found if each["data"] == "b"} == {1, 2}
    assert problem_of(items, "samples: 7, for_each: [data]") == (
        "2: p.search.samples: there are only 6 different combinations: write samples: 6"
    )


def test_many_samples_of_which_some_repeat_are_distinct_and_keep_the_first() -> None:
    items = "[{x: {min: 0.0, max: 1.0}}, {b: [1, 2]}, {k: {min: 1, max: 4}}]"
    found = samples_of(items, "samples: 20000")
    assert len({tuple(each.items()) for each in found}) == 20000
    assert samples_of(items, "samples: 500") == found[:500]


def test_drawn_numbers_are_the_same_after_a_csv_file() -> None:
    for each in samples_of(f"[{LR}, {{x: {{distribution: normal}}}}]", "samples: 200"):
        assert {name: float(str(value)) for name, value in each.items()} == each


@pytest.mark.parametrize(
    ("items", "search", "problem"),
    [
        ("[{a: {distribution: log_uniform, min: -4, max: 0}}]", "samples: 4",
         "4: p.combinations[0].a: write log_uniform_values: W&B's log_uniform takes exponents"),
        ("[{a: {distribution: uniform, min: 1}}]", "samples: 4", "4: p.combinations[0].a: uniform needs max"),
        ("[{a: {min: 4, max: 1}}]", "samples: 4", "4: p.combinations[0].a: min (4) is above max (1)"),
        ("[{a: {distribution: log_uniform_values, min: 0, max: 1}}]", "samples: 4",
         "4: p.combinations[0].a: min must be above 0 for log_uniform_values (it is 0)"),
        ("[{a: {distribution: beta}}]", "samples: 4",
         "4: p.combinations[0].a: there is no distribution beta. There are: uniform, int_uniform, q_uniform, "
         "log_uniform_values, q_log_uniform_values, normal, q_normal, log_normal, q_log_normal, categorical"),
        ("[{a: {values: [1, 2], probabilities: [1]}}]", "samples: 4",
         "4: p.combinations[0].a: probabilities must be a list of 2 numbers, one for each value"),
        ("[{a: {values: [1, 2], probabilities: [1, 1]}}]", "samples: 4",
         "4: p.combinations[0].a: probabilities must be 0 or more, and 1 together"),
        ("[{a: {distribution: log_normal, sigma: 1000}}]", "samples: 4",
         "4: p.combinations[0].a: log_normal gives numbers that are too large here: no float holds them"),
        ("[{a: [1, 2]}]", "samples: 1, for_each: [a]",
         "2: p.search: nothing is drawn: all axes are in for_each. Take `search` out"),
        ("[{m: [x, y]}, {k: [null, 3], when: {m: x}}]", "samples: 3",
         "4: p.combinations[1]: k is null in some combinations and missing in others, "
         "which no row can tell apart"),
        ("[{cases: [{}, {o: null}]}, {lr: [1, 2]}]", "samples: 4",
         "4: p.combinations[0]: o is null in some combinations and missing in others, "
         "which no row can tell apart"),
        (f"[{LR}]", "seed: 1", "2: p.search: search needs samples, such as samples: 40"),
        (f"[{LR}]", "samples: 0", "2: p.search.samples: must be a number from 1 to 5,000,000 (it is 0)"),
        (f"[{LR}]", "samples: 4, method: bayes",
         '2: p.search.method: must be random or tpe (it is "bayes")'),
        (f"[{LR}]", "samples: 4, for_each: [lr]",
         "2: p.search.for_each: lr is no list of this phase without `when`"),
        (f"[{LR}]", "samples: 4, count: 3",
         "2: p.search.count: is no key of `search`. There are: method, samples, seed, for_each"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(items: str, search: str, problem: str) -> None:
    assert problem_of(items, search) == problem
