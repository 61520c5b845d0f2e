"""`status`, `tasks`, `show` and `logs` of a folder whose manager has ended, or never was."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import experiment_manager
from distexp import load_results
from distexp.workdir import Workdir
from tests.live_manager import Folder, worker
from tests.live_worker import CONFIG, gated_folder, worker_process

NO_MANAGER = "No manager runs in this folder: this is what its files say.\n"
SOURCE = """
def run(params, context):
    print("width is", params["width"])
    if params["width"] == 2: raise ValueError("too wide")
    return {"score": 10 * params["width"]}
"""
FIRST, SECOND = "exp1_vary_width_0_42", "exp1_vary_width_1_42"
Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Call a verb that finds no manager and return exit code and output."""

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = experiment_manager.main([*map(str, words), "--workdir", str(tmp_path)])
        shown = capsys.readouterr()
        assert shown.err == NO_MANAGER
        return code, shown.out

    return call


@pytest.fixture
def ended(tmp_path: Path) -> Folder:
    """A folder in which a sweep of widths 1 and 2 has run: 1 is complete, 2 has failed."""
    folder = gated_folder(tmp_path, "[1, 2]", SOURCE)
    with folder.serving(), worker_process(folder.root) as process:
        assert process.code() == 0
    return folder


def test_a_sweep_that_has_ended_says_what_failed_why_and_where(ended: Folder, verb: Verb) -> None:
    status = json.loads(verb("status")[1])
    assert (status["complete"], status["failed"], status["progress"]) == (1, 1, "1/2 (50.0%)")
    code, out = verb("tasks", "--state", "failed")
    assert (code, out.splitlines()[1].split()) == (
        0,
        [SECOND, "failed", "3", "cpu0", "experiment.py:4:", "ValueError:", "too", "wide"],
    )
    shown = verb("show", SECOND)[1]
    again = "`python experiment_manager.py run --retry-failed` runs it again"
    assert f"experiment.py:4: ValueError: too wide; {again}" in shown
    assert "width=2, seed=42" in shown
    failed = json.loads(verb("show", SECOND, "--json")[1])
    assert json.loads((ended.root / failed["run_dir"] / "params.json").read_text())["width"] == 2
    code, log = verb("logs", SECOND)
    assert code == 0
    assert log.count("width is 2") == 3
    assert verb("tasks", "--state", "complete")[1].splitlines()[1].split() == [FIRST, "complete"]
    complete = json.loads(verb("show", FIRST, "--json")[1])
    assert complete["row"]["score"] == "10"
    assert complete["log"][-1] == "width is 1"


def test_a_row_leads_to_its_folder_and_the_folder_back_to_its_task(ended: Folder, verb: Verb) -> None:
    (row,) = ended.rows()
    folder = ended.root / row["run_dir"]
    for name in (row["run_dir"], folder, folder / "log.txt", folder.name.rpartition("_")[2]):
        assert verb("show", name)[1].startswith(f"{FIRST}: complete\n")


def test_tasks_whose_config_has_changed_since_are_found_by_id_key_and_folder(
    ended: Folder, verb: Verb
) -> None:
    ended.configure([3, 4], CONFIG.replace("exp1_vary_width", "exp1_other"))
    for name in (FIRST, ended.rows()[0]["run_dir"]):
        shown = verb("show", name)[1]
        assert f"{FIRST}: complete\n" in shown
        assert "its row is results_exp1/final_results.csv:2" in shown
        assert "width=1, seed=42" in shown
    failed = json.loads(verb("show", SECOND, "--json")[1])
    assert failed["task"]["state"] == "failed"
    assert failed["task"]["error"].endswith("ValueError: too wide")
    assert "width is 2" in verb("logs", SECOND)[1]
    (ended.root / "configs" / "config_exp1.yaml").write_text("exp1: {combinations: 7}")
    shown = verb("show", FIRST)[1]
    assert f"{FIRST}: complete\n" in shown, "broken configs hide nothing"
    assert "the config files cannot be read: configs/config_exp1.yaml:1: " in shown


def test_without_journal_and_run_folders_rows_alone_answer(ended: Folder, verb: Verb) -> None:
    shutil.rmtree(ended.root / ".experiment_manager")
    shutil.rmtree(ended.root / "results_exp1" / "runs")
    assert json.loads(verb("status")[1])["progress"] == "1/2 (50.0%)"
    assert "no manager runs; `python experiment_manager.py run` runs it" in verb("show", SECOND)[1]
    assert not (ended.root / ".experiment_manager").exists(), "a look makes nothing"


def test_a_task_that_ran_when_the_manager_ended_says_so(folder: Folder, verb: Verb) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        talk.say("request_task")
    assert "ran on gpu0 when the manager ended (attempt 1)" in verb("show", FIRST)[1]


def test_a_look_waits_for_a_manager_that_starts_or_ends(
    folder: Folder, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.serving():
        pass
    held = Workdir(folder.root).hold()  # as by a manager that does not answer yet, or any more
    monkeypatch.setattr("distexp.cli.look.time.sleep", lambda s: held.release())
    assert json.loads(verb("status")[1])["total"] == 3


def test_the_configs_that_the_last_manager_read_are_those_that_count(folder: Folder, verb: Verb) -> None:
    (folder.root / "configs" / "config_exp1.yaml").rename(folder.root / "mine.yaml")
    with folder.serving(configs="mine.yaml"):
        pass
    assert json.loads(verb("status")[1])["total"] == 3
    folder.add_rows("2,42,0.5")
    page = folder.root / "report.html"
    for words in (["plan"], ["report"]):
        assert experiment_manager.main([*words, "--workdir", str(folder.root)]) == 0
    assert "exp1_vary_width" in page.read_text(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [*load_results(folder.root)["width"]] == [2]
    (folder.root / "mine.yaml").rename(folder.root / "configs" / "config_exp1.yaml")
    assert json.loads(verb("status")[1])["total"] == 3, "one that is gone is forgotten"


def test_an_unknown_task_and_a_folder_without_a_sweep_are_errors(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment_manager.main(["show", "exp1_vary_widht_0_42", "--workdir", str(folder.root)]) == 1
    assert "did you mean exp1_vary_width_0_42?" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert experiment_manager.main(["status", "--workdir", str(empty)]) == 2
    assert "no manager" in capsys.readouterr().err
    assert [*empty.iterdir()] == []


def test_a_manager_that_was_named_is_not_replaced_by_files(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment_manager.main(["tasks", "--port", "1", "--workdir", str(folder.root)]) == 2
    assert "no manager answers at localhost:1" in capsys.readouterr().err
