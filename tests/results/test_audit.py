"""Every row of every results file counts, or has its reason."""

from pathlib import Path

import pytest
import yaml

from distexp.results.audit import FileAudit, audit
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

HEADER = "phase,width,lr,seed,score"
TASKS = expand(
    parse_config(
        """
defaults: {output_dir: results_exp1, experiment: "mine:run", lr: 0.1}
exp1: {combinations: [{width: [0, 1, 2]}]}
exp2: {combinations: [{width: [1, 5]}]}
""",
        "configs/config_exp1.yaml",
    )
)


def look(root: Path, *lines: str, header: str = HEADER, folder: str = "results_exp1") -> list[FileAudit]:
    path = root / folder / "final_results.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return audit(root, TASKS)


def reasons(found: FileAudit) -> list[tuple[int, str, int]]:
    return [(problem.line, problem.reason, problem.rows) for problem in found.problems]


def test_a_row_that_completes_a_task_is_found_with_its_cells(tmp_path: Path) -> None:
    (found,) = look(tmp_path, "exp1,0,0.1,42,0.5", "exp1,2,0.10,42,0.7")
    assert [row.fields[4] for row in found.rows] == ["0.5", "0.7"]
    assert [row.keys for row in found.rows] == [[TASKS[0].key], [TASKS[2].key]]
    assert found.problems == []


def test_each_row_that_does_not_count_is_told_with_line_reason_and_help(tmp_path: Path) -> None:
    (found,) = look(
        tmp_path,
        "exp1,0,0.1,42,0.5",
        "exp1,0,0.1,42,0.6",
        "old,5,0.1,42,0.5",
        "exp1,9,0.1,42,0.5",
        "exp1,0,0.1",
        "",
        "exp1,1,0.1,7,0.5",
        "exp1,9,0.1,42,0.6",
    )
    assert sorted(reasons(found)) == [
        (3, "a second row of a task; the first counts", 1),
        (
            4,
            "phase 'old' is in no config; if its rows belong to exp2, "
            "write `renamed_from: {phase: [old]}` there",
            1,
        ),
        (5, "width is '9', which no task of exp1 has", 2),
        (6, "the line has 3 cells, and the header 5", 1),
        (8, "seed is '7', which no task of exp1 has", 1),
    ]
    assert len(found.rows) == 1


def test_a_missing_column_is_told_with_the_one_that_looks_like_it(tmp_path: Path) -> None:
    (found,) = look(tmp_path, "exp1,1,42,0.5", header="phase,Width,seed,score")
    assert reasons(found) == [
        (
            2,
            "no column `width`, which phase exp1 varies; "
            "`Width` looks like it: `renamed_from: {width: [Width]}`",
            1,
        )
    ]


def test_a_row_that_fits_two_phases_outside_their_files_counts_for_neither(tmp_path: Path) -> None:
    tasks = expand(
        parse_config(
            """
exp1: {combinations: [{width: [1, 2]}]}
exp2: {defaults: {depth: 3}, combinations: [{width: [1, 5]}]}
""",
            "c.yaml",
        )
    )
    path = tmp_path / "results_all" / "final_results.csv"
    path.parent.mkdir()
    path.write_text("width,acc\n1,0.5\n2,0.6\n9,0.7\n")
    (found,) = audit(tmp_path, tasks)
    assert [row.keys for row in found.rows] == [[tasks[1].key]]
    assert reasons(found) == [
        (2, "it fits tasks of several phases (exp1, exp2); a column `phase` would say which", 1),
        (4, "width is '9', which no task of exp1 has", 1),
    ]


def test_a_rounded_number_is_told_with_the_value_it_may_be(tmp_path: Path) -> None:
    tasks = expand(parse_config(f"exp1: {{combinations: [{{lr: [{1 / 3}, {2 / 3}]}}]}}", "c.yaml"))
    path = tmp_path / "results_all" / "final_results.csv"
    path.parent.mkdir()
    path.write_text("lr,acc\n0.333,0.5\n")
    (found,) = audit(tmp_path, tasks)
    assert reasons(found) == [
        (
            2,
            "lr is '0.333', which no task of exp1 has; it looks like 0.3333333333333333, "
            "rounded as spreadsheets do: restore its digits",
            1,
        )
    ]


def test_a_file_that_is_no_csv_has_one_problem(tmp_path: Path) -> None:
    (found,) = look(tmp_path, "width;seed", header="sep=;")
    assert reasons(found) == [(1, "the file begins with the line sep=;; delete that line", 0)]
    assert found.rows == []


def test_a_tasks_row_is_counted_once_its_own_file_first(tmp_path: Path) -> None:
    look(tmp_path, "exp1,0,0.1,42,0.5", "exp1,1,0.1,42,0.5", folder="results_a")
    found = look(tmp_path, "exp1,0,0.1,42,0.7")
    assert [(file.path, file.is_own, len(file.rows)) for file in found] == [
        ("results_exp1/final_results.csv", True, 1),
        ("results_a/final_results.csv", False, 1),
    ]
    assert reasons(found[1]) == [(2, "another file holds a row of its task, and that counts", 1)]


@pytest.mark.parametrize(
    ("values", "cell", "reason"),
    [
        ("1, true", "1.0", "x is '1.0', which may be 1 or True of p; write it as the config does"),
        ("1, 2", "", "x is empty, and tasks of p differ in it"),
        (
            '"007", "8"',
            "7",
            "x is '7', which no task of p has; the text '007' is the same number: restore how it was written",
        ),
        (
            "1234567, 5",
            "1.23E+06",
            "x is '1.23E+06', which no task of p has; it looks like 1234567, "
            "rounded as spreadsheets do: restore its digits",
        ),
    ],
)
def test_a_cell_that_holds_no_value_has_its_true_reason(
    tmp_path: Path, values: str, cell: str, reason: str
) -> None:
    tasks = expand(parse_config(f"p: {{combinations: [{{x: [{values}]}}]}}", "c.yaml"))
    path = tmp_path / "final_results.csv"
    path.write_text(f"phase,x\np,{cell}\n")
    (found,) = audit(tmp_path, tasks)
    assert reasons(found) == [(2, reason, 1)]


def test_a_hint_for_the_config_is_yaml_that_means_this_name(tmp_path: Path) -> None:
    (found,) = look(tmp_path, '"grid: a, b",1,0.1,42,0.5', "2024,5,0.1,42,0.5")
    hints = [reason.split("`")[1] for _, reason, _ in reasons(found)]
    assert [yaml.safe_load(hint) for hint in hints] == [
        {"renamed_from": {"phase": ["grid: a, b"]}},
        {"renamed_from": {"phase": ["2024"]}},
    ]


def test_a_missing_column_may_be_the_one_with_its_initials_but_none_that_is_another_parameter(
    tmp_path: Path,
) -> None:
    tasks = expand(
        parse_config("p: {combinations: [{lr: [1, 2]}, {seeded: [1, 2]}]}\nseeds: [1, 2]", "c.yaml")
    )
    path = tmp_path / "final_results.csv"
    path.write_text("learning_rate,seeded,seed\n1,1,1\n")
    (found,) = audit(tmp_path, tasks)
    assert "`learning_rate` looks like it" in reasons(found)[0][1]
    path.write_text("lr,seeded\n1,1\n")
    (found,) = audit(tmp_path, tasks)
    assert "looks like" not in reasons(found)[0][1]


def test_a_header_in_the_middle_is_told_as_such(tmp_path: Path) -> None:
    (found,) = look(tmp_path, "exp1,0,0.1,42,0.5", HEADER, "exp1,1,0.1,42,0.5")
    assert reasons(found) == [(3, "it is the header again", 1)]
    assert len(found.rows) == 2


def test_a_list_of_numbers_beside_decimal_points_is_no_decimal_comma(tmp_path: Path) -> None:
    (found,) = look(tmp_path, "exp1;0;0.1;42;0,1", header=HEADER.replace(",", ";"))
    assert (len(found.rows), found.problems) == (1, [])
    (found,) = look(tmp_path, "exp1;0;0.1;42;0.5", "exp1;1;0,1;42;0.5", header=HEADER.replace(",", ";"))
    assert "decimal comma (0,1)" in reasons(found)[0][1]


def test_rows_of_empty_cells_are_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "final_results.csv"
    path.write_text("x,acc\n,\n , \n,0.5\n")
    for combinations in ("{x: [1]}", "{cases: [{}, {x: 2}]}"):
        (found,) = audit(tmp_path, expand(parse_config(f"p: {{combinations: [{combinations}]}}", "c.yaml")))
        assert ([row.fields for row in found.rows], found.problems) == ([["", "0.5"]], [])


def test_a_quote_that_is_never_closed_hides_nothing_below_it(tmp_path: Path) -> None:
    (found,) = look(tmp_path, 'exp1,"0,0.1,42,0.5', "exp1,1,0.1,42,0.5")
    assert [row.keys for row in found.rows] == [[TASKS[1].key]]
    assert [line for line, _, _ in reasons(found)] == [2]


def test_no_file_is_no_audit_and_looking_makes_none(tmp_path: Path) -> None:
    assert audit(tmp_path, TASKS) == []
    assert list(tmp_path.iterdir()) == []
