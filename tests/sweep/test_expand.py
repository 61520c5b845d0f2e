"""Expansion: order, ids, folders, bounds; and the identity that every task carries."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.errors import ConfigError
from distexp.sweep.config import Phase, parse_config
from distexp.sweep.expand import MAX_TASKS, MAX_VALUES, expand
from distexp.task import Task, Value, canonical, digest, make_task
from tests.support import examples


def tasks_of(text: str) -> list[Task]:
    return [point.task for point in expand(parse_config(text, "configs/config_exp1.yaml"))]


def task(**changes: Value) -> Task:
    fields: dict[str, Value] = {
        "task_id": "p_0_42",
        "phase": "p",
        "config": {"width": 1, "on": True, "name": "é"},
        "seed": 42,
        "output_dir": "results_p",
        "axes": ("width",),
    }
    return make_task(**(fields | changes))


def test_the_first_axis_varies_slowest_and_the_seed_fastest() -> None:
    tasks = tasks_of("""\
defaults: {lr: 5e-4, output_dir: "./results_{dataset}/{seed}"}
seeds: [42, 101]
exp1_vary_width:
  combinations:
    - dataset: [digits, wine]
    - width_factor: [1, 2]
exp2:
  defaults: {output_dir: "./out//{phase}/"}
  combinations: [{seed: [7]}, {depth: [3]}]
""")
    assert [(t.task_id, t.config.get("dataset"), t.config.get("width_factor"), t.seed) for t in tasks] == [
        ("exp1_vary_width_0_42", "digits", 1, 42),
        ("exp1_vary_width_0_101", "digits", 1, 101),
        ("exp1_vary_width_1_42", "digits", 2, 42),
        ("exp1_vary_width_1_101", "digits", 2, 101),
        ("exp1_vary_width_2_42", "wine", 1, 42),
        ("exp1_vary_width_2_101", "wine", 1, 101),
        ("exp1_vary_width_3_42", "wine", 2, 42),
        ("exp1_vary_width_3_101", "wine", 2, 101),
        ("exp2_0_7", None, None, 7),
    ]
    assert [t.output_dir for t in tasks[3:6]] == ["results_digits/101", "results_wine/42", "results_wine/101"]
    assert tasks[0].axes == ("dataset", "width_factor")
    assert (tasks[8].output_dir, tasks[8].axes, tasks[8].config) == (
        "out/exp2",
        ("depth",),
        {"depth": 3, "lr": 0.0005},
    )


def test_a_task_carries_what_its_phase_says() -> None:
    (found,) = tasks_of("""\
p:
  defaults: {command: "run {a} {b}", timeout_s: 1.5, process: fresh, a: 0}
  combinations: [{b: [x]}]
""")
    assert found == task(
        task_id="p_0_42",
        phase="p",
        config={"b": "x", "a": 0},
        output_dir="results_p",
        axes=("b",),
        experiment="distexp.experiments.command:run",
        command="run {a} {b}",
        timeout_s=1.5,
        process="fresh",
    )


def test_a_value_that_windows_cannot_hold_is_replaced_in_the_folder_and_kept_in_the_task() -> None:
    (found,) = tasks_of(
        'p: {defaults: {output_dir: "r_{d}_{e}"}, combinations: [{d: ["a:b"]}, {e: [[1, "x"]]}]}'
    )
    assert found.output_dir == "r_a_b_[1, _x_]"
    assert found.config == {"d": "a:b", "e": [1, "x"]}


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("a.", "r/a_"),
        ("a. .", "r/a___"),
        ("nul", "r/_nul"),
        ("COM1.txt", "r/_COM1.txt"),
        ("console", "r/console"),
        ("a b", "r/a b"),
    ],
)
def test_a_folder_has_a_name_that_every_system_can_hold(value: str, folder: str) -> None:
    (found,) = tasks_of(f'p: {{defaults: {{output_dir: "r/{{d}}"}}, combinations: [{{d: ["{value}"]}}]}}')
    assert (found.output_dir, found.config) == (folder, {"d": value})


def test_several_values_that_leave_the_working_folder_together_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        tasks_of('p: {defaults: {output_dir: "r/{d}{e}"}, combinations: [{d: ["."]}, {e: [x, "."]}]}')
    assert str(caught.value) == (
        "configs/config_exp1.yaml:1: p.output_dir: r/{d}{e} must not leave the working folder by .."
    )


def test_a_folder_name_longer_than_file_systems_hold_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        tasks_of(f"p: {{defaults: {{output_dir: 'r{{d}}'}}, combinations: [{{d: [{'x' * 255}]}}]}}")
    assert str(caught.value) == (
        "configs/config_exp1.yaml:1: p.combinations[0].d[0]: "
        "r{d} makes a folder name of 256 bytes: 255 is the most"
    )


def test_too_many_tasks_are_refused_before_any_is_made() -> None:
    axis = ", ".join(map(str, range(1000)))
    with pytest.raises(ConfigError) as caught:
        tasks_of(f"""\
small: {{combinations: [{{a: [1, 2]}}]}}
huge:
  combinations: [{{a: [{axis}]}}, {{b: [{axis}]}}, {{c: [{axis}]}}, {{d: [{axis}]}}]
""")
    assert str(caught.value) == (
        "configs/config_exp1.yaml:2: huge: 1000000000000 tasks, and 1000000000002 up to here: "
        f"{MAX_TASKS} is the most in a sweep"
    )


def test_too_many_values_are_refused_before_any_task_is_made() -> None:
    axis = ", ".join(map(str, range(1000)))
    many = ", ".join(f"p{number}: 1" for number in range(198))
    with pytest.raises(ConfigError) as caught:
        tasks_of(f"""\
small: {{combinations: [{{a: [1, 2]}}]}}
wide: {{defaults: {{{many}}}, combinations: [{{a: [{axis}]}}, {{b: [{axis}]}}]}}
""")
    assert str(caught.value) == (
        "configs/config_exp1.yaml:2: wide: 200000002 values of parameters in the combinations up to "
        f"here: {MAX_VALUES} is the most in a sweep"
    )


def test_a_path_longer_than_file_systems_hold_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        tasks_of(f"p: {{defaults: {{output_dir: '{'{d}/' * 4}'}}, combinations: [{{d: [{'x' * 200}]}}]}}")
    assert str(caught.value) == (
        "configs/config_exp1.yaml:1: p.combinations[0].d[0]: "
        "{d}/{d}/{d}/{d}/ makes a path of 803 bytes: 700 is the most"
    )


_NAMES = st.text('abcé"{ _', min_size=1, max_size=3)
_SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
_VALUES = (
    _SCALARS | st.lists(_SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), _SCALARS, max_size=2)
)


@st.composite
def phases(draw: st.DrawFn) -> Phase:
    axes = draw(
        st.dictionaries(_NAMES, st.lists(_VALUES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)
    )
    defaults = draw(st.dictionaries(_NAMES.filter(lambda name: name not in axes), _VALUES, max_size=3))
    return Phase(
        name=draw(st.sampled_from(["p", "exp1_vary"])),
        where="c.yaml:1",
        axes=axes,
        defaults=defaults,
        seeds=tuple(draw(st.lists(st.integers(-9, 9), min_size=1, max_size=3, unique=True))),
        experiment="m:f",
        command=draw(st.sampled_from([None, "run"])),
        output_dir="r_{phase}_{seed}",
        timeout_s=None,
        process="forked",
    )


def combinations_by_hand(axes: list[tuple[str, tuple[Value, ...]]]) -> list[dict[str, Value]]:
    if not axes:
        return [{}]
    (name, values), *rest = axes
    combinations = []
    for value in values:
        for others in combinations_by_hand(rest):
            combinations.append({name: value} | others)
    return combinations


@examples(40)
@given(phases())
def test_expansion_agrees_with_nested_loops(phase: Phase) -> None:
    expected = []
    for index, chosen in enumerate(combinations_by_hand(list(phase.axes.items()))):
        for seed in phase.seeds:
            config = {**chosen, **phase.defaults}
            work = [phase.experiment, phase.command, config, seed]
            expected.append(
                Task(
                    task_id=f"{phase.name}_{index}_{seed}",
                    phase=phase.name,
                    config=config,
                    seed=seed,
                    output_dir=f"r_{phase.name}_{seed}",
                    axes=tuple(phase.axes),
                    experiment=phase.experiment,
                    command=phase.command,
                    key=digest([phase.name, *work]),
                )
            )
    assert repr([point.task for point in expand([phase])]) == repr(
        expected
    )  # by text: nan is not equal to itself


@examples(40)
@given(st.dictionaries(_NAMES, _VALUES, max_size=4), st.randoms())
def test_the_key_depends_on_neither_folder_nor_label_nor_order_of_parameters(
    config: dict[str, Value], random: Random
) -> None:
    names = list(config)
    random.shuffle(names)
    one = task(config=config)
    other = task(config={name: config[name] for name in names}, output_dir="elsewhere", task_id="p_7_42")
    assert (one.key, one.work) == (other.key, other.work)


@pytest.mark.parametrize(
    ("one", "other", "is_equal"),
    [
        (1, 1.0, True),
        ([1, {"a": 2}], [1.0, {"a": 2.0}], True),
        (0.0005, 5e-4, True),
        (0.0, -0.0, True),
        (1, True, False),
        (0, False, False),
        (1, "1", False),
        (None, "null", False),
        (0.1, 0.1000000001, False),
        (float("nan"), "nan", False),
        (float("inf"), float("-inf"), False),
        (2**62, 2**62 + 1, False),
        ([1, 2], [2, 1], False),
    ],
)
def test_equal_values_and_no_others_share_a_key(one: Value, other: Value, is_equal: bool) -> None:
    assert (task(config={"v": one}).key == task(config={"v": other}).key) is is_equal
    assert (canonical(one) == canonical(other)) is is_equal


@pytest.mark.parametrize(
    "changes", [{"seed": 43}, {"experiment": "m:f"}, {"command": "x"}, {"config": {"width": 2}}]
)
def test_seed_experiment_command_and_parameters_change_key_and_work(changes: dict[str, Value]) -> None:
    assert task(**changes).key != task().key
    assert task(**changes).work != task().work


def test_the_phase_changes_the_key_but_not_the_work() -> None:
    assert task(phase="q").key != task(phase="p").key
    assert task(phase="q").work == task(phase="p").work


@examples(100)
@given(_VALUES)
def test_the_canonical_text_is_json(value: Value) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)
