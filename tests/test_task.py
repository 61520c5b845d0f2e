"""A task's identity: what it depends on, what it does not, and that no two spellings of a value differ."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.queue.entry import WorkerInfo
from distexp.task import KEY_DIGITS, Task, canonical, digest, make_task
from tests.row_cases import a_task
from tests.support import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
BASE: dict[str, Any] = {
    "task_id": "exp1_0_42",
    "phase": "exp1",
    "config": {"width": 1, "lr": 0.1},
    "seed": 42,
    "output_dir": "results",
    "axes": ("width",),
}


def task_with(**changes: Any) -> Task:
    return make_task(**BASE | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "exp2"},
        {"config": {"width": 2, "lr": 0.1}},
        {"config": {"width": "1", "lr": 0.1}},
        {"config": {"width": True, "lr": 0.1}},
        {"config": {"width": 1, "lr": 0.1, "depth": None}},
        {"seed": 43},
        {"experiment": "mine:run"},
        {"command": "python train.py"},
    ],
)
def test_a_key_depends_on_phase_experiment_parameters_and_seed(changes: dict[str, Any]) -> None:
    assert task_with(**changes).key != task_with().key


@pytest.mark.parametrize(
    "changes",
    [
        {"task_id": "exp1_7_42"},
        {"output_dir": "elsewhere"},
        {"axes": ("width", "lr")},
        {"timeout_s": 5.0},
        {"process": "fresh"},
        {"config": {"lr": 0.1, "width": 1}},
        {"config": {"width": 1.0, "lr": 1e-1}},
    ],
)
def test_a_key_depends_on_nothing_else(changes: dict[str, Any]) -> None:
    assert task_with(**changes).key == task_with().key
    assert task_with(**changes).work == task_with().work


def test_equal_work_in_two_phases_has_two_keys() -> None:
    first, second = task_with(phase="exp1"), task_with(phase="exp2")
    assert first.work == second.work
    assert len({first.key, second.key, first.work}) == 3
    assert len(first.key) == KEY_DIGITS


def test_a_key_is_the_same_in_every_version() -> None:
    assert (a_task().key, a_task().work) == ("9698377f2d183a68c0b1", "20abe00ca522d8caeeb6")


def test_names_that_run_into_each_other_are_told_apart() -> None:
    assert task_with(phase='a","b').key != task_with(phase="a", experiment='b","c').key
    assert canonical(["a,b"]) != canonical(["a", "b"])
    assert canonical({"float": "nan"}) != canonical('{"float": "nan"}')


@examples(40)
@given(VALUES, VALUES)
def test_two_values_agree_when_and_only_when_they_are_one_value(one: Any, other: Any) -> None:
    assert canonical(one) == canonical(json.loads(json.dumps(one)))
    assert (canonical(one) == canonical(other)) == (plain(one) == plain(other))
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


def plain(value: Any) -> Any:
    """A value that Python's own equality compares as people would: no True == 1, nan equal to nan."""
    match value:
        case bool() | None | str():
            return (type(value).__name__, value)
        case float() if math.isnan(value):
            return "nan"
        case list():
            return [plain(item) for item in value]
        case dict():
            return {name: plain(item) for name, item in value.items()}
    return ("number", value)


@pytest.mark.parametrize(("heartbeat_s", "term_s"), [(None, 7200), (15.0, 60), (0.5, 2)])
def test_a_worker_has_four_heartbeats_or_two_hours(heartbeat_s: float | None, term_s: float) -> None:
    assert WorkerInfo("cpu0", heartbeat_s).term_s == term_s
