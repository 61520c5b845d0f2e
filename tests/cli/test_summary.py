"""What `run` ends with."""

from pathlib import Path

import pytest

import experiment_manager

CONFIG = """
defaults: {experiment: "mine:run", output_dir: "./results_{phase}"}
exp1_lr:
  combinations:
    - lr: [0.1, 1, 2]
exp2_bare:
  defaults: {experiment: "mine:nothing"}
  combinations:
    - lr: [0.1, 0.2]
"""
MINE = """
def run(params, context):
    if params["lr"] >= 1:
        raise ValueError(f"lr {params['lr']} is too large")
    return {"score": 1}


def nothing(params, context):
    return {}
"""


def test_run_ends_with_rows_failures_by_cause_a_log_and_the_next_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    words = ["run", "--device", "cpu", "--port", "0", "--workdir", str(tmp_path)]
    assert experiment_manager.main(words) == 1
    told = capfd.readouterr().err.splitlines()
    at = told.index("results_exp1_lr/final_results.csv: 1 row")
    bare, cause, example, following = told[at + 1 :]
    assert bare == "results_exp2_bare/final_results.csv: 2 rows, 2 of them without metrics"
    assert cause.startswith("2 tasks failed (error): mine.py:4: ValueError: lr ")
    task_id, _, log = example.partition("; its log: ")
    assert task_id in ("  such as exp1_lr_1_42", "  such as exp1_lr_2_42")
    assert "ValueError" in (tmp_path / log).read_text(encoding="utf-8")
    command = f"python experiment_manager.py run --workdir {tmp_path} --retry-failed"
    assert following == f"Next: {command}  runs them again, once the cause is corrected"
