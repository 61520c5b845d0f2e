"""Rows as a DataFrame: every value is what the config meant, whatever its cell looks like."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import distexp
from distexp.errors import UserError
from distexp.reporting.frame import load_metrics, load_results
from distexp.results.row import row_for
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.task import Provenance

HEAD = 'defaults: {output_dir: "results_a", experiment: "m:run"}\n'
Sweep = Callable[..., Path]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Write a phase `p` with these combinations, and a results file of these lines, or of a row a task."""

    def write(combinations: str, *lines: str, more: str = "", file: str = "results_a") -> Path:
        (tmp_path / "configs").mkdir(exist_ok=True)
        config = f"{HEAD}{more}p:\n  combinations:\n    - {combinations}\n"
        (tmp_path / "configs" / "config_exp1.yaml").write_text(config)
        made = [",".join(row_for(t.task, {}, Provenance()).values()) for t in tasks_in(tmp_path)]
        heads = [",".join(row_for(t.task, {}, Provenance())) for t in tasks_in(tmp_path)]
        (tmp_path / file).mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines or [heads[0], *made]) + "\n"
        (tmp_path / file / "final_results.csv").write_text(text)
        return tmp_path

    return write


def tasks_in(root: Path) -> list[Any]:
    return expand(load_configs([Path("configs/config_exp*.yaml")], root))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ("[1, 2]", "int64", [1, 2]),
        ("[1, null]", "Int64", [1, None]),
        ("[1, 0.5]", "float64", [1.0, 0.5]),
        ("[1e-4, 1e10]", "float64", [1e-4, 1e10]),
        ("[true, false]", "bool", [True, False]),
        ("[true, null]", "boolean", [True, None]),
        ("[null]", None, [None]),
        ('["", "a", null]', None, ["", "a", None]),
        ('["007", "7.0"]', None, ["007", "7.0"]),
        ('[1, "auto"]', "object", [1, "auto"]),
        ('[true, "auto", 2, null]', "object", [True, "auto", 2, None]),
        ('["nan", "NA"]', None, ["nan", "NA"]),
    ],
)
def test_a_parameter_has_the_type_that_the_config_gives_it(
    sweep: Sweep, values: str, kind: str | None, expected: list[object]
) -> None:
    column = load_results(sweep(f"x: {values}"))["x"]
    assert [None if pd.isna(value) else value for value in column] == expected
    assert kind is None or str(column.dtype) == kind


def test_lists_and_mappings_are_what_they_are(sweep: Sweep) -> None:
    lines = ["phase,x,duration_s", 'p,"[1, 2]",1', """p,"{'a': None}",1"""]
    frame = load_results(sweep("x: [[1, 2], {a: null}]", *lines))
    assert frame["x"].tolist() == [[1, 2], {"a": None}]


def test_an_empty_cell_is_null_unless_the_config_has_that_text(sweep: Sweep) -> None:
    root = sweep("x: [a, null]", "phase,x,seed", "p,,42", "p,a,42")
    assert load_results(root)["x"].isna().tolist() == [True, False]
    root = sweep('x: [a, ""]', "phase,x,seed", "p,,42", "p,a,42")
    assert load_results(root)["x"].tolist() == ["", "a"]


def test_each_phase_reads_its_cells_by_its_own_values(sweep: Sweep, tmp_path: Path) -> None:
    sweep('x: ["1", b]', "phase,x,seed", "p,1,42", "q,1,42", "q,,42")
    (tmp_path / "configs" / "config_exp2.yaml").write_text(f"{HEAD}q:\n  combinations:\n    - x: [1, null]\n")
    assert load_results(tmp_path)["x"].tolist() == ["1", 1, None]


def test_metrics_are_numbers_booleans_or_texts_and_empty_cells_missing(sweep: Sweep) -> None:
    lines = ["phase,x,n,f,b,t,e,mixed,late"]
    lines += [f"p,{x},{x},0.5,True,word,,{x},1" for x in range(1000)]
    lines += ["p,1000,3,,,,,abc,no", "p,1001,4,nan,False,7,,1,"]
    frame = load_results(sweep("x: {range: [0, 2000]}", *lines))
    kinds = {name: str(frame[name].dtype) for name in ("n", "f", "b")}
    assert kinds == {"n": "int64", "f": "float64", "b": "boolean"}
    assert frame["e"].isna().all()
    assert frame["f"].isna().sum() == 2
    assert frame.iloc[1001][["t", "mixed"]].tolist() == ["7", 1]
    assert frame["late"].iloc[1000] == "no"


def test_columns_of_ours_stay_texts(sweep: Sweep) -> None:
    lines = ["phase,x,torch_version,code,git_dirty,run_dir,duration_s", "p,1,2.1,123456789012,False,,1.5"]
    row = load_results(sweep("x: [1]", *lines)).iloc[0]
    assert (row["torch_version"], row["code"], bool(row["git_dirty"])) == ("2.1", "123456789012", False)
    assert pd.isna(row["run_dir"])


def test_files_of_all_folders_are_read_and_what_one_lacks_is_missing(sweep: Sweep, tmp_path: Path) -> None:
    root = sweep("x: [1, 2]", "phase,x,seed,acc,duration_s", "p,1,42,0.5,1")
    (root / "results_b").mkdir()
    (root / "results_b" / "final_results.csv").write_bytes(b"\xef\xbb\xbfphase;x;loss\r\np;2;0.25\r\n")
    frame = load_results(tmp_path)
    assert frame["x"].tolist() == [1, 2]
    assert frame["acc"].tolist()[0] == frame["loss"].tolist()[1] * 2 == 0.5
    assert frame.isna()["loss"].tolist() == [True, False]
    assert list(frame.columns)[-1] == "duration_s"


def test_a_folder_of_a_templates_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(
        'defaults: {output_dir: "out/{x}", experiment: "m:run"}\np:\n  combinations:\n    - x: [1, 2]\n'
    )
    for x in (1, 2):
        (tmp_path / "out" / str(x)).mkdir(parents=True)
        (tmp_path / "out" / str(x) / "final_results.csv").write_text(f"phase,x,seed\np,{x},42\n")
    assert load_results(tmp_path)["x"].tolist() == [1, 2]


def test_earlier_and_foreign_names_and_what_is_assumed_are_heeded(sweep: Sweep, tmp_path: Path) -> None:
    more = "renamed_from: {phase: [old], lr: [LR]}\nassume: {drop: 0.5}\n"
    sweep("lr: [0.1, 1]\n    - drop: [0.5, 0.0]", "phase,LR,config/seed", "old,1,7", more=more)
    row = load_results(tmp_path).iloc[0]
    assert (row["phase"], row["lr"], row["drop"], row["seed"]) == ("p", 1.0, 0.5, 7)


def test_damaged_lines_are_left_out_and_a_last_line_without_its_end_is_not(sweep: Sweep) -> None:
    root = sweep("x: [1, 2, 3, 4]", "phase,x,seed,acc", "p,1,42,0.5", "p,2", 'p,3,42,"0.5"', "p,4,42,0.25")
    path = root / "results_a" / "final_results.csv"
    path.write_text(path.read_text().rstrip("\n"))
    assert load_results(root)["x"].tolist() == [1, 3, 4]
    path.write_text(path.read_text() + "\np,4,4")
    assert load_results(root)["x"].tolist() == [1, 3, 4]


def test_a_foreign_cell_of_a_parameter_or_metric_is_missing_and_named(sweep: Sweep) -> None:
    head, more = "phase,x,y,seed,acc,note,duration_s", "metric: acc\n"
    lines = [head, 'p,1,true,42,0.5,"a', 'b",1.5', "p,many,false,42,0.75,,1", "p,2,perhaps,42,diverged,c,2"]
    root = sweep("x: [1, 2]\n    - y: [true, false]", *lines, more=more)
    with pytest.warns(UserWarning) as warned:
        frame = load_results(root)
    told = [str(each.message) for each in warned]
    path = root / "results_a" / "final_results.csv"
    assert told == [
        f"{path}:{line}: column {name} holds '{cell}', which is no value of that column: "
        "it is missing in this frame; correct the file"
        for line, name, cell in ((4, "x", "many"), (5, "y", "perhaps"), (5, "acc", "diverged"))
    ]
    assert {name: str(frame[name].dtype) for name in ("x", "y", "acc", "duration_s")} == {
        "x": "Int64", "y": "boolean", "acc": "float64", "duration_s": "float64"
    }  # fmt: skip
    assert frame["acc"].mean() == 0.625
    assert frame.isna()[["x", "y", "acc"]].to_numpy().tolist() == [
        [False] * 3, [True, False, False], [False, True, True]
    ]  # fmt: skip


def test_foreign_cells_are_counted_below_the_first_also_in_a_file_with_bad_lines(sweep: Sweep) -> None:
    root = sweep("x: [1, 2]", "phase,x,seed", "p,1,42", "p,2", "p,many,42", "p,None,42", "p,all,42")
    with pytest.warns(UserWarning, match=r":4: column x holds 'many'.*frame, like 1 cell below; correct"):
        assert load_results(root)["x"].isna().tolist() == [False, True, True, True]


def test_numbers_stay_numbers_beside_a_text_where_most_cells_are_numbers(sweep: Sweep) -> None:
    lines = ["phase,x,seed,score,tag,none,flag", "p,1,42,0.5,v2,1,True", "p,2,42,diverged,1.10,None,False"]
    frame = load_results(sweep("x: [1, 2, 3]", *lines, "p,3,42,2,v3,3,odd"))
    assert frame["score"].tolist() == [0.5, "diverged", 2]
    assert frame["tag"].tolist() == ["v2", "1.10", "v3"]
    assert frame["none"].dtype == "float64" and frame["none"].isna().tolist() == [False, True, False]
    assert frame["flag"].tolist() == [True, False, "odd"]


def test_large_whole_numbers_keep_their_digits(sweep: Sweep) -> None:
    frame = load_results(
        sweep(f"x: [{2**62 + 1}, null, 18]", "phase,x", f"p,{2**62 + 1}", "p,null", "p,18.0")
    )
    assert frame["x"].tolist() == [2**62 + 1, None, 18]


def test_without_configs_types_are_guessed_and_a_warning_says_so(sweep: Sweep, tmp_path: Path) -> None:
    root = sweep("x: [1, 2]")
    (root / "configs" / "config_exp1.yaml").write_text("p: [")
    with pytest.warns(UserWarning, match=r"guessed: .*config_exp1\.yaml"):
        assert load_results(tmp_path)["x"].tolist() == [1, 2]


def test_a_file_that_is_no_csv_is_named(sweep: Sweep, tmp_path: Path) -> None:
    sweep("x: [1, 2]")
    (tmp_path / "results_a" / "final_results.csv").write_bytes("phase,x\n".encode("utf-16"))
    with pytest.warns(UserWarning, match="UTF-16"):
        assert len(load_results(tmp_path)) == 0


def test_a_folder_without_rows_gives_an_empty_frame(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no such config file"):
        assert load_results(tmp_path).empty
    with pytest.raises(UserError, match="absent cannot be read"), pytest.warns(UserWarning):
        load_results(tmp_path / "absent")


# -- curves


def test_the_curve_of_a_row_is_found_from_any_folder(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sweep("x: [1, 2]", "phase,x,run_dir", "p,1,results_a/runs/p_1", "p,2,")
    (root / "results_a" / "runs" / "p_1").mkdir(parents=True)
    curve = "attempt,step,total,elapsed_s,acc,note\n1,1,,0.1,0.5,\n1,2,,0.2,0.75,saved\n"
    (root / "results_a" / "runs" / "p_1" / "metrics.csv").write_text(curve)
    frame = load_results(root)
    metrics = load_metrics(frame.iloc[0])
    assert metrics["acc"].tolist() == [0.5, 0.75]
    assert load_metrics(frame.iloc[1]).columns.tolist() == ["attempt", "step", "total", "elapsed_s"]
    assert load_metrics({"run_dir": "results_a/runs/p_1"}, workdir=root).equals(metrics)
    monkeypatch.chdir(root)
    assert load_metrics("results_a/runs/p_1").equals(metrics)
    with pytest.raises(UserError, match="no run_dir"):
        load_metrics({"x": 1})


# -- the package


def test_what_is_exported_is_there(tmp_path: Path) -> None:
    assert all(getattr(distexp, name) is not None for name in distexp.__all__)


def test_importing_distexp_imports_neither_pandas_nor_torch() -> None:
    program = "import sys, distexp; print(sorted({'pandas', 'torch', 'yaml', 'msgspec'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
