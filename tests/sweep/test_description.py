"""Axes and tasks in lines that people read."""

import pytest

from distexp.sweep.config import parse_config
from distexp.sweep.description import task_lines
from distexp.sweep.expand import expand


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ("{lr: [0.1, 1, x, null]}", "lr: 0.1, 1, x, null"),
        ("{n: {range: [100]}}", "n: 0, 1, 2, ..., 99 (100 values)"),
        ("{lr: [1, 2], when: {o: sgd, w: [1, 2]}}", "lr: 1, 2 when o is sgd and w is 1 or 2"),
        ("{zip: {a: [1, 2], b: [x, y]}}", "a, b in pairs: a 1, b x; a 2, b y"),
        ("{cases: [{}, {a: 1}, {a: 2, b: 3}]}", "a, b by case: -; a 1; a 2, b 3"),
        ("{lr: {min: 0.5, max: 1}}", "lr: drawn, uniform, min 0.5, max 1"),
        ("{lr: {distribution: normal}}", "lr: drawn, normal"),
    ],
)
def test_an_axis_is_told_as_it_was_understood(item: str, line: str) -> None:
    first = "{o: [sgd]}, {w: [1, 2]}, {u: {min: 0.0, max: 1.0}}"
    text = f"p: {{search: {{samples: 2}}, combinations: [{first}, {item}]}}"
    (phase,) = parse_config(text, "f.yaml")
    assert phase.axis_lines[-1] == line


def test_the_first_tasks_and_the_last_are_told_with_what_varies() -> None:
    points = expand(
        parse_config("p: {defaults: {c: 1}, combinations: [{a: {range: [9]}}, {b: [x]}]}", "f.yaml")
    )
    assert task_lines(points) == [
        "p_0_42: a 0, b x",
        "p_1_42: a 1, b x",
        "p_2_42: a 2, b x",
        "p_8_42: a 8, b x",
    ]
    assert task_lines(points[:3]) == task_lines(points)[:3]
