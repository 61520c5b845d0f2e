"""What `run` ends with."""

from pathlib import Path

import pytest

import experiment_manager
from distexp.cli.summary import what_is_next
from distexp.reporting.failures import FailureGroup

CONFIG = """
defaults: {experiment: "mine:run", output_dir: "./results_{phase}"}
exp1_lr:
  combinations:
    - lr: [0.1, 1, 2]
exp2_bare:
  defaults: {experiment: "mine:nothing"}
  combinations:
    - lr: [0.1, 0.2]
exp3_command:
  defaults: {command: "python -c 'print({lr})'"}
  combinations:
    - lr: [0.1]
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
    bare, hint, then, silent, cause, example, again, following = told[at + 1 :]
    assert bare == "results_exp2_bare/final_results.csv: 2 rows, 2 without metrics"
    assert hint == (
        "  such as exp2_bare_0_42: mine:nothing returned none; return a mapping, such as {'accuracy': 0.9}"
    ), "the first in the order of the sweep, whoever was first to write its row"
    command = f"python experiment_manager.py run --workdir {tmp_path}"
    assert then == (
        f"  then: {command} --retry-other-code  runs those again whose code has changed; "
        "to run others again, delete their rows"
    )
    assert silent == "results_exp3_command/final_results.csv: 1 row, 1 without metrics"
    assert cause.startswith("2 tasks failed (error): mine.py:4: ValueError: lr 1 is")
    task_id, _, log = example.partition("; its log: ")
    assert task_id == "  such as exp1_lr_1_42"
    assert "ValueError" in (tmp_path / log).read_text(encoding="utf-8")
    verb = f"python experiment_manager.py rerun --workdir {tmp_path} {task_id.removeprefix('  such as ')}"
    assert again == f"  in a debugger: {verb} --pdb"
    assert following == f"Next: {command} --retry-failed  runs them again, once the cause is corrected"


def test_beside_failed_tasks_it_is_said_why_the_others_cannot_run() -> None:
    failed, again = (
        FailureGroup(state=state, cause="error", message="no", keys=[*state], error="no")
        for state in ("failed", "pending")
    )

    def told(why: str, *groups: FailureGroup) -> list[str]:
        return what_is_next(why, groups, 10, lambda verb, words: f"{verb} {words}".strip())

    retry = "Next: run --retry-failed  runs them again, once the cause is corrected"
    why = "phase big needs a GPU"
    assert told(why, failed, again) == [f"4 tasks cannot run: {why}", retry]
    assert told("", failed) == [retry]
    assert told(why) == [
        f"10 tasks cannot run: {why}",
        "Next: run  goes on with the 10 tasks that are left, once the cause is corrected",
    ]


def test_after_a_hold_run_says_that_it_goes_on_once_the_cause_is_corrected(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    config = 'defaults: {command: "python absent.py {lr}", output_dir: ./results_a}\n'
    config += "exp1_lr: {combinations: [{lr: {range: [0, 40]}}]}\n"
    (tmp_path / "configs" / "config_exp1.yaml").write_text(config, encoding="utf-8")
    words = ["run", "--device", "cpu", "--port", "0", "--workers", "1", "--workdir", str(tmp_path)]
    assert experiment_manager.main(words) == 1
    *_, cause, _, reason, following = capfd.readouterr().err.splitlines()
    assert cause.startswith("5 tasks pending (error): python: exit code 2; last output: ")
    assert reason.startswith("40 tasks cannot run: phase exp1_lr is held: "), reason
    command = f"python experiment_manager.py run --workdir {tmp_path}"
    assert (
        following == f"Next: {command}  goes on with the 40 tasks that are left, once the cause is corrected"
    )
