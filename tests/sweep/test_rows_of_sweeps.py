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
from distexp.task import Provenance

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
        metrics = convert(point.task, dict.fromkeys(clashing, 0.25), index.rule(point)).metrics
        assert len(metrics) == len(clashing)
        file.append([(point.task, row_for(point.task, metrics, Provenance()))])
    (found,) = audit(tmp_path, points)
    assert [row.keys for row in found.rows] == [[point.key] for point in points]
