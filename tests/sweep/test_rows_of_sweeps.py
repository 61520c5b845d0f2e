"""Rows of every construct count after a restart: what is written for a task completes that task alone."""

import csv
from pathlib import Path

import pytest

from distexp.results.audit import audit
from distexp.results.conversion import convert
from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.results.row import PREFIXES, row_for
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from tests.row_cases import RUN

PHASES = {
    "cases": "{combinations: [{cases: [{}, {o: sgd}, {o: adam, wd: 0.1}]}, {x: [1, 2]}]}",
    "conditions": "{combinations: [{m: [cnn, mlp]}, {k: [3, 5], when: {m: cnn}}, {w: [3], when: {m: mlp}}]}",
    "pairs": "{exclude: [{a: 1}], combinations: [{zip: {a: [1, 2, 3], b: [x, y, 007]}}]}",
    "nested": "{defaults: {model: {w: 1}}, combinations: [{model.w: [2, 3]}]}",
    "ranges": "{combinations: [{lr: {geomspace: [1e-5, 1, 6]}}, {d: {linspace: [0, 1, 4]}}]}",
    "samples": """{search: {samples: 30, for_each: [d]}, combinations: [{d: [a, b]}, {n: {min: 1, max: 8}},
      {lr: {distribution: log_uniform_values, min: 1e-6, max: 1}},
      {z: {distribution: normal}, when: {d: a}}]}""",
    "renamed": """{renamed_from: {k: [kernel]}, defaults: {n: null},
      combinations: [{m: [cnn, mlp]}, {k: [3, 5], when: {m: cnn}}]}""",
    "fallback": "{defaults: {o: sgd}, combinations: [{cases: [{}, {o: adam}]}]}",
    "grown": "{assume: {b: 0.0}, combinations: [{o: [sgd, adam]}, {b: [0.0, 0.9], when: {o: sgd}}]}",
    "grown_cases": "{assume: {wd: 0.0}, combinations: [{cases: [{}, {wd: 0.1}, {sched: cosine}]}]}",
    "grown_twin": "{assume: {wd: 0.0}, combinations: [{cases: [{}, {wd: 0.0}, {wd: 0.1, b: 1}, {b: 2}]}]}",
    "grown_pair": "{assume: {a: 0, b: 0}, combinations: [{cases: [{}, {a: 0, b: 0}, {a: 1, b: 1}]}]}",
    "grown_null": "{assume: {wd: 0.5}, combinations: [{wd: [null, 0.5, 1]}, {b: [1, 2]}]}",
    "ours": "{combinations: [{m: [a, b]}, {device: [cpu, tpu], when: {m: a}}, {code: [x, y], when: {m: b}}]}",
    "ours_cases": "{combinations: [{cases: [{}, {attempt: 1}, {worker: cpu0}, {torch_version: 2.13.0}]}]}",
    "ours_renamed": "{renamed_from: {x: [worker], z: [host]}, combinations: [{x: ['', a]}, {z: [null, b]}]}",
    "prefixed": "{combinations: [{lr: ['', b]}, {config.lr: [b, c]}, {config/lr: [b, '']}]}",
}


def write_rows(path: Path, points: list[GridPoint], columns: list[str]) -> None:
    """Write a row for each point, as another program would: what a task lacks is an empty cell."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, "seed", "acc"])
        writer.writeheader()
        for point in points:
            config = point.task.config
            cells = {name: config[name] for name in columns if name in config}
            writer.writerow({**cells, "seed": point.seed, "acc": 0.5})


@pytest.mark.parametrize("name", PHASES)
def test_each_row_completes_its_task_alone(tmp_path: Path, name: str) -> None:
    points = expand(parse_config(f"seeds: [1, 2]\n{name}: {PHASES[name]}", "f.yaml"))
    columns = [axis for axis in points[0].grid.axes]
    for some in (points, points[::3]):
        write_rows(tmp_path / f"results_{name}" / "final_results.csv", some, columns)
        (file,) = audit(tmp_path, points)
        assert [row.keys for row in file.rows] == [[point.key] for point in some]


def test_a_row_of_a_program_that_lacks_the_column_of_a_condition_counts(tmp_path: Path) -> None:
    points = expand(parse_config(f"conditions: {PHASES['conditions']}", "f.yaml"))
    lacking = [point for point in points if "k" not in point.task.config]
    write_rows(tmp_path / "results_conditions" / "final_results.csv", lacking, ["m", "w"])
    (file,) = audit(tmp_path, points)
    assert [row.keys for row in file.rows] == [[point.key] for point in lacking]


@pytest.mark.parametrize("name", PHASES)
def test_no_name_of_a_metric_hides_a_row(tmp_path: Path, name: str) -> None:
    points = expand(parse_config(f"{name}: {PHASES[name]}", "f.yaml"))
    clashing = [p + axis for axis in (*points[0].grid.axes, "kernel", "n", "phase") for p in PREFIXES]
    clashing = [*dict.fromkeys(clashing)]
    index = TaskIndex(points)
    file = ResultsFile(tmp_path, f"results_{name}", index)
    for point in points:
        rule = index.rule(point)
        metrics = convert(point.task, dict.fromkeys(clashing, 0.25), rule).metrics
        assert len(metrics) == len(clashing)
        file.append([(point.task, row_for(point.task, metrics, RUN, rule))])
    (found,) = audit(tmp_path, points)
    assert [row.keys for row in found.rows] == [[point.key] for point in points]


@pytest.mark.parametrize("name", PHASES)
def test_a_worker_knows_the_row_of_its_task_alone(name: str) -> None:
    points = expand(parse_config(f"seeds: [1, 2]\n{name}: {PHASES[name]}", "f.yaml"))
    index = TaskIndex(points)
    rows = {point.key: row_for(point.task, {"acc": 0.5}, RUN, index.rule(point)) for point in points}
    columns = [*dict.fromkeys(column for row in rows.values() for column in row)]
    for point in points:
        own = TaskIndex()
        own.add(point.task, index.rule(point))
        match = own.matcher(columns, f"results_{name}").one
        known = [key for key, row in rows.items() if match([row.get(column, "") for column in columns])]
        assert known == [point.key]


def test_rows_from_before_an_axis_of_some_tasks_was_added_count_as_assumed(tmp_path: Path) -> None:
    points = expand(parse_config(f"grown: {PHASES['grown']}", "f.yaml"))
    path = tmp_path / "results_grown" / "final_results.csv"
    path.parent.mkdir()
    for text in ("o,seed\nsgd,42\nadam,42\n", "o,b,seed\nsgd,,42\nadam,,42\n"):
        path.write_text(text)
        (file,) = audit(tmp_path, points)
        assert [row.keys for row in file.rows] == [[points[0].key], [points[2].key]]
