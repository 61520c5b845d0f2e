import csv
import json
import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.task import Task
from tests.row_cases import a_row, a_task
from tests.support import examples

NASTY = [
    0.1 + 0.2,
    0.3,
    1e-4,
    1,
    1.5,
    True,
    None,
    "1",
    "007",
    "7",
    "nan",
    float("nan"),
    "",
    "é\u2028",
    '"',
    "a,b\nc",
    ' "x",\r\n',
    [1, 1.0, "1", True, None],
    {"a": 1e-4, "é": '"'},
    2**53 + 1,
]
CELLS = [
    "0.30000000000000004",
    "0.30",
    "0.0001",
    "1e-4",
    "1E-04",
    "+1",
    " 1 ",
    "true",
    "None",
    "NaN",
    "-nan",
    "a,b\nc",
    ' "x",\r\n',
    '[1, 1, "1", true, null]',
    '{"é": "\\"", "a": 0.0001}',
    "9007199254740993",
    "9007199254740992.0",
    "[",
    "1",
    "1.0",
    "TRUE",
    "null",
    "007",
    "7.0",
    "nan",
    "",
    "é\u2028",
    '"',
]
NAMES = ["width", "lr", "act"]


@st.composite
def sweeps(draw: st.DrawFn) -> list[Task]:
    tasks = []
    for phase in draw(st.lists(st.sampled_from(["exp1", "exp2"]), min_size=1, max_size=2, unique=True)):
        axes = tuple(draw(st.lists(st.sampled_from(NAMES), unique=True)))
        values = st.fixed_dictionaries({name: st.sampled_from(NASTY) for name in NAMES})
        for config in draw(st.lists(values, max_size=4)):
            tasks.append(a_task(draw(st.sampled_from([42, 7])), phase=phase, axes=axes, **config))
    return tasks


def holds(value: Any, cell: str) -> bool:
    """DESIGN D on one value and one cell, without the forms that the index compares."""
    text = cell.strip().lower()
    match value:
        case None:
            return text in ("", "null", "none")
        case bool():
            return text == str(value).lower()
        case str():
            return cell == value
        case int() | float():
            return is_number(value, text)
    try:
        return same_json(json.loads(cell), value)
    except ValueError:
        return False


def is_number(value: float, text: str) -> bool:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return False
    if found.is_nan() or math.isnan(value):
        return found.is_nan() and math.isnan(value)
    return found == value if isinstance(value, int) else float(found) == value


def same_json(one: Any, other: Any) -> bool:
    match one, other:
        case list(), list():
            return len(one) == len(other) and all(map(same_json, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(same_json(one[name], other[name]) for name in one)
    return bool(one == other and isinstance(one, bool) == isinstance(other, bool))


def completes(task: Task, columns: list[str], fields: list[str]) -> bool:
    """DESIGN D, word for word, one task and one row at a time."""
    cells = dict(reversed(list(zip(columns, fields, strict=True))))  # of equal names the first
    values: dict[str, Any] = {"phase": task.phase, "seed": task.seed} | task.config
    needed = {*task.axes, "seed"}
    if not needed <= cells.keys():
        return False
    return all(
        holds(values[name], cell) or (cell == "" and name not in needed)
        for name, cell in cells.items()
        if name in values
    )


@examples(40)
@given(
    sweeps(),
    st.lists(st.sampled_from([*NAMES, "seed", "phase", "task_id", "acc"]), max_size=8),
    st.data(),
)
def test_the_index_finds_what_comparing_each_row_with_each_task_finds(
    tasks: list[Task], columns: list[str], data: st.DataObject
) -> None:
    match = TaskIndex(tasks).matcher(columns)
    cells = {"seed": ["42", "42.0", "7", ""], "phase": ["exp1", "exp2", ""]}
    for _ in range(4):
        fields = [data.draw(st.sampled_from(cells.get(column, CELLS))) for column in columns]
        assert set(match.one(fields)) == {task.key for task in tasks if completes(task, columns, fields)}


GRID = """\
defaults: {lr: 0.1}
seeds: [42, 7]
exp1: {combinations: [{width: [1, 1.5, "1"]}, {act: [null, "007"]}]}
exp2: {defaults: {act: "7"}, combinations: [{seed: [7, 3]}, {width: [4, 1]}]}
"""


@examples(40)
@given(st.sets(st.integers(0, 15), min_size=1), st.data())
def test_tasks_of_a_grid_are_found_as_if_each_were_alone(chosen: set[int], data: st.DataObject) -> None:
    points = [point for n, point in enumerate(expand(parse_config(GRID, "c.yaml"))) if n in chosen]
    columns = data.draw(st.lists(st.sampled_from([*NAMES, "seed", "phase"]), unique=True, min_size=1))
    cells = {"seed": ["42", "42.0", "7", ""], "phase": ["exp1", "exp2", ""]}
    cell = [st.sampled_from(cells.get(column, CELLS)) for column in columns]
    rows = data.draw(st.lists(st.tuples(*cell), min_size=1, max_size=5))
    expected = {point.key for point in points for row in rows if completes(point.task, columns, list(row))}
    by_column = list(zip(*rows, strict=True))
    assert TaskIndex(points).matcher(columns).all(by_column) == expected
    assert TaskIndex([point.task for point in points]).matcher(columns).all(by_column) == expected


@examples(20)
@given(sweeps(), st.sets(st.sampled_from([*NAMES, "seed", "phase", "acc"]), min_size=2), st.data())
def test_a_file_of_another_program_completes_what_comparing_each_row_with_each_task_finds(
    tasks: list[Task], names: set[str], data: st.DataObject
) -> None:
    columns = sorted(names)
    seen = {"seed": st.sampled_from(["42", "7"]), "phase": st.sampled_from(["exp1", "exp2", ""])}
    rows = data.draw(st.lists(st.tuples(*(seen.get(c, st.sampled_from(CELLS)) for c in columns)), max_size=6))
    with TemporaryDirectory() as folder:
        path = Path(folder, "final_results.csv")
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        found = ResultsFile(path, TaskIndex(tasks)).scan().complete
    assert set(found) == {task.key for task in tasks for row in rows if completes(task, columns, list(row))}


@examples(40)
@given(sweeps())
def test_a_task_is_completed_by_its_own_row(tasks: list[Task]) -> None:
    index = TaskIndex(tasks)
    for task in tasks:
        row = a_row(task)[1]
        assert task.key in index.matcher(list(row)).one(list(row.values()))


def test_rows_of_another_program_count() -> None:
    task = a_task(width=4, lr=5e-4, layers=[64, 64], model="mlp")
    match = TaskIndex([task]).matcher(["notes", "SEED", "seed", "lr", "width"]).one
    assert match(["x", "1", "42.0", "0.00050", "4.0"]) == [task.key]
    assert match(["x", "1", "42.0", "", "4.0"]) == [task.key]
    assert match(["x", "1", "42.0", "0.1", "4.0"]) == []
    assert match(["x", "1", "", "", "4.0"]) == []
    assert match(["x", "1", "42", "", ""]) == []


def test_a_file_without_an_axis_or_the_seed_completes_nothing_and_this_is_told_by_phase() -> None:
    index = TaskIndex([a_task(), a_task(phase="exp2", axes=("lr", "model"), lr=1, model="a")])
    assert index.missing_columns(["width", "model"]) == {"exp1": ("seed",), "exp2": ("lr", "seed")}
    assert index.missing_columns(["width", "lr", "model", "seed"]) == {}
    assert index.matcher(["width", "model"]).one(["1", "a"]) == []


def test_tasks_join_and_leave() -> None:
    first, second = a_task(width=1), a_task(width=2)
    index = TaskIndex([first])
    index.add(second)
    index.add(second)
    assert not index.sync([second])
    match = index.matcher(["width", "seed"]).one
    assert (match(["1", "42"]), match(["2", "42"])) == ([], [second.key])
    assert (first.key in index, second.key in index) == (False, True)
    assert index.sync([first, second])


def test_a_task_whose_axis_became_a_default_is_compared_as_the_newer_one() -> None:
    before, after = a_task(lr=1, axes=("width", "lr")), a_task(lr=1, axes=("width",))
    assert before.key == after.key
    index = TaskIndex([before])
    assert not index.sync([after])
    assert index.matcher(["width", "seed"]).one(["1", "42"]) == [after.key]
