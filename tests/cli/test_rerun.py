"""`rerun`: one task again on this terminal, compared with its row."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.cli.choice import Choice
from distexp.cli.rerun import compare, table, told
from distexp.system.code import CodeState
from distexp.task import Task
from tests.live_manager import Folder
from tests.live_worker import CONFIG, gated_folder, worker_process
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import ENVIRONMENT

SOURCE = """
def run(params, context):
    context.report(1, 1, width=params["width"])
    if params["width"] == 2: raise ValueError("too wide")
    return {"score": 0.1 * params["width"], "device": context.device, "text": "a"}
"""
COMMAND = """
defaults: {{output_dir: ./results_exp1, command: "python train.py --width {{width}}"}}
exp1_vary_width: {{combinations: [width: {widths}]}}
"""
FIRST, SECOND = "exp1_vary_width_0_42", "exp1_vary_width_1_42"
EQUAL = "The same result as its row: 3 of 3 metrics are equal, bit for bit"


def rerun(root: Path, *words: str, given: str = "", **more: str) -> tuple[int, str]:
    """Rerun in a process of its own, and return exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "distexp", "rerun", *words, "--workdir", root],
        env=ENVIRONMENT | {"TMPDIR": str(root.parent)} | more,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stdout


def run_sweep(root: Path, source: str = SOURCE, *config: str) -> Folder:
    folder = gated_folder(root, "[1, 2]", source, *config)
    with folder.serving(), worker_process(folder.root) as process:
        assert process.code() == 0
    return folder


def times_below(folder: Path) -> dict[Path, int]:
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which width 1 is complete and 2 has failed."""
    return run_sweep(tmp_path_factory.mktemp("ended"))


def test_the_same_result_is_said_metric_by_metric_and_nothing_is_kept(ended: Folder) -> None:
    before = times_below(ended.root)
    code, out = rerun(ended.root, FIRST)
    assert (code, EQUAL in out) == (0, True)
    assert re.search(r"^score +0\.1 +0\.1 +equal$", out, re.MULTILINE)
    assert "Runs experiment:run in this process; no row is written" in out
    assert "Its row: results_exp1/final_results.csv of " in out
    assert times_below(ended.root) == before


def test_a_task_is_named_by_key_folder_line_or_number_of_its_row(ended: Folder) -> None:
    (row,) = ended.rows()
    names = [row["run_dir"], row["run_dir"].rpartition("_")[2], "results_exp1/final_results.csv:2", "0"]
    for name in names:
        assert EQUAL in rerun(ended.root, name)[1], name
    assert rerun(ended.root, "results_exp1/final_results.csv:3")[0] == 2
    assert "row 1: there is no such row: 1 row is there, numbered from 0" in rerun(ended.root, "1")[1]
    assert "did you mean exp1_vary_width_0_42?" in rerun(ended.root, "exp1_vary_widht_0_42")[1]


def test_a_failure_shows_the_users_line_and_the_debugger_opens_there(ended: Folder) -> None:
    code, out = rerun(ended.root, SECOND)
    assert (code, "It has no row to compare with" in out) == (1, True)
    assert "\nexperiment.py:4: ValueError: too wide\n" in out
    code, out = rerun(ended.root, "--pdb", SECOND, given="p params['width'] + 40\n")
    assert (code, "(Pdb) 42" in out) == (1, True)


def test_a_breakpoint_stops_and_another_result_is_told(tmp_path: Path) -> None:
    folder = run_sweep(tmp_path)
    edited = SOURCE.replace("    context", "    breakpoint()\n    context", 1).replace("0.1 *", "0.2 *")
    (folder.root / "experiment.py").write_text(edited)
    code, out = rerun(folder.root, FIRST, given="p params\nc\n")
    assert "(Pdb) {'width': 1}" in out
    assert re.search(r"^score +0\.1 +0\.2 +differs by 0\.1$", out, re.MULTILINE)
    assert "Another result than its row: 2 of 3 metrics are equal" in out
    assert code == 1
    assert "Made with other code: " in out


def test_a_task_that_no_config_asks_for_runs_as_its_folder_says(tmp_path: Path) -> None:
    folder = run_sweep(tmp_path)
    folder.configure([1], CONFIG.replace("exp1_vary_width", "exp2"))
    assert EQUAL in rerun(folder.root, FIRST)[1]
    (folder.root / "configs" / "config_exp1.yaml").write_text("exp1: {combinations: 7}")
    out = rerun(folder.root, FIRST)[1]
    assert "warning: the configs cannot be read: configs/config_exp1.yaml:1: exp1.combinations" in out
    assert EQUAL in out


def test_a_command_shows_its_words_and_may_have_breakpoints(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys\nprint('{\"score\": %s}' % sys.argv[2])\n")
    folder = run_sweep(tmp_path, "", COMMAND)
    (tmp_path / "train.py").write_text("import sys\nbreakpoint()\nprint('{\"score\": %s}' % sys.argv[2])\n")
    code, out = rerun(folder.root, FIRST, given="p 41 + 1\nc\n")
    assert (code, "1 of 1 metrics are equal" in out) == (0, True)
    assert re.search(r"^# runs .*python\S* train\.py --width 1$", out, re.MULTILINE)
    assert "(Pdb) 42" in out


SHIPPED = """
defaults: {{output_dir: ./results_exp1, epochs: 2, experiment: "distexp.experiments.classification:run"}}
exp1_vary_width: {{combinations: [width_factor: {widths}, dataset: [wine]]}}
"""


@pytest.mark.slow
def test_the_shipped_experiment_gives_its_row_bit_for_bit(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", "", SHIPPED)
    with folder.serving(), worker_process(folder.root) as process:
        assert process.code() == 0
    code, out = rerun(folder.root, FIRST)
    assert (code, "9 of 9 metrics are equal, bit for bit" in out) == (0, True), out


A_TASK = Task(task_id="exp1_0_42", phase="exp1", config={"lr": 0.1}, seed=42, output_dir="results")


@pytest.mark.parametrize(
    ("needs", "gpu_free_mib", "told"),
    [
        ("gpu_model: [T4]", 37 * 1024, "on=cuda:0"),
        ("gpu_model: [T4], min_free_gb: 10", 37 * 1024, "on=cuda:0"),
        (
            "gpu_model: [T4], min_free_gb: 60",
            37 * 1024,
            "error: exp1_vary_width_0_42 needs 1 GPU (T4), 60 GB free on it; here: gpu0 NVIDIA A100 "
            "(37.0/80.0 GB free), gpu1 Tesla T4 (15.0/16.0 GB free). Run it on another machine, or with ",
        ),
        ("gpus: 2, min_free_gb: 15", 37 * 1024, "Result: "),
        ("gpus: 2, min_free_gb: 16", 37 * 1024, "needs 2 GPUs, 16 GB free on each; here: gpu0 "),
        ("gpus: 1", None, "error: No available GPU found: "),
        ("", None, "on=cpu"),
    ],
)
def test_a_task_runs_again_on_a_gpu_that_it_may_have_or_is_told_what_is_missing(
    tmp_path: Path, needs: str, gpu_free_mib: int | None, told: str
) -> None:
    source = """
import os
def run(params, context):
    return {"on": context.device, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
"""
    config = CONFIG.replace('"experiment:run"', f'"experiment:run", {needs}') if needs else CONFIG
    gated_folder(tmp_path, "[1, 2]", source, config)
    cards = [
        gpu(0, gpu_free_mib, total_mib=80 * 1024),
        gpu(1, 15 * 1024, name="Tesla T4", total_mib=16 * 1024),
    ]
    write_scenario(tmp_path / "machine.json", *(cards if gpu_free_mib else []))
    machine = environment(tmp_path / "machine.json", tmp_path / "claims")
    out = rerun(tmp_path, FIRST, **machine)[1]
    assert told in out
    if "T4" in needs and "Result" in out:
        assert f"gpu={gpu(1)['uuid'][:20]}" in out


def test_trackers_are_told_the_name_of_the_task_and_a_run_of_its_own(tmp_path: Path) -> None:
    names = ("WANDB_RUN_GROUP", "WANDB_NAME", "MLFLOW_RUN_NAME", "WANDB_RESUME", "WANDB_RUN_ID")
    source = f"""
import os
def run(params, context):
    assert os.environ["WANDB_DIR"] == str(context.run_dir)
    return {{name: os.environ[name] for name in {names}}}
"""
    folder = run_sweep(tmp_path, source)
    key = folder.rows()[0]["WANDB_RUN_ID"]
    code, out = rerun(tmp_path, FIRST)
    assert (code, "4 of 5 metrics are equal" in out) == (1, True)
    assert re.search(rf"^WANDB_RUN_ID +{key} +{key}-[0-9a-f]{{8}} +differs$", out, re.MULTILINE)


def test_metrics_are_compared_as_numbers_and_what_only_one_side_has_is_said() -> None:
    row = {"lr": "0.1", "acc": "0.50", "note": "a", "gone": "1", "empty": "", "nan": "nan", "worker": "cpu0"}
    row["Unnamed: 0"] = "7"  # the number of the row, as pandas writes it
    compared = compare(A_TASK, row, {"acc": "0.5", "note": "b", "new": "1", "nan": "nan"})
    assert [(each.name, each.difference) for each in compared] == [
        *[("acc", ""), ("note", "differs"), ("new", "not in the row"), ("nan", "")],
        ("gone", "not there now"),
    ]
    assert table(compared)[:2] == ["metric  row   now", "acc     0.50  0.5  equal"]


NOW = "abcdef, commit 1111111111"
HERE = {"git_commit": "1" * 40, "git_dirty": "False"}
CHANGED = {"git_commit": "2" * 40, "git_dirty": "True"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (HERE | {"code": "abcdef012345"}, f"Made with the code that is here now: {NOW}"),
        (
            CHANGED | {"code": "0123456789ab"},
            f"Made with other code: 012345, commit 2222222222, with changed files; now {NOW}",
        ),
        (HERE, "Made with the code that is here now: commit 1111111111"),
        (CHANGED, f"Made with other code: commit 2222222222, with changed files; now {NOW}"),
        ({}, "Its row: a.csv:2"),
    ],
)
def test_code_and_commit_of_an_old_row_are_compared_with_those_of_now(row: dict[str, str], said: str) -> None:
    now = CodeState("abcdef012345", "1" * 40, False)
    assert told(Choice(A_TASK, row, "a.csv:2"), now)[-1] == said
