"""Tasks of a results file that cannot be written wait; others go on, and all are told which file and why."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from distexp.manager.kept_rows import PATIENCE_S
from distexp.manager.manager import ExperimentManager
from tests.live_manager import Folder, RawClient, secret_of, worker

TWO_FOLDERS = """
defaults: {experiment: "mine:run"}
a: {defaults: {output_dir: results_a}, combinations: [{width: [1, 2]}]}
b: {defaults: {output_dir: results_b, depth: 3}, combinations: [{width: [1]}]}
"""


@pytest.fixture
def folder(folder: Folder) -> Folder:
    (folder.root / "configs" / "config_exp1.yaml").write_text(TWO_FOLDERS)
    (folder.root / "results_a").mkdir()
    (folder.root / "results_a" / "final_results.csv").write_bytes("width\n1\n".encode("utf-16"))
    return folder


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving(exit_when_done=True) as manager:
        yield manager


def asked(manager: ExperimentManager, type_: str, **fields: str) -> dict[str, Any]:
    """The reply to somebody who is no worker."""
    with RawClient(manager.port, token=secret_of(manager)) as client:
        return client.say(type_, **fields)


def finish(client: RawClient, task: dict[str, object]) -> dict[str, object]:
    fields = {name: task[name] for name in ("lease_id", "key", "task_id")}
    return client.say("task_complete", result={"acc": 0.5}, **fields)


def test_tasks_of_an_unusable_file_are_not_assigned_and_all_are_told(
    folder: Folder, manager: ExperimentManager
) -> None:
    why = f"{folder.root}/results_a/final_results.csv is UTF-16 text; save it as UTF-8"
    with worker(manager, shares=False) as client:
        task = client.say("request_task")
        assert task["task_id"] == "b_0_42"
        assert finish(client, task)["type"] == "ack"
        waits = client.say("request_task")
        assert (waits["type"], waits["reason"], waits["message"]) == ("no_task", "wait", why)
        assert asked(manager, "show", task="a_0_42")["why"] == f"its results file cannot be written: {why}"
        assert asked(manager, "status")["status"]["problems"] == 1
    assert [line for line in folder.log() if why in line] == [
        f"{why}; its rows do not count and its tasks wait"
    ]


def test_a_manager_whose_last_tasks_cannot_be_written_ends_with_exit_code_1(folder: Folder) -> None:
    (folder.root / "configs" / "config_exp1.yaml").write_text(TWO_FOLDERS.partition("b:")[0])
    manager = ExperimentManager(port=0, workdir=folder.root, exit_when_done=True)
    assert manager.serve() == 1
    assert any("Stopping with 2 tasks pending" in line for line in folder.log())


def test_so_does_one_whose_search_would_go_on_with_them(folder: Folder) -> None:
    search = "metric: loss\na: {search: {method: tpe, samples: 9}, "
    text = TWO_FOLDERS.partition("b:")[0].replace("a: {", search, 1)
    (folder.root / "configs" / "config_exp1.yaml").write_text(text.replace("[1, 2]", "{min: 1, max: 99}"))
    manager = ExperimentManager(port=0, workdir=folder.root, exit_when_done=True, rescan_s=0.1)
    assert manager.serve() == 1
    assert any("Stopping with 9 tasks pending" in line for line in folder.log())


def test_tasks_go_on_once_the_file_is_moved_away(folder: Folder, manager: ExperimentManager) -> None:
    (folder.root / "results_a" / "final_results.csv").rename(folder.root / "old.csv")
    manager.rescan()
    with worker(manager, shares=False) as client:
        assert asked(manager, "status")["status"]["problems"] == 0
        assert client.say("request_task")["task_id"] == "a_0_42"


def test_a_file_that_cannot_be_opened_holds_up_only_its_own_tasks(
    folder: Folder, manager: ExperimentManager
) -> None:
    path = folder.root / "results_a" / "final_results.csv"
    path.unlink()
    manager.rescan()
    with worker(manager, shares=False) as client, worker(manager, "gpu1", shares=False) as other:
        task = client.say("request_task")
        path.mkdir()
        assert finish(client, task)["type"] == "ack"
        manager.rescan()
        assert asked(manager, "status")["status"]["problems"] == 1
        assert other.say("request_task")["task_id"] == "b_0_42"
        assert asked(manager, "status")["status"]["complete"] == 0
        path.rmdir()
        manager.rescan()
        assert folder.rows("results_a")[0]["task_id"] == task["task_id"]
        assert asked(manager, "status")["status"]["complete"] == 1
        assert asked(manager, "status")["status"]["problems"] == 0


def test_a_kept_row_outlives_the_manager_and_its_task_is_not_assigned_again(folder: Folder) -> None:
    path = folder.root / "results_a" / "final_results.csv"
    path.unlink()
    (folder.root / "configs" / "config_exp1.yaml").write_text(TWO_FOLDERS.partition("b:")[0])
    with folder.serving() as manager, worker(manager, shares=False) as client:
        task = client.say("request_task")
        path.mkdir()
        assert finish(client, task)["type"] == "ack"
    with folder.serving() as manager, worker(manager, shares=False) as client:
        assert client.say("request_task")["type"] == "no_task"
        path.rmdir()
        manager.rescan()
        assert [row["task_id"] for row in folder.rows("results_a")] == [task["task_id"]]
        assert client.say("request_task")["task_id"] == "a_1_42"


def test_a_sweep_does_not_end_without_a_row_that_was_kept_a_moment_ago(folder: Folder) -> None:
    (folder.root / "results_a" / "final_results.csv").unlink()
    config = folder.root / "configs" / "config_exp1.yaml"
    config.write_text(TWO_FOLDERS.partition("b:")[0].replace("[1, 2]", "[1]"))
    with folder.serving(exit_when_done=True) as manager:
        path = folder.root / "results_a" / "final_results.csv"
        with worker(manager, shares=False) as client:
            task = client.say("request_task")
            path.mkdir()
            finish(client, task)
        for _ in range(3):
            manager.run_once()
        assert not manager._is_done
        manager._kept._clock = lambda: time.monotonic() + PATIENCE_S
        manager._ending._exit_at_s = 0.0
        manager.run_once()
        assert manager._is_done
