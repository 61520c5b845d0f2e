"""Axes of every form, and what they expand to: against a literal oracle, and every line for a mistake."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distexp.errors import ConfigError
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint, duplicates_among
from distexp.task import Value, key_of
from tests.support import examples


def points_of(text: str) -> list[GridPoint]:
    return expand(parse_config(text, "f.yaml"))


def configs_of(items: str, beside: str = "", defaults: str = "{}") -> list[dict[str, Value]]:
    text = f"p:\n  defaults: {defaults}\n  {beside}\n  combinations: {items}\n"
    return [point.task.config for point in points_of(text)]


def problems_of(rest: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        points_of(f"p:\n  {rest}")
    return list(caught.value.problems)


def test_a_zip_pairs_and_is_crossed_with_other_items() -> None:
    found = configs_of("[{zip: {a: [1, 2], b: [x, x]}}, {c: [5, 6]}]")
    assert found == [
        {"a": 1, "b": "x", "c": 5},
        {"a": 1, "b": "x", "c": 6},
        {"a": 2, "b": "x", "c": 5},
        {"a": 2, "b": "x", "c": 6},
    ]


def test_what_a_case_leaves_out_keeps_its_default_or_is_absent() -> None:
    found = configs_of("[{cases: [{}, {o: sgd}, {o: adam, wd: 0.1}]}]", defaults="{o: none}")
    assert found == [{"o": "none"}, {"o": "sgd"}, {"o": "adam", "wd": 0.1}]


def test_an_item_with_a_condition_exists_where_it_holds() -> None:
    items = "[{m: [cnn, mlp, vit]}, {k: [3, 5], when: {m: cnn}}, {w: [1], when: {m: [mlp, vit]}}]"
    assert configs_of(items) == [
        {"m": "cnn", "k": 3},
        {"m": "cnn", "k": 5},
        {"m": "mlp", "w": 1},
        {"m": "vit", "w": 1},
    ]


def test_an_axis_may_stand_in_items_whose_conditions_exclude_each_other() -> None:
    items = "[{o: [sgd, adam]}, {lr: [1, 2], when: {o: sgd}}, {lr: [3], when: {o: adam}}]"
    assert [(c["o"], c["lr"]) for c in configs_of(items)] == [("sgd", 1), ("sgd", 2), ("adam", 3)]


def test_a_condition_may_name_a_default_and_what_an_earlier_condition_left_out() -> None:
    items = "[{o: [sgd, adam]}, {b: [1, 2], when: {o: adam}}, {c: [7, 8], when: {b: [null, 2], d: 5}}]"
    found = configs_of(items, defaults="{d: 5}")
    assert [(c.get("b"), c.get("c")) for c in found] == [(None, 7), (None, 8), (1, None), (2, 7), (2, 8)]


def test_combinations_are_excluded_by_value_or_by_any_of_several() -> None:
    exclude = "exclude: [{o: sgd, w: [2, 4.0]}, {w: 1, o: adam}]"
    found = configs_of("[{o: [sgd, adam]}, {w: [1, 2, 4]}]", exclude)
    assert [(c["o"], c["w"]) for c in found] == [("sgd", 1), ("adam", 2), ("adam", 4)]


def test_exclusions_at_the_top_hold_for_the_phases_that_have_their_parameters() -> None:
    text = """\
exclude: [{a: 1, b: 1}, {a: 7}]
p: {combinations: [{a: [1, 2]}, {b: [1, 2]}]}
q: {combinations: [{a: [1, 2]}]}
"""
    assert [point.grid.phase for point in points_of(text)] == ["p", "p", "p", "q", "q"]


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("{range: [3]}", [0, 1, 2]),
        ("{range: [0, 10, 4]}", [0, 4, 8]),
        ("{range: [3, 0, -1]}", [3, 2, 1]),
        ("{range: [0, 0.3, 0.1]}", [0, 0.1, 0.2]),
        ("{range: [0.1, 0.4, 0.1]}", [0.1, 0.2, 0.3]),
        ("{linspace: [0, 1, 5]}", [0, 0.25, 0.5, 0.75, 1]),
        ("{linspace: [0.1, 0.3, 3]}", [0.1, 0.2, 0.3]),
        ("{geomspace: [1e-4, 1, 5]}", [0.0001, 0.001, 0.01, 0.1, 1]),
        ("{geomspace: [1, 8, 4]}", [1, 2, 4, 8]),
    ],
)
def test_a_range_stands_for_its_numbers(form: str, values: list[float]) -> None:
    assert [config["a"] for config in configs_of(f"[{{a: {form}}}]")] == values
    assert [config["a"] for config in configs_of(f"[{{zip: {{a: {form}}}}}]")] == values


def test_seeds_may_be_a_range() -> None:
    own = "q: {combinations: [{a: [1]}, {seed: {range: [5, 7]}}]}"
    text = f"seeds: {{range: [3]}}\np: {{combinations: [{{a: [1]}}]}}\n{own}"
    assert [point.seed for point in points_of(text)] == [0, 1, 2, 5, 6]


def test_names_are_reserved_in_their_place_only() -> None:
    text = """\
defaults: {metric: acc, order: 3, search: x, zip: 1, when: 2, include: y, tags: 5}
metric: {combinations: [{exclude: [1, 2]}, {priority: [1]}]}
"""
    first, _ = points_of(text)
    assert first.task.config == {
        "exclude": 1, "priority": 1, "metric": "acc", "order": 3, "search": "x", "zip": 1, "when": 2,
        "include": "y", "tags": 5,
    }  # fmt: skip


def test_metric_priority_and_order_are_of_the_file_or_of_the_phase() -> None:
    text = """\
metric: val_acc
priority: 2
order: shuffled
p: {combinations: [{a: {range: [50]}}]}
q: {metric: {name: loss, goal: minimize}, priority: -1, order: file, combinations: [{a: {range: [50]}}]}
"""
    p, q = parse_config(text, "f.yaml")
    assert p.metric is not None
    assert q.metric is not None
    assert [(m.name, m.goal) for m in (p.metric, q.metric)] == [("val_acc", "maximize"), ("loss", "minimize")]
    shuffled, in_order = (expand([phase]) for phase in (p, q))
    assert (shuffled[0].grid.priority, in_order[0].grid.priority) == (2, -1)
    assert [point.number for point in in_order] == list(range(50))
    assert (
        sorted(point.number for point in shuffled) == list(range(50)) != [point.number for point in shuffled]
    )
    assert [point.key for point in expand([p])] == [point.key for point in shuffled]


def test_a_combination_that_lacks_a_parameter_equals_one_of_a_phase_that_knows_none_such() -> None:
    text = """\
a: {combinations: [{cases: [{x: 1}, {x: 1, y: 2}]}]}
b: {combinations: [{x: [1, 2]}]}
"""
    points = points_of(text)
    assert sorted(duplicates_among(points)) == sorted([points[0].key, points[2].key])


def test_a_folder_is_filled_by_what_each_combination_holds() -> None:
    text = 'p: {defaults: {output_dir: "r_{o}_{wd}"}, combinations: [{cases: [{o: a}, {o: b, wd: 1}]}]}'
    assert [point.output_dir for point in points_of(text)] == ["r_a_null", "r_b_1"]


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("combinations: [{a: [1], b: [2]}]",
         "p.combinations[0]: a, b stand in one item: write `zip:` to pair them, or two items to cross them"),
        ("combinations: [{zip: {a: [1], b: [2]}, c: [1]}]",
         "p.combinations[0]: an item holds one list, `zip` or `cases` (here: zip, c)"),
        ("combinations: [{when: {a: 1}}]",
         "p.combinations[0]: an item holds one list, `zip` or `cases` (here: only `when`)"),
        ("combinations: [{zip: {a: [1, 2], b: [1]}}]",
         "p.combinations[0].zip: zip pairs lists of one length (a has 2, b has 1)"),
        ("combinations: [{zip: {a: [1, 1], b: [2, 2]}}]",
         "p.combinations[0].zip.a[1]: the pair 2 is the same as pair 1"),
        ("combinations: [{zip: {seed: [1, 2], a: [1, 2]}}]",
         "p.combinations[0].zip.seed: seeds are crossed with every combination: "
         "write an item `- seed: [42, 101]`"),
        ("combinations: [{cases: {a: 1}}]",
         'p.combinations[0].cases: must be a list of combinations, such as cases: [{}, {optimizer: sgd}] '
         '(it is {"a": 1})'),
        ("combinations: [{cases: [{o: a}, {o: b}, {}]}]\n  defaults: {o: a}",
         "p.combinations[0].cases[2]: case 3 is the same as case 1: keep one"),
        ("combinations: [{b: [1], when: {a: 1}}, {a: [1, 2]}]",
         "p.combinations[0].when: the item of a comes later: move it up"),
        ("combinations: [{a: [1, 2]}, {b: [1], when: {c: 1}}]",
         "p.combinations[1].when: there is no parameter c"),
        ("combinations: [{a: [1, 2]}, {b: [1], when: {a: 3}}]",
         "p.combinations[1].when: a is never 3"),
        ("combinations: [{a: [1, 2]}, {b: [1], when: {a: 1}}, {b: [2], when: {a: [1, 2]}}]",
         "p.combinations[2].b: b is an axis already, at line 2: "
         "give both a `when`, and conditions that exclude each other"),
        ("combinations: [{a: [1, 2]}, {b: [1], when: {a: 1}}, {b: [2]}]",
         "p.combinations[2].b: b is an axis already, at line 2: keep one"),
        ("combinations: [{a: [1, 2]}, {b: [null, 1], when: {a: 1}}]",
         "p.combinations[1]: b is null in some combinations and missing in others, "
         "which no row can tell apart"),
        ('combinations: [{a: [1, "1"]}]',
         'p.combinations[0].a[1]: "1" and 1 look alike in a row: change one'),
        ('combinations: [{a: [null, b, "null"]}]',
         'p.combinations[0].a[2]: "null" and null look alike in a row: change one'),
        ('combinations: [{cases: [{}, {a: ""}, {a: b}]}, {c: [1, 2]}]',
         'p.combinations[0].cases[1].a: "" and no a at all look alike in a row: change one'),
        ('combinations: [{a: [1, 2]}, {b: [1], when: {a: 1}}, {b: ["1"], when: {a: 2}}]',
         'p.combinations[2].b[0]: "1" and 1 look alike in a row: change one'),
        ("exclude: [{a: 3}]\n  combinations: [{a: [1, 2]}]",
         'p.exclude[0]: no combination is {"a": 3}: nothing to exclude'),
        ("exclude: [{b: 3}]\n  combinations: [{a: [1, 2]}]",
         "p.exclude[0].b: there is no parameter b in this phase"),
        ("exclude: [{a: [1, 2]}]\n  combinations: [{a: [1, 2]}]", "p.exclude: exclude leaves no combination"),
        ("combinations: [{a: {logspace: [-4, 0, 5]}}]",
         "p.combinations[0].a: logspace takes exponents: "
         "write geomspace: [first, last, count] with the values"),
        ("combinations: [{a: {linspace: [0, 1]}}]",
         "p.combinations[0].a.linspace: write first, last and count, such as linspace: [0, 1, 5] "
         "(it is [0, 1])"),
        ("combinations: [{a: {geomspace: [0, 1, 5]}}]",
         "p.combinations[0].a.geomspace: both ends of a geomspace must be above 0, or both below "
         "(it is [0, 1, 5])"),
        ("combinations: [{a: {range: [0, 1e9]}}]",
         "p.combinations[0].a.range: must give 1 to 1,000,000 values, not 1,000,000,000 "
         "(it is [0, 1000000000.0])"),
        ("combinations: [{a: {min: 1, max: 3}}]",
         "p.combinations[0].a: a distribution needs `search: {method: random, samples: 40}` beside it"),
        ("order: random\n  combinations: [{a: [1]}]", 'p.order: must be file or shuffled (it is "random")'),
        ("priority: high\n  combinations: [{a: [1]}]",
         'p.priority: must be a whole number, higher first, 0 without one (it is "high")'),
        ("metric: {name: acc, goal: up}\n  combinations: [{a: [1]}]",
         "p.metric: must be such as metric: {name: val_acc, goal: maximize}, or goal: minimize "
         '(it is {"name": "acc", "goal": "up"})'),
        ("early_terminate: {}\n  combinations: [{a: [1]}]",
         "p.early_terminate: needs a type, such as "
         "early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 27}"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(rest: str, problem: str) -> None:
    line, found = problems_of(rest)[-1].removeprefix("f.yaml:").split(": ", 1)
    assert found == problem
    assert int(line) in (2, 3)
    assert len(problems_of(rest)) == 1


def test_too_many_combinations_are_refused_before_any_is_made() -> None:
    axes = ", ".join(f"{{zip: {{a{n}: {{range: [1000]}}, b{n}: {{range: [1000]}}}}}}" for n in range(4))
    (problem,) = problems_of(f"combinations: [{axes}]")
    assert problem == (
        "f.yaml:2: p.combinations[2]: 1,000,000,000 combinations up to here: 5,000,000 is the most in a phase"
    )


_VALUES = st.sampled_from([1, 2, 3, "x", True, 0.5])
_LISTS = st.lists(_VALUES, min_size=1, max_size=3, unique_by=repr)


@st.composite
def phases(draw: st.DrawFn) -> dict[str, Any]:
    """A phase of lists, zips, cases and conditions, as YAML would hold it."""
    names = iter("abcdefgh")
    items: list[dict[str, Any]] = []
    for kind in draw(st.lists(st.sampled_from(["list", "zip", "cases"]), min_size=1, max_size=3)):
        if kind == "list":
            item: dict[str, Any] = {next(names): draw(_LISTS)}
        elif kind == "zip":
            first = draw(_LISTS)
            item = {"zip": {next(names): first, next(names): draw(st.permutations(first))}}
        else:
            one, other = next(names), next(names)
            item = {"cases": [{}, {one: 1}, {one: 2, other: draw(_VALUES)}, {other: "z"}]}
        first_item = items[0] if items else {}
        if isinstance(values := first_item.get("a"), list) and draw(st.booleans()):
            item["when"] = {"a": draw(st.sampled_from([values, values[:1], values[0]]))}
        items.append(item)
    defaults = draw(st.dictionaries(st.sampled_from("abcdefgh"), st.just("d"), max_size=3))
    return {"combinations": items, "defaults": defaults}


def literal(items: list[dict[str, Any]], defaults: dict[str, Value]) -> Iterator[dict[str, Value]]:
    """Yield what each combination sets, by nested loops as one would write them."""
    if not items:
        yield {}
        return
    *before, last = items
    for chosen in literal(before, defaults):
        when = last.get("when", {})
        held = {**defaults, **chosen}
        wanted = [v if isinstance(v, list) else [v] for v in when.values()]
        if not all(repr(held.get(n)) in map(repr, v) for n, v in zip(when, wanted, strict=True)):
            yield chosen
        elif "zip" in last:
            for row in zip(*last["zip"].values(), strict=True):
                yield {**chosen, **dict(zip(last["zip"], row, strict=True))}
        elif "cases" in last:
            for case in last["cases"]:
                yield {**chosen, **case}
        else:
            ((name, values),) = ((n, v) for n, v in last.items() if n != "when")
            for value in values:
                yield {**chosen, name: value}


@examples(60)
@given(phases())
def test_expansion_agrees_with_loops_as_one_would_write_them(phase: dict[str, Any]) -> None:
    points = points_of(yaml.safe_dump({"p": phase}, sort_keys=False))
    expected = [{**phase["defaults"], **each} for each in literal(phase["combinations"], phase["defaults"])]
    assert [repr(sorted(point.task.config.items())) for point in points] == [
        repr(sorted(each.items())) for each in expected
    ]
    assert [point.task_id for point in points] == [f"p_{at}_42" for at in range(len(expected))]
    for point in points:
        task = point.task
        assert point.key == key_of(task.phase, task.experiment, task.command, task.config, task.seed)
    places = [tuple(point.grid.positions(point.number)) for point in points]
    assert len(set(places)) == len({point.grid.code(point.number) for point in points}) == len(points)


def test_the_code_of_a_task_counts_its_places_in_all_axes() -> None:
    for text in ("[{a: [1, 2, 3]}, {b: [1, 2]}]", "[{zip: {a: [1, 2, 3]}}, {b: [1, 2]}]"):
        points = points_of(f"seeds: [7, 8]\np: {{combinations: {text}}}")
        assert [point.grid.code(point.number) for point in points] == list(range(12))
        assert points[0].grid.codes() == list(range(12))


DRAWN = ("random", "tpe")
AXES = "{o: [sgd, adam]}, {zip: {a: [1, 2], b: [x, null]}}, {cases: [{}, {c: 1}]}, {k: [3], when: {o: sgd}}"
NUMBERS = (
    "{w: {min: 1, max: 8}}, {lr: {min: 0.5, max: 1.5}}, {act: {values: [r, g], probabilities: [0.5, 0.5]}}"
)


@pytest.mark.parametrize("method", ["", *DRAWN])
@pytest.mark.parametrize(
    ("condition", "never"),
    [
        ("{o: sdg}", 'o is never "sdg"'),
        ("{o: [sgd, adma]}", 'o is never "adma"'),
        ("{a: 3, o: sgd}", "a is never 3"),
        ('{a: "1"}', 'a is never "1"'),
        ("{b: [x, y]}", 'b is never "y"'),
        ("{c: 2}", "c is never 2"),
        ("{k: 4}", "k is never 4"),
        ("{z: 1}", "there is no parameter z"),
    ],
)
def test_a_condition_that_never_holds_is_refused_however_combinations_are_chosen(
    method: str, condition: str, never: str
) -> None:
    beside = f"metric: loss\n  search: {{method: {method}, samples: 2}}\n  " if method else ""
    (problem,) = problems_of(f"{beside}combinations: [{AXES}, {{x: [1, 2], when: {condition}}}]")
    assert problem.endswith(f": p.combinations[4].when: {never}")


@pytest.mark.parametrize("method", DRAWN)
@pytest.mark.parametrize(
    ("condition", "never"),
    [("{w: 9}", "w is never 9"), ("{lr: [1, 2]}", "lr is never 2"), ("{act: s}", 'act is never "s"'),
     ("{lr: high}", 'lr is never "high"')],
)  # fmt: skip
def test_so_is_one_on_what_no_distribution_draws(method: str, condition: str, never: str) -> None:
    search = f"metric: loss\n  search: {{method: {method}, samples: 2}}"
    (problem,) = problems_of(f"{search}\n  combinations: [{NUMBERS}, {{x: [1, 2], when: {condition}}}]")
    assert problem.endswith(f": p.combinations[3].when: {never}")


@pytest.mark.parametrize("method", DRAWN)
@pytest.mark.parametrize(
    ("exclusion", "problem"),
    [
        ("{o: sdg}", '[0]: no combination is {"o": "sdg"}: nothing to exclude'),
        ("{o: sgd, a: [3, 4]}", '[0]: no combination is {"o": "sgd", "a": [3, 4]}: nothing to exclude'),
        ("{w: 9}", '[0]: no combination is {"w": 9}: nothing to exclude'),
        ("{d: 6}", '[0]: no combination is {"d": 6}: nothing to exclude'),
        ("{z: 1}", "[0].z: there is no parameter z in this phase"),
    ],
)
def test_an_exclusion_of_what_is_never_drawn_is_refused(method: str, exclusion: str, problem: str) -> None:
    beside = f"metric: loss\n  search: {{method: {method}, samples: 2}}\n  defaults: {{d: 5}}"
    found = problems_of(f"{beside}\n  exclude: [{exclusion}]\n  combinations: [{AXES}, {NUMBERS}]")
    assert [each.split("p.exclude")[1] for each in found] == [problem]


@pytest.mark.parametrize("method", DRAWN)
def test_conditions_and_exclusions_that_can_hold_are_accepted(method: str) -> None:
    conditions = (
        "{o: [sgd, adam], a: 1.0}",
        "{b: null}",
        "{c: null}",
        "{k: 3}",
        "{w: 8, lr: 0.75}",
        "{d: 6}",
    )
    items = [f"{{x{at}: [1, 2], when: {condition}}}" for at, condition in enumerate(conditions)]
    text = f"""\
metric: loss
defaults: {{d: 5}}
exclude: [{{o: sdg}}, {{q: 1}}]
p: {{search: {{method: {method}, samples: 2}}, combinations: [{AXES}, {NUMBERS}, {", ".join(items)}]}}
q: {{exclude: [{{a: [1, 7]}}], search: {{method: {method}, samples: 2}}, combinations: [{{a: [1, 2, 3]}}]}}
"""
    assert [phase.name for phase in parse_config(text, "f.yaml")] == ["p", "q"]
