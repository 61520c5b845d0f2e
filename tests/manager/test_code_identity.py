"""Code is edited between runs: what ran other code is said, and runs again when that is asked for."""

import json
import logging
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from distexp.cli.plan import main as plan
from distexp.manager.manager import ExperimentManager
from distexp.queue.journal import Journal
from distexp.queue.records import TaskRecord
from distexp.system.code import FolderCode, other_code_text
from distexp.task import State
from distexp.workdir import Workdir
from tests.live_manager import PATIENCE_S, Folder, worker
from tests.live_worker import worker_process
from tests.pages import PROJECT

CONFIG = """
defaults: {{output_dir: ./results_exp1, experiment: "mine:run"}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""
SOURCE = "def run(params, context):\n    return {{'score': {factor} * params['width']}}\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A repository with three tasks, that have run with the code that it holds."""
    folder = Folder(tmp_path_factory.mktemp("finished"))
    folder.configure([1, 2, 3], CONFIG)
    edit(folder, 1)
    for words in (("init", "--quiet"), ("add", "mine.py")):
        subprocess.run(["git", *words], cwd=folder.root, check=True)
    run(folder)
    assert scores(folder) == {"1": "1", "2": "2", "3": "3"}
    return folder


@pytest.fixture
def lab(finished: Folder, tmp_path: Path) -> Folder:
    """A copy of it."""
    shutil.copytree(finished.root, tmp_path, dirs_exist_ok=True)
    return Folder(tmp_path)


def edit(folder: Folder, factor: object) -> str:
    (folder.root / "mine.py").write_text(SOURCE.format(factor=factor))
    return FolderCode(folder.root).now().code


def run(folder: Folder, *, requeue: bool = False) -> None:
    with folder.serving(exit_when_done=True, rescan_s=0.2) as manager:
        if requeue:
            assert ask(folder, manager.port, type="requeue", other_code=True)["count"] == 3
        with worker_process(folder.root, "localhost", manager.port) as worker:
            worker.code()


def ask(folder: Folder, port: int, **request: object) -> dict[str, object]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(json.dumps({**request, "token": folder.token}).encode() + b"\n")
        reply: dict[str, object] = json.loads(client.makefile("rb").readline())
        return reply


def scores(folder: Folder) -> dict[str, str]:
    return {row["width"]: row["score"] for row in folder.rows()}


def counts(folder: Folder, caplog: pytest.LogCaptureFixture) -> dict[State, int]:
    caplog.clear()
    with folder.serving() as manager:
        return {state: n for state, n in manager.queue.counts().items() if n}


def test_finished_tasks_that_ran_other_code_are_told_and_stay_complete(
    lab: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = FolderCode(lab.root).now().code
    assert counts(lab, caplog) == {State.COMPLETE: 3}
    assert "other code" not in caplog.text
    now = edit(lab, 10)
    assert counts(lab, caplog) == {State.COMPLETE: 3}
    which = f"({before[:6]}, now {now[:6]})"
    line = f"3 finished tasks ran other code {which}: requeue --other-code runs them again"
    after = caplog.messages.index("Marked 3 tasks as already completed") + 1
    assert caplog.messages[after] == line


def test_requeued_tasks_run_again_and_their_rows_are_replaced(lab: Folder) -> None:
    now = edit(lab, 10)
    run(lab, requeue=True)
    assert scores(lab) == {"1": "10", "2": "20", "3": "30"}
    assert len(lab.rows()) == 3
    assert {row["code"] for row in lab.rows()} == {now}
    with lab.serving() as manager:
        assert manager.queue.counts()[State.COMPLETE] == 3


def test_a_manager_may_be_started_so_that_what_ran_other_code_runs_again(
    lab: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    edit(lab, 10)
    with caplog.at_level(logging.INFO), lab.serving(exit_when_done=True, retry_other_code=True) as manager:
        assert "Requeued 3 tasks" in caplog.messages
        with worker_process(lab.root, "localhost", manager.port) as worker:
            worker.code()
    assert scores(lab) == {"1": "10", "2": "20", "3": "30"}
    with lab.serving(retry_other_code=True) as manager:
        assert manager.queue.counts()[State.COMPLETE] == 3, "nothing is left that ran other code"


def test_a_task_that_fails_keeps_its_old_row_and_the_journal_remembers(
    lab: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    edit(lab, "1 / 0")
    with lab.serving() as manager:
        assert ask(lab, manager.port, type="requeue", other_code=True)["count"] == 3
        manager.rescan()
        assert manager.queue.counts()[State.PENDING] == 3
    assert counts(lab, caplog) == {State.PENDING: 3}, "also after a restart"
    with lab.serving(keep_going=True) as manager:
        with worker_process(lab.root, "localhost", manager.port) as worker:
            worker.code()
        assert manager.queue.counts()[State.FAILED] == 3
    assert scores(lab) == {"1": "1", "2": "2", "3": "3"}
    with closing(Journal(Workdir(lab.root).journal)) as journal:
        assert {record.state for record in journal.load(TaskRecord)} == {"failed"}
    edit(lab, 5)
    with lab.serving(retry_failed=True) as manager:
        assert manager.queue.counts()[State.PENDING] == 3
        with worker_process(lab.root, "localhost", manager.port) as worker:
            worker.code()
    assert scores(lab) == {"1": "5", "2": "10", "3": "15"}


def test_a_result_of_the_same_code_as_the_old_row_counts(lab: Folder) -> None:
    edit(lab, 10)
    with lab.serving() as manager:
        assert ask(lab, manager.port, type="requeue", other_code=True)["count"] == 3
    edit(lab, 1)  # taken back
    run(lab)
    assert scores(lab) == {"1": "1", "2": "2", "3": "3"}
    with lab.serving() as manager:
        assert manager.queue.counts()[State.COMPLETE] == 3


def test_tasks_whose_row_stands_in_another_file_are_not_requeued(lab: Folder) -> None:
    (lab.root / "results_exp1").rename(lab.root / "results_old")
    edit(lab, 10)
    with lab.serving() as manager:
        reply = ask(lab, manager.port, type="requeue", other_code=True)
        assert reply["count"] == 0
        assert reply["message"] == "3 tasks with a row in another file stay complete"


@pytest.fixture
def twice(lab: Folder) -> Folder:
    """The same with a second phase that asks for the same work, into another folder: three copied rows."""
    again = (
        "exp1_again:\n  defaults: {{output_dir: ./results_again}}\n  combinations: [{{width: {widths}}}]\n"
    )
    lab.configure([1, 2, 3], CONFIG + again)
    with lab.serving() as manager:
        assert manager.queue.counts()[State.COMPLETE] == 6
    return lab


def complete_all(folder: Folder, manager: ExperimentManager) -> list[str]:
    """Run what is assigned with the code of now, and return the tasks' ids."""
    ran, code = list[str](), FolderCode(folder.root).now().code
    with worker(manager, shares=False) as talk:
        while (task := talk.say("request_task"))["type"] == "task":
            done = talk.say("task_complete", key=task["key"], result={"score": 7}, run={"code": code})
            assert done["type"] == "ack"
            ran.append(task["task_id"])
    return ran


@pytest.mark.parametrize("has_code", [True, False])
def test_no_copy_of_an_old_row_undoes_what_was_asked_to_run_again(twice: Folder, has_code: bool) -> None:
    (twice.root / "results_again").rename(twice.root / "results_old")
    if not has_code:
        old = twice.root / "results_old" / "final_results.csv"
        old.write_text(old.read_text().replace(FolderCode(twice.root).now().code, ""))
    edit(twice, 10)
    with twice.serving() as manager:
        assert ask(twice, manager.port, type="requeue", other_code=True)["count"] == 3
    assert "3 complete       3 to run" in CliRunner().invoke(plan, ["--workdir", str(twice.root)]).stdout
    with twice.serving() as manager:
        manager.rescan()
        assert len(complete_all(twice, manager)) == 3
        manager.rescan()
        assert manager.queue.counts()[State.COMPLETE] == 6
    assert scores(twice) == {"1": "7", "2": "7", "3": "7"}


def test_requeued_duplicates_run_once_and_share_the_new_row(twice: Folder) -> None:
    now = edit(twice, 10)
    with twice.serving() as manager:
        assert ask(twice, manager.port, type="requeue", other_code=True)["count"] == 6
        manager.rescan()
        assert len(complete_all(twice, manager)) == 3
        manager.rescan()
        assert manager.queue.counts()[State.COMPLETE] == 6
    for folder in ("results_exp1", "results_again"):
        rows = twice.rows(folder)
        assert [(row["score"], row["code"]) for row in rows] == [("7", now)] * 3


def test_a_change_while_the_sweep_runs_is_one_line(lab: Folder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = FolderCode(lab.root).now().code
    with lab.serving() as manager:
        now = edit(lab, 10)
        for _ in range(3):
            manager.rescan()
    (line,) = [line for line in caplog.messages if "has changed" in line]
    assert f"({before[:6]}, now {now[:6]})" in line


def test_tasks_are_found_by_the_code_of_their_row(lab: Folder) -> None:
    code = FolderCode(lab.root).now().code
    with lab.serving() as manager:
        for where, total in (({"code": code[:6]}, 3), ({"code": code, "width": 2}, 1), ({"code": "f00"}, 0)):
            assert ask(lab, manager.port, type="tasks", where=where)["total"] == total


def test_several_codes_are_told_by_the_most_frequent_one() -> None:
    codes = ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "bbbbbbbbbbbb"]
    text = "3 finished tasks ran other code (bbbbbb and 1 other, now cccccc)"
    assert other_code_text(codes, "cccccccccccc") == text
    assert other_code_text([], "cccccccccccc") == ""


@pytest.mark.slow
def test_plan_and_report_tell_how_many_tasks_ran_other_code(lab: Folder) -> None:
    before = FolderCode(lab.root).now().code
    script = [sys.executable, str(PROJECT / "experiment_manager.py")]

    def told(verb: str) -> str:
        words = [*script, verb, "--workdir", str(lab.root)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert "other code" not in told("plan")
    now = edit(lab, 10)
    text = f"3 finished tasks ran other code ({before[:6]}, now {now[:6]})"
    assert f"{text}: run --retry-other-code runs them again" in told("plan")
    told("report")
    assert text in (lab.root / "report.html").read_text(encoding="utf-8")
    with lab.serving() as manager:
        ask(lab, manager.port, type="requeue", other_code=True)
        assert "0 complete       3 to run" in told("plan"), "the manager that runs knows it, too"
    assert "0 complete       3 to run" in told("plan")
