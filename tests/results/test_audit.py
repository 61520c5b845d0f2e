"""Every row of a results file counts, or has its reason."""

from pathlib import Path

from distexp.results.audit import FileAudit, audit
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

HEADER = "phase,width,lr,seed,score"
TASKS = expand(
    parse_config(
        """
defaults: {output_dir: results_exp1, experiment: "mine:run", lr: 0.1}
exp1: {combinations: [{width: [0, 1, 2]}]}
exp2: {combinations: [{width: [1]}]}
""",
        "configs/config_exp1.yaml",
    )
)


def look(root: Path, *lines: str, header: str = HEADER) -> FileAudit:
    path = root / "results_exp1" / "final_results.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    (found,) = audit(root, TASKS)
    return found


def reasons(found: FileAudit) -> list[tuple[int, str, int]]:
    return [(problem.line, problem.reason, problem.rows) for problem in found.problems]


def test_a_row_that_completes_a_task_is_found_with_its_line(tmp_path: Path) -> None:
    found = look(tmp_path, "exp1,0,0.1,42,0.5", "exp1,2,0.10,42,0.7")
    assert [(row.line, row.fields[4]) for row in found.rows] == [(2, "0.5"), (3, "0.7")]
    assert [row.keys for row in found.rows] == [[TASKS[0].key], [TASKS[2].key]]
    assert found.problems == []


def test_each_row_that_does_not_count_is_told_with_line_and_reason(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        "exp1,0,0.1,42,0.5",
        "exp1,0,0.1,42,0.6",
        "old,0,0.1,42,0.5",
        "exp1,9,0.1,42,0.5",
        "exp1,0,0.1",
        "",
        "exp1,1,0.1,7,0.5",
        "exp1,9,0.1,42,0.6",
    )
    assert reasons(found) == [
        (3, "a second row of a task that has one; the first counts", 1),
        (4, "of phase 'old', which no config asks for", 1),
        (5, "width = '9', which no task of exp1 has", 2),
        (6, "found 3 fields, expected 5 fields", 1),
        (8, "seed = '7', which no task of exp1 has", 1),
    ]
    assert len(found.rows) == 1


def test_a_file_without_an_axis_completes_nothing_and_says_which(tmp_path: Path) -> None:
    found = look(tmp_path, "exp1,42,0.5", header="phase,seed,score")
    assert found.rows == []
    assert reasons(found) == [(2, "no column width, which exp1 varies", 1)]


def test_a_file_that_is_no_csv_has_one_problem(tmp_path: Path) -> None:
    found = look(tmp_path, "1;2", header="width;seed")
    assert reasons(found) == [
        (1, "found semicolons between the columns, expected commas", 1),
    ]


def test_no_file_is_no_survey_and_looking_makes_none(tmp_path: Path) -> None:
    assert audit(tmp_path, TASKS) == []
    assert list(tmp_path.iterdir()) == []
