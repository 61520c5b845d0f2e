"""Tasks by their label and by their values, as if each were spelled out."""

from pathlib import Path

import pytest

from distexp.queue.lookup import Labels, Parameter, Where
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from distexp.task import canonical
from tests.row_cases import a_task, tasks_of

CONFIG = """
defaults: {command: 'true {args}', output_dir: results, epochs: 3}
exp1_a_b:
  combinations: [{seed: [-1, 0, 42]}, {width: [1, 2, 2.5]}, {kind: ["1", null, [1, 2]]}]
exp2:
  defaults: {width: 2, depth: 1}
  combinations: [{lr: [0.1]}]
"""


@pytest.fixture
def points(tmp_path: Path) -> list[GridPoint]:
    (tmp_path / "config_exp1.yaml").write_text(CONFIG)
    return expand(load_configs([tmp_path / "config_exp1.yaml"], tmp_path))


def test_every_task_is_found_by_its_label(points: list[GridPoint]) -> None:
    labels = Labels([*points, *tasks_of(3)])
    assert [labels.key_of(point.task_id) for point in points] == [point.key for point in points]
    assert [labels.key_of(task.task_id) for task in tasks_of(3)] == [task.key for task in tasks_of(3)]


@pytest.mark.parametrize(
    "label",
    [
        "",
        "_",
        "exp1_a_b",
        "exp1_a_b_0",
        "exp1_a_b_0_7",
        "exp1_a_b_9_42",
        "exp1_a_b_-1_42",
        "exp1_a_b_00_42",
        "exp3_0_42",
    ],
)
def test_what_is_no_label_of_the_sweep_is_not_found(points: list[GridPoint], label: str) -> None:
    assert Labels(points).key_of(label) is None


@pytest.mark.parametrize(
    "wanted",
    [{}, {"seed": 42}, {"width": 2}, {"width": 2.0, "seed": 0}, {"kind": "1"}, {"kind": 1}, {"kind": None},
     {"kind": [1, 2]}, {"depth": 1}, {"depth": 2}, {"epochs": 3, "lr": 0.1}, {"absent": 1}],
)  # fmt: skip
def test_values_hold_for_the_same_tasks_as_when_each_is_spelled_out(
    points: list[GridPoint], wanted: dict[str, object]
) -> None:
    where = Where({name: canonical(value) for name, value in wanted.items()})
    spelled = [point.task for point in points]
    assert [where.holds(point) for point in points] == [where.holds(task) for task in spelled]


def test_a_task_has_what_its_config_and_seed_say() -> None:
    task = a_task(7, width=2, kind="1")
    held = [Where({name: canonical(value)}) for name, value in (("seed", 7), ("width", 2.0), ("kind", "1"))]
    assert all(where.holds(task) for where in held)
    lacked = [Where({name: canonical(value)}) for name, value in (("seed", 8), ("kind", 1), ("absent", 1))]
    assert not any(where.holds(task) for where in lacked)


def test_tasks_are_sorted_alike_whether_or_not_they_are_spelled_out(points: list[GridPoint]) -> None:
    for name in ("seed", "width", "kind", "depth", "absent"):
        rank = Parameter(name).rank
        assert [rank(point) for point in points] == [rank(point.task) for point in points]


def test_numbers_come_before_texts_and_what_has_no_value_last() -> None:
    tasks = [a_task(1, rate=each) for each in ("b", 10, 9.5, "a", True)] + [a_task(1)]
    ordered = sorted(tasks, key=Parameter("rate").rank)
    assert [each.config.get("rate") for each in ordered] == [9.5, 10, "a", "b", True, None]
