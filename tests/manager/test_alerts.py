"""When the user's commands run: once per failed task, once per end of the sweep."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from distexp.manager.alerts import Alerts, Commands
from distexp.manager.manager import ExperimentManager
from distexp.queue.entry import WorkerInfo
from distexp.queue.task_queue import TaskQueue
from distexp.task import Cause
from tests.live_manager import Folder, worker
from tests.row_cases import tasks_of

TELL = """
import json, os, sys
with open("told.jsonl", "a") as file:
    told = {name: value for name, value in os.environ.items() if name.startswith("DISTEXP_")}
    file.write(json.dumps([sys.argv[1], told]) + chr(10))
"""


def serve(folder: Folder, turns: str) -> list[list[object]]:
    """Run a manager whose commands tell what they were told; `turns` is what its worker says of each task."""
    (folder.root / "tell.py").write_text(TELL.replace("told.jsonl", str(folder.root / "told.jsonl")))
    command = shlex.join([sys.executable, str(folder.root / "tell.py")])
    with folder.serving(on_finish=f"{command} finish", on_failure=f"{command} failure") as manager:
        with worker(manager) as talk:
            for turn in turns:
                play(manager, talk.say("request_task"), talk, turn)
                manager.run_once()
        manager.run_once()
    path = folder.root / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def play(manager: ExperimentManager, task: dict[str, object], talk: object, turn: str) -> None:
    about = {"task_id": task["task_id"], "key": task["key"], "lease_id": task["lease_id"]}
    if turn == "f":
        talk.say("task_failed", **about, cause="import", error="mine.py:3: ValueError: no")  # type: ignore[attr-defined]
    else:
        talk.say("task_complete", **about, result={"score": 1.0})  # type: ignore[attr-defined]


def test_the_end_of_the_sweep_is_told_once_with_its_figures(folder: Folder) -> None:
    ((what, told),) = serve(folder, "ccc")
    assert what == "finish"
    assert isinstance(told, dict)
    assert (told["DISTEXP_TOTAL"], told["DISTEXP_COMPLETE"], told["DISTEXP_FAILED"]) == ("3", "3", "0")
    assert told["DISTEXP_WORKDIR"] == str(folder.root)


def test_a_failure_is_told_with_task_cause_and_error_before_the_end(folder: Folder) -> None:
    failure, finish = serve(folder, "f")
    assert (failure[0], finish[0]) == ("failure", "finish")
    told = failure[1]
    assert isinstance(told, dict)
    assert told["DISTEXP_TASK_ID"] == "exp1_vary_width_0_42"
    assert (told["DISTEXP_CAUSE"], told["DISTEXP_ERROR"]) == ("import", "mine.py:3: ValueError: no")
    assert told["DISTEXP_FAILED"] == "1"


def test_a_task_that_fails_as_another_is_requeued_is_told(folder: Folder) -> None:
    (folder.root / "tell.py").write_text(TELL.replace("told.jsonl", str(folder.root / "told.jsonl")))
    command = shlex.join([sys.executable, str(folder.root / "tell.py"), "failure"])
    with folder.serving(on_failure=command) as manager:
        (entry, *_) = manager.queue.entries()
        for _ in range(2):  # within one turn: the number of failed tasks is what it was
            manager.queue.requeue(entry.key)
            lease = manager.queue.assign(WorkerInfo("cpu0"))
            assert lease is not None
            manager.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "no", retry=False)
            manager.run_once()
    assert len((folder.root / "told.jsonl").read_text().splitlines()) == 2


def test_the_end_of_a_manager_that_leaves_tasks_behind_is_told(folder: Folder) -> None:
    queue = TaskQueue(time.monotonic, lambda record: None)
    queue.sync(tasks_of(1))
    command = shlex.join([sys.executable, "-c", f"open({str(folder.root / 'told')!r}, 'w')"])
    alerts = Alerts(queue, Commands.parse(command, None), dict, folder.root)
    alerts.look(has_ended=True)
    alerts.close()
    assert (folder.root / "told").exists()


def test_what_an_earlier_manager_told_is_no_news(folder: Folder) -> None:
    assert len(serve(folder, "f")) == 2
    assert len(serve(folder, "")) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_an_unfinished_sweep_tells_nothing(folder: Folder, count: int) -> None:
    assert serve(folder, "c" * count) == []


def test_a_command_that_cannot_run_leaves_the_manager_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.configure([1])
    with folder.serving(on_finish="absent-command-of-mine") as manager, worker(manager) as talk:
        play(manager, talk.say("request_task"), talk, "c")
        manager.run_once()
        assert talk.say("status")["status"]["done"] is True
    assert "absent-command-of-mine: cannot be started (No such file or directory)" in folder.log()
