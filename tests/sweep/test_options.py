"""What stands beside `combinations`: tags, earlier names, assumed values."""

import pytest

from distexp.errors import ConfigError
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint, duplicates_among

SWEEP = """\
defaults: {{project: {project}}}
{top}
p:
  {beside}
  combinations: [{{lr: [1, 2]}}, {{dropout: [0.0, 0.5]}}]
"""


def points_of(top: str = "", beside: str = "", project: str = "a") -> list[GridPoint]:
    return expand(parse_config(SWEEP.format(top=top, beside=beside, project=project), "f.yaml"))


@pytest.mark.parametrize("place", ["top", "beside"])
def test_a_tag_is_in_the_parameters_but_not_in_the_identity(place: str) -> None:
    one, other = (points_of(**{place: "tags: [project]"}, project=name) for name in "ab")
    assert [p.key for p in one] == [p.key for p in other]
    assert [p.task.work for p in one] == [p.task.work for p in other]
    assert (one[0].task.config["project"], other[0].task.config["project"]) == ("a", "b")
    assert one[0].task.tags == ("project",)
    assert {p.key for p in one}.isdisjoint(p.key for p in points_of())


def test_a_task_with_a_tag_has_the_key_of_one_without_that_parameter() -> None:
    tagged = points_of(beside="tags: [project]")
    bare = expand(parse_config("p: {combinations: [{lr: [1, 2]}, {dropout: [0, 0.5]}]}", "f.yaml"))
    assert [p.key for p in tagged] == [p.key for p in bare]


def test_tasks_that_differ_in_a_tag_alone_are_duplicates() -> None:
    text = """\
a: {tags: [t], defaults: {t: x}, combinations: [{lr: [1, 2]}]}
b: {tags: [t], defaults: {t: y}, combinations: [{lr: [2, 3]}]}
"""
    points = expand(parse_config(text, "f.yaml"))
    assert sorted(duplicates_among(points)) == sorted([points[1].key, points[2].key])


def test_an_axis_of_one_value_may_be_a_tag() -> None:
    text = "p: {tags: [t], combinations: [{lr: [1, 2]}, {t: [x]}]}"
    (first, _) = expand(parse_config(text, "f.yaml"))
    assert (first.task.axes, first.task.config) == (("lr",), {"lr": 1, "t": "x"})


def test_earlier_names_and_assumed_values_reach_the_grid() -> None:
    beside = "renamed_from: {phase: [grid, q], lr: LR}\n  assume: {dropout: 0.0, seed: 7}"
    grid = points_of(top="renamed_from: {phase: [old], project: [name]}", beside=beside)[0].grid
    assert grid.renamed_from == {"phase": ("grid", "q"), "lr": ("LR",), "project": ("name",)}
    assert grid.assume == {"dropout": 0.0, "seed": 7}


def test_what_the_top_says_holds_for_the_phases_that_have_the_parameter() -> None:
    text = """\
tags: [t]
assume: {lr: 1}
a: {defaults: {t: x}, combinations: [{lr: [1, 2]}]}
b: {combinations: [{width: [1, 2]}]}
"""
    a, b = parse_config(text, "f.yaml")
    assert (a.tags, a.assume, b.tags, b.assume) == (("t",), {"lr": 1}, (), {})


@pytest.mark.parametrize("name", ["tags", "renamed_from", "assume"])
def test_the_names_are_reserved_in_their_place_only(name: str) -> None:
    text = f"defaults: {{{name}: 3}}\n{name}:\n  combinations: [{{lr: [1, 2]}}]\n"
    (phase,) = parse_config(text, "f.yaml")
    assert (phase.name, phase.defaults) == (name, {name: 3})


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        (
            "tags: [x]",
            "f.yaml:4: p.tags[0]: there is no parameter x in p. There are: lr, dropout, project, phase, seed",
        ),
        ("tags: [lr]", "f.yaml:4: p.tags[0]: a tag has one value in a phase, but lr is an axis of p"),
        (
            "tags: 3",
            "f.yaml:4: p.tags: tags must be names of parameters, such as [project_name] (it is 3)",
        ),
        (
            "renamed_from: {lr: 3}",
            "f.yaml:4: p.renamed_from.lr: earlier names of lr must be text, such as [old_name] (it is 3)",
        ),
        (
            "renamed_from: {lr: [dropout]}",
            "f.yaml:4: p.renamed_from.lr: dropout is a parameter of p too: rename one of them",
        ),
        ("assume: 3", "f.yaml:4: p.assume: must be a mapping, such as {dropout: 0.0} (it is 3)"),
        (
            "assume: {seed: x}",
            'f.yaml:4: p.assume.seed: assume needs a value that seed can have (it is "x")',
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(beside: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        points_of(beside=beside)
    assert caught.value.problems == (problem,)


def test_a_name_at_the_top_must_be_in_some_phase() -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:2: assume.x: there is no parameter x in this file. There"):
        points_of(top="assume: {x: 1}")


def test_a_setup_reaches_every_task_of_the_file_and_changes_no_key() -> None:
    points = points_of(top="setup: bash get_data.sh")
    assert {point.task.setup for point in points} == {"bash get_data.sh"}
    assert [point.key for point in points] == [point.key for point in points_of()]


@pytest.mark.parametrize(
    ("top", "beside", "said"),
    [
        ("setup: [a, b]", "", r"f\.yaml:2: setup: must be a command such as 'bash get_data\.sh'"),
        ("setup: ''", "", "must be a command"),
        ("setup: bash 'get", "", "has an open quote"),
        ("setup: mkdir data && bash get_data.sh", "", "&& is a shell's, and no shell runs"),
        ("", "setup: bash get_data.sh", "write `setup` at the top of the file"),
    ],
)
def test_a_setup_is_a_command_at_the_top_of_a_file(top: str, beside: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        points_of(top=top, beside=beside)


def test_a_phase_may_be_called_setup() -> None:
    assert expand(parse_config("setup: {combinations: [{lr: [1, 2]}]}", "f.yaml"))[0].phase == "setup"
