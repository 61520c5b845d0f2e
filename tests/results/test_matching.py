"""The index finds the tasks that comparing each row with each task finds, by the rule taken literally."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import Grid, GridPoint
from distexp.task import Task
from distexp.text import cell_text
from tests.results.test_compare import CELLS, NEAR, holds_literally
from tests.row_cases import a_row, a_task
from tests.support import examples

NAMES = ["width", "lr", "act"]
COLUMNS = [*NAMES, "seed", "phase", "task_id", "acc", "config/lr", "config.width", "old_act"]
AXIS = st.lists(st.sampled_from(NEAR), min_size=1, max_size=3, unique_by=cell_text)


def points_of(text: str) -> list[GridPoint]:
    return expand(parse_config(text, "c.yaml"))


@st.composite
def sweeps(draw: st.DrawFn) -> list[GridPoint]:
    """Tasks of one or two phases, some of which have left."""
    points = []
    for phase in draw(st.lists(st.sampled_from(["exp1", "exp2"]), min_size=1, max_size=2, unique=True)):
        axes = draw(st.dictionaries(st.sampled_from(NAMES), AXIS, min_size=1))
        grid = Grid(
            phase=phase,
            axes={name: tuple(values) for name, values in axes.items()},
            seeds=tuple(draw(st.sampled_from([[42], [42, 7]]))),
            defaults={name: draw(st.sampled_from(NEAR)) for name in NAMES if name not in axes},
            experiment=draw(st.sampled_from(["a:run", "b:run"])),
            command=None,
            timeout_s=None,
            process="forked",
            tags=("note",),
            renamed_from=draw(st.sampled_from([{}, {"act": ("old_act",), "phase": ("exp0",)}])),
            assume=draw(st.sampled_from([{}, {"lr": 0.1}])),
        )
        folders = draw(st.sampled_from([["results_1"], ["results_1", "results_2"]]))
        all_points = [
            GridPoint(grid, number, folders[number % len(folders)], f"{phase}-{number}")
            for number in range(len(grid))
        ]
        points += [point for point in all_points if draw(st.sampled_from([True, True, True, False]))]
    return points


def fits(point: GridPoint, columns: Sequence[str], row: Sequence[str]) -> bool:
    """The rule on one task and one row, but for what concerns rows without a phase."""
    grid, task = point.grid, point.task
    cells = dict(reversed(list(zip(columns, row, strict=True))))  # of equal names the first
    axes = {**grid.axes, "seed": grid.seeds}
    if not any(map(str.strip, cells.values())):
        return False  # a blank line of a spreadsheet

    def cell_of(name: str) -> str | None:
        earlier = grid.renamed_from.get(name, ()) if name != "phase" else ()
        found = [
            cells[f"{p}{n}"]
            for n in (name, *earlier)
            for p in ("", "config/", "config.")
            if f"{p}{n}" in cells
        ]
        return next((cell for cell in found if cell.strip()), found[0] if found else None)

    if cell_of("phase") is None and all(cell_of(name) is None for name in grid.axes):
        return False
    phase = cell_of("phase") or ""
    if phase.strip() and phase not in (grid.phase, *grid.renamed_from.get("phase", ())):
        return False
    if not phase.strip() and all(cell_of(name) is None for name in grid.axes):
        return False
    for name, value in {**task.config, "seed": task.seed}.items():
        cell = cell_of(name)
        is_empty = cell is None or (not cell.strip() and "" not in axes.get(name, [value]))
        if is_empty and name in grid.assume:
            cell = cell_text(grid.assume[name])
        others = [each for each in axes.get(name, [value]) if holds_literally(each, cell or "")]
        if len(axes.get(name, ())) < 2:
            if cell is not None and cell.strip() and not holds_literally(value, cell):
                return False
            continue
        if cell is None or not holds_literally(value, cell):
            return False
        if len(others) > 1 and cell_text(value) != cell:
            return False
    return True


def completes(
    points: Sequence[GridPoint], columns: Sequence[str], row: Sequence[str], folder: str
) -> set[str]:
    """The keys of the tasks that the row completes in the file of this folder."""
    if not any(cell.strip() for cell in row):
        return set()  # as a blank line
    held = [point for point in points if fits(point, columns, row)]
    cells = [cell for column, cell in zip(columns, row, strict=True) if column == "phase"]
    if cells and cells[0].strip():
        return {point.key for point in held}
    if len({point.phase for point in held}) > 1 and len({point.task.work for point in held}) > 1:
        writers = {point.phase for point in points if point.output_dir == folder}
        held = [point for point in held if point.phase in writers]
    return {point.key for point in held}


def rows_of(
    draw: Any, columns: Sequence[str], points: Sequence[GridPoint], count: int
) -> list[tuple[str, ...]]:
    """Rows of near cells, and of cells that tasks would write."""
    fixed = {"seed": ["42", "42.0", "7", ""], "phase": ["exp1", "exp2", "exp0", ""]}
    rows = []
    for _ in range(count):
        values: dict[str, Any] = draw(st.sampled_from(points)).task.config if points else {}
        cells = [
            draw(st.sampled_from(fixed.get(name) or [cell_text(values.get(plain(name))), *CELLS]))
            for name in columns
        ]
        rows.append(tuple(cells))
    return rows


def plain(column: str) -> str:
    return column.removeprefix("config/").removeprefix("config.").removeprefix("old_")


@examples(150)
@given(sweeps(), st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=8), st.data())
def test_the_index_finds_what_comparing_each_row_with_each_task_finds(
    points: list[GridPoint], columns: list[str], data: st.DataObject
) -> None:
    folder = data.draw(st.sampled_from(["results_1", "results_2", "results_else"]))
    match = TaskIndex(points).matcher(columns, folder)
    rows = rows_of(data.draw, columns, points, 4)
    expected = [completes(points, columns, row, folder) for row in rows]
    assert [set(match.one(row)) for row in rows] == expected
    found = match.found(list(zip(*rows, strict=True)))
    assert [{key} if isinstance(key, str) else {*(key or ())} for key in found] == expected


@examples(60)
@given(sweeps(), st.sets(st.sampled_from(COLUMNS), min_size=2), st.data())
def test_a_file_of_another_program_completes_what_comparing_each_row_with_each_task_finds(
    points: list[GridPoint], names: set[str], data: st.DataObject
) -> None:
    columns = sorted(names)
    rows = rows_of(data.draw, columns, points, data.draw(st.integers(0, 6)))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    with TemporaryDirectory() as folder:
        with open(Path(folder, "final_results.csv"), "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        found = ResultsFile(Path(folder), ".", TaskIndex(points)).scan().complete
    assert set(found) == {key for row in rows for key in completes(points, columns, row, ".")}


@examples(100)
@given(sweeps(), st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=8), st.data())
def test_a_worker_with_the_rule_of_its_task_decides_as_the_manager_does(
    points: list[GridPoint], columns: list[str], data: st.DataObject
) -> None:
    index = TaskIndex(points)
    for row in rows_of(data.draw, columns, points, 3):
        for point in points[:6]:
            alone = TaskIndex()
            alone.add(point.task, index.rule(point))
            theirs = point.key in index.matcher(columns, point.output_dir).one(row)
            mine = point.key in alone.matcher(columns, point.output_dir).one(row)
            assert mine == theirs or (mine and len({each.phase for each in points}) > 1)


@examples(40)
@given(sweeps())
def test_a_task_is_completed_by_its_own_row(points: list[GridPoint]) -> None:
    index = TaskIndex(points)
    for point in points:
        row = a_row(point.task)[1]
        assert point.key in index.matcher(list(row), point.output_dir).one(list(row.values()))


def test_rows_of_another_program_count() -> None:
    (task, *_) = points_of(
        "exp1: {defaults: {layers: [64, 64], model: mlp}, "
        "combinations: [{width: [4, 8]}, {lr: [5.0e-4, 0.1]}]}"
    )
    match = TaskIndex([task]).matcher(["notes", "SEED", "lr", "width", "model"], "results_x").one
    assert match(["x", "1", "0.00050", "4.0", "mlp"]) == [task.key]
    assert match(["x", "1", "0.0005", "4", ""]) == [task.key]
    assert match(["x", "1", "", "4", "mlp"]) == []
    assert match(["x", "1", "0.0005", "4", "cnn"]) == []


TWO_PHASES = """
defaults: {output_dir: results_a, experiment: "mine:run"}
p: {combinations: [{lr: [0.1, 0.2]}]}
q: {defaults: {output_dir: results_b, depth: %s}, combinations: [{lr: [0.1, 0.3]}]}
"""


def test_a_row_without_a_phase_that_fits_two_phases_counts_only_where_those_write() -> None:
    points = points_of(TWO_PHASES % 3)
    of_p, of_q = points[0].key, points[2].key
    index = TaskIndex(points)
    assert index.matcher(["lr"], "results_a").one(["0.1"]) == [of_p]
    assert index.matcher(["lr"], "results_b").one(["0.1"]) == [of_q]
    assert index.matcher(["lr"], "results_else").one(["0.1"]) == []
    assert index.matcher(["lr"], "results_else").one(["0.2"]) == [points[1].key]
    assert index.matcher(["lr", "phase"], "results_else").one(["0.1", "q"]) == [of_q]


def test_a_row_without_a_phase_counts_for_the_same_work_of_two_phases() -> None:
    points = points_of(TWO_PHASES.replace(", depth: %s", ""))
    found = TaskIndex(points).matcher(["lr"], "results_else").one(["0.1"])
    assert found == [points[0].key, points[2].key]


def test_a_column_under_an_earlier_name_counts_until_the_new_one_holds_a_value() -> None:
    points = points_of(
        "exp1: {renamed_from: {phase: [old], lr: [learning_rate]}, combinations: [{lr: [0.1, 0.2]}]}"
    )
    match = TaskIndex(points).matcher(["phase", "learning_rate", "lr"], "results_exp1").one
    assert match(["old", "0.1", ""]) == [points[0].key]
    assert match(["exp1", "", "0.2"]) == [points[1].key]
    assert match(["exp1", "0.1", "0.2"]) == [points[1].key]
    assert match(["other", "0.1", ""]) == []


def test_a_row_without_a_value_of_a_grown_axis_counts_as_the_assumed_one() -> None:
    points = points_of("exp1: {assume: {dropout: 0.0}, combinations: [{lr: [0.1]}, {dropout: [0.0, 0.5]}]}")
    index = TaskIndex(points)
    assert index.matcher(["phase", "lr"], "results_exp1").one(["exp1", "0.1"]) == [points[0].key]
    match = index.matcher(["phase", "lr", "dropout"], "results_exp1").one
    assert (match(["exp1", "0.1", ""]), match(["exp1", "0.1", "0.5"])) == ([points[0].key], [points[1].key])


WHEN = "exp1: {combinations: [{model: [cnn, mlp]}, {when: {model: cnn}, kernel: [3, 5]}]}"


def test_a_parameter_that_a_task_lacks_is_compared_as_null() -> None:
    three, five, mlp = (point.key for point in points_of(WHEN))
    match = TaskIndex(points_of(WHEN)).matcher(["phase", "model", "kernel"], "results_exp1").one
    assert [match(["exp1", "cnn", cell]) for cell in ("3", "5.0", "", "7")] == [[three], [five], [], []]
    assert [match(["exp1", "mlp", cell]) for cell in ("", "nan", "3")] == [[mlp], [mlp], []]
    without_column = TaskIndex(points_of(WHEN)).matcher(["model"], "results_exp1").one
    assert (without_column(["mlp"]), without_column(["cnn"])) == ([mlp], [])


def test_a_worker_compares_a_parameter_that_its_task_lacks_as_null() -> None:
    points = points_of(WHEN)
    index, alone = TaskIndex(points), TaskIndex()
    alone.add(points[2].task, index.rule(points[2]))
    match = alone.matcher(["phase", "model", "kernel"], "results_exp1").one
    assert (match(["exp1", "mlp", ""]), match(["exp1", "mlp", "3"])) == ([points[2].key], [])


def test_pairs_of_axes_count_as_pairs() -> None:
    points = points_of("exp1: {combinations: [{zip: {a: [1, 2, 3], b: [4, 5, 6]}}]}")
    match = TaskIndex(points).matcher(["a", "b"], "results_exp1").one
    assert (match(["2", "5.0"]), match(["2", "6"])) == ([points[1].key], [])


def test_a_tag_is_never_compared() -> None:
    points = points_of("exp1: {defaults: {project: b}, tags: [project], combinations: [{lr: [0.1, 0.2]}]}")
    assert TaskIndex(points).matcher(["project", "lr"], "x").one(["a", "0.1"]) == [points[0].key]


@pytest.mark.parametrize("columns", [["acc"], ["seed", "acc"], ["width"]])
def test_a_file_without_a_varied_parameter_or_an_axis_completes_nothing(columns: list[str]) -> None:
    points = points_of("{seeds: [1, 2], exp1: {combinations: [{width: [1]}, {lr: [0.1, 0.2]}]}}")
    assert TaskIndex(points).matcher(columns, "results_exp1").one(["1"] * len(columns)) == []


def test_tasks_join_and_leave() -> None:
    first, second = a_task(width=1), a_task(width=2)
    index = TaskIndex([first])
    index.add(second)
    index.sync([second])
    match = index.matcher(["width", "seed"], "results_exp1").one
    assert (match(["1", "42"]), match(["2", "42"])) == ([], [second.key])
    assert (first.key in index, second.key in index) == (False, True)


def test_rows_are_compared_with_all_tasks_also_while_these_are_replaced() -> None:
    first, second = a_task(width=1), a_task(width=2)
    index = TaskIndex([first, second])
    meanwhile = []

    def tasks() -> Iterator[Task]:
        yield first
        match = index.matcher(["width", "seed"], "results_exp1").one
        meanwhile.append((second.key in index, match(["2", "42"]), index.groups))
        yield second

    index.sync(tasks())
    known, found, groups = meanwhile[0]
    assert (known, found) == (True, [second.key])
    assert groups is not index.groups  # so that a reader makes its matcher anew


def test_a_task_that_was_added_as_it_runs_though_it_has_left_is_known_until_it_joins_again() -> None:
    first, left = a_task(width=1), a_task(width=2)
    index = TaskIndex([first])
    index.add(left)
    index.sync([first])
    assert index.matcher(["width", "seed"], "results_exp1").one(["2", "42"]) == [left.key]
    assert index.writers(left.output_dir) == {left.phase}
    index.sync([first, left])
    assert len(index.groups) == 2


def test_a_matcher_goes_on_with_the_tasks_it_was_made_of() -> None:
    task = a_task()
    index = TaskIndex([task])
    match = index.matcher(["width", "seed"], "results_exp1").one
    index.sync([])
    assert match(["1", "42"]) == [task.key]
