"""Rows of tasks that were stopped early: they are told apart, and the next row takes their place."""

from pathlib import Path

import pytest

from distexp.results.audit import audit
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.results.row import RUNGS_FILE, row_for
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from distexp.task import Provenance, Task

SWEEP = """
defaults: {output_dir: results_a, lr: 0.1}
metric: acc
early_terminate: {type: asha}
p: {combinations: [{width: [1, 2, 3]}]}
"""
RUNGS = "phase,task_id,key,seed,rung,step,verdict\n{0},{0}_0_42,k,42,3,3,stop\n"
Row = tuple[Task, dict[str, str]]


@pytest.fixture
def points() -> list[GridPoint]:
    return expand(parse_config(SWEEP, "f.yaml"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "results_a").mkdir()
    return tmp_path / "results_a" / RESULTS_FILE


def file_of(path: Path, points: list[GridPoint]) -> ResultsFile:
    return ResultsFile(path.parents[1], "results_a", TaskIndex(points))


def finished(point: GridPoint, acc: float = 0.9) -> Row:
    return point.task, row_for(point.task, {"acc": acc}, Provenance())


def pruned(point: GridPoint, step: int = 3, acc: float = 0.2) -> Row:
    return point.task, row_for(point.task, {"acc": acc}, Provenance(stopped_at=step))


def test_the_column_comes_with_the_first_task_that_was_stopped(path: Path, points: list[GridPoint]) -> None:
    file = file_of(path, points)
    file.append([finished(points[0])])
    assert b"stopped_at" not in path.read_bytes()
    scan = file.append([pruned(points[1])]).scan
    assert scan.pruned == {points[1].key} and points[1].key not in scan.complete
    scan = file_of(path, points).scan()
    assert (scan.complete, scan.pruned) == ({points[0].key}, {points[1].key})


@pytest.mark.parametrize(
    ("cell", "is_pruned"),
    [("1", True), ("1.0", True), (" 3", True), ("", False), ("nan", False), ("NA", False)],
)
def test_a_cell_that_another_program_wrote_tells_of_a_stop_unless_it_means_none(
    path: Path, points: list[GridPoint], cell: str, *, is_pruned: bool
) -> None:
    path.write_text(f"phase,width,stopped_at,acc\np,1,{cell},0.5\n", encoding="utf-8")
    scan = file_of(path, points).scan()
    assert (scan.pruned, scan.complete)[not is_pruned] == {points[0].key}


def test_a_task_that_was_stopped_gets_one_row_until_it_runs_again(
    path: Path, points: list[GridPoint]
) -> None:
    file = file_of(path, points)
    file.append([pruned(points[0]), finished(points[1])])
    before = path.read_bytes().splitlines()
    scan = file.append([finished(points[0], 0.7)]).scan
    assert scan.complete >= {points[0].key} and not scan.pruned
    after = path.read_bytes().splitlines()
    assert after[:2] == [before[0], before[2]]
    assert len(after) == 3 and b"0.7" in after[2]
    assert file.append([pruned(points[0]), finished(points[0], 0.1)]).written == frozenset()


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_what_it_does_not_understand_stays_byte_for_byte(
    path: Path, points: list[GridPoint], end: bytes
) -> None:
    kept = [b"phase;width;seed;acc;stopped_at;note", b"odd", b'"p";2;42;0.75;;\xc3\xa4']
    path.write_bytes(b"\r\n".join([kept[0], b'"p";1;42;0.5;3;"a;b"', *kept[1:]]) + end)
    row = {"phase": "p", "width": "1", "seed": "42", "acc": "0.9"}
    file_of(path, points).append([(points[0].task, row)])
    assert path.read_bytes() == b"\r\n".join([*kept, b"p;1;42;0.9;;", b""])


def test_a_later_stop_replaces_an_earlier_one_and_nothing_replaces_a_finished_row(
    path: Path, points: list[GridPoint]
) -> None:
    file = file_of(path, points)
    file.append([pruned(points[0], 3)])
    assert file.append([pruned(points[0], 9, acc=0.4)]).scan.pruned == {points[0].key}
    assert len(path.read_bytes().splitlines()) == 2
    file.append([finished(points[0])])
    assert not file.append([pruned(points[0], 27)]).written


def test_a_finished_row_counts_wherever_it_stands(path: Path, points: list[GridPoint]) -> None:
    text = "phase,width,seed,acc,stopped_at\np,1,42,0.2,3\np,1,42,0.9,\np,2,42,0.9,\np,2,42,0.2,3\n"
    path.write_text(text)
    scan = file_of(path, points).scan()
    assert (scan.complete, scan.pruned) == ({points[0].key, points[1].key}, frozenset())
    found = file_of(path, points).find({points[0].key})
    assert found[points[0].key]["acc"] == "0.9"


def test_a_stopped_task_is_pruned_once_another_file_tells_more(path: Path, points: list[GridPoint]) -> None:
    path.write_text("phase,width,seed,acc,stopped_at\np,1,42,0.2,3\np,2,42,0.2,3\n")
    other = path.parents[1] / "results_b" / RESULTS_FILE
    other.parent.mkdir()
    other.write_text("phase,width,seed,acc\np,1,42,0.9\n")
    own, more = audit(path.parents[1], points)
    assert [(row.keys, row.is_pruned) for row in own.rows] == [([], True), ([points[1].key], True)]
    assert [(row.keys, row.is_pruned) for row in more.rows] == [([points[0].key], False)]


def test_a_metric_of_that_name_ends_no_task_early_where_nothing_is_stopped(path: Path) -> None:
    points = expand(parse_config(SWEEP.replace("early_terminate: {type: asha}\n", ""), "f.yaml"))
    path.write_text("phase,width,seed,acc,stopped_at\np,1,42,0.2,3\n")
    assert file_of(path, points).scan().complete == {points[0].key}
    (path.parent / RUNGS_FILE).write_text(RUNGS.format("p"))
    assert file_of(path, points).scan().pruned == {points[0].key}


def test_a_metric_of_that_name_ends_no_task_of_a_phase_that_stops_none(path: Path) -> None:
    other = "q: {combinations: [{width: [1, 2]}]}\n"
    text = SWEEP.replace("early_terminate: {type: asha}\n", "").replace(
        "p: {", "p: {early_terminate: {type: asha}, "
    )
    points = expand(parse_config(text + other, "f.yaml"))
    p1, _, _, q1, q2 = [point.key for point in points]
    path.write_text("phase,width,seed,acc,stopped_at\nq,1,42,0.2,3\np,1,42,0.2,3\nq,2,42,0.9,\n")
    scan = file_of(path, points).scan()
    assert (scan.complete, scan.pruned) == ({q1, q2}, {p1})
    (path.parent / RUNGS_FILE).write_text(RUNGS.format("q"))
    scan = file_of(path, points).scan()
    assert (scan.complete, scan.pruned) == ({q2}, {p1, q1})
