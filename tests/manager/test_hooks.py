"""The user's own commands: when they run, what they are told, and that they never harm the manager."""

import json
import logging
import shlex
import sys
import time
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.manager import hooks
from distexp.manager.hooks import CommandRunner, Commands, Hooks
from distexp.manager.manager import ExperimentManager
from distexp.queue.entry import WorkerInfo
from distexp.queue.task_queue import TaskQueue
from distexp.task import Cause
from distexp.wire.messages import SweepStatus
from tests.live_manager import Folder, worker
from tests.row_cases import tasks_of
from tests.support import poll

SAY = "import os, sys; open(sys.argv[1], 'a').write(os.environ['DISTEXP_TASK_ID'] + '\\n')"


def test_commands_run_in_their_order_with_the_variables_in_their_environment(tmp_path: Path) -> None:
    made = CommandRunner()
    for task_id in ("a", "b\0c", "d"):
        made.run([sys.executable, "-c", SAY, str(tmp_path / "out")], {"task_id": task_id})
    made.close()
    assert (tmp_path / "out").read_text() == "a\nbc\nd\n"


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (["absent-command-of-mine"], "absent-command-of-mine: cannot be started (No such file or directory)"),
        (
            [sys.executable, "-c", "import sys; sys.exit('no\\nmail server')"],
            f"{sys.executable}: ended with exit code 1: mail server",
        ),
    ],
)
def test_a_command_that_fails_is_one_warning(
    words: list[str], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = CommandRunner()
    made.run(words, {})
    made.close()
    assert [record.message for record in caplog.records] == [warning]


def test_a_command_that_hangs_is_killed_and_the_next_one_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = CommandRunner(hook_s=1.0)
    made.run([sys.executable, "-c", "import threading; threading.Event().wait()"], {})
    poll(lambda: bool(caplog.messages), "the warning")
    made.close()
    assert caplog.messages == [f"{sys.executable}: took over 1 s and was killed"]


def test_what_comes_too_thick_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(hooks, "MAX_WAITING", 2)
    made = CommandRunner()
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    for _ in range(9):
        made.run([sys.executable, "-c", wait], {})
    gate.touch()
    made.close()
    assert caplog.messages
    assert set(caplog.messages) == {f"{sys.executable}: left out, 2 of these commands wait already"}


def test_a_command_is_split_like_a_shell_line_and_no_shell_runs() -> None:
    assert Commands.parse("mail -s 'it is done' $HOME", None).on_finish == [
        "mail",
        "-s",
        "it is done",
        "$HOME",
    ]
    assert Commands.parse(None, None).on_finish == []


def test_on_windows_a_command_is_handed_over_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "IS_WINDOWS", True)
    typed = '"C:\\My Tools\\tell.exe" done'
    assert Commands.parse(typed, None).on_finish == typed


@pytest.mark.parametrize(("command", "why"), [("mail 'x", "No closing quotation"), (" ", "it is empty")])
def test_a_command_that_is_none_is_refused(command: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        Commands.parse(None, command)
    assert str(caught.value) == f"--on-failure {command!r}: {why}; write a command and its arguments"


def test_a_command_that_hangs_at_the_end_is_killed_when_a_signal_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, started = CommandRunner(), tmp_path / "started"
    hang = f"open({str(started)!r}, 'w').close()\nimport threading; threading.Event().wait()"
    made.run([sys.executable, "-c", hang], {})
    made.run(["absent-command-of-mine"], {})
    made.close(started.exists)
    assert caplog.messages == [f"{sys.executable}: was stopped and was killed"]


# -- when they run -------------------------------------------------------------------------------------------

STATUS = SweepStatus(
    total=1,
    pending=1,
    assigned=0,
    complete=0,
    failed=0,
    cancelled=0,
    progress="0/1 (0.0%)",
    done=False,
    paused=False,
    workers=0,
)
TELL = """
import json, os, sys
with open("calls.jsonl", "a") as file:
    told = {name: value for name, value in os.environ.items() if name.startswith("DISTEXP_")}
    file.write(json.dumps([sys.argv[1], told]) + chr(10))
"""


def serve(folder: Folder, turns: str) -> list[list[object]]:
    """Run a manager whose commands tell what they were told; `turns` is what its worker says of each task."""
    (folder.root / "tell.py").write_text(TELL.replace("calls.jsonl", str(folder.root / "calls.jsonl")))
    command = shlex.join([sys.executable, str(folder.root / "tell.py")])
    with folder.serving(on_finish=f"{command} finish", on_failure=f"{command} failure") as manager:
        with worker(manager) as talk:
            for turn in turns:
                play(manager, talk.say("request_task"), talk, turn)
                manager.run_once()
        manager.run_once()
    path = folder.root / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def play(manager: ExperimentManager, task: dict[str, object], talk: object, turn: str) -> None:
    about = {"task_id": task["task_id"], "key": task["key"], "lease_id": task["lease_id"]}
    if turn == "f":
        talk.say("task_failed", **about, cause="out_of_memory", error="mine.py:3: ValueError: no")  # type: ignore[attr-defined]
    else:
        talk.say("task_complete", **about, result={"score": 1.0})  # type: ignore[attr-defined]


def test_the_end_of_the_sweep_is_told_once_with_its_counts(folder: Folder) -> None:
    ((what, told),) = serve(folder, "ccc")
    assert what == "finish"
    assert isinstance(told, dict)
    assert (told["DISTEXP_TOTAL"], told["DISTEXP_COMPLETE"], told["DISTEXP_FAILED"]) == ("3", "3", "0")
    assert told["DISTEXP_WORKDIR"] == str(folder.root)


def test_a_failure_is_told_with_task_cause_and_error_before_the_end(folder: Folder) -> None:
    folder.configure([1])
    failure, finish = serve(folder, "f")
    assert (failure[0], finish[0]) == ("failure", "finish")
    told = failure[1]
    assert isinstance(told, dict)
    assert told["DISTEXP_TASK_ID"] == "exp1_vary_width_0_42"
    assert (told["DISTEXP_CAUSE"], told["DISTEXP_ERROR"]) == ("out_of_memory", "mine.py:3: ValueError: no")
    assert told["DISTEXP_FAILED"] == "1"


def test_a_task_that_fails_as_another_is_requeued_is_told(folder: Folder) -> None:
    (folder.root / "tell.py").write_text(TELL.replace("calls.jsonl", str(folder.root / "calls.jsonl")))
    command = shlex.join([sys.executable, str(folder.root / "tell.py"), "failure"])
    with folder.serving(on_failure=command) as manager:
        (entry, *_) = manager.queue.entries()
        for _ in range(2):  # within one turn: the number of failed tasks is what it was
            manager.queue.requeue(entry.key)
            lease = manager.queue.assign(WorkerInfo("cpu0"))
            assert lease is not None
            manager.queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, "no", retry=False)
            manager.run_once()
    assert len((folder.root / "calls.jsonl").read_text().splitlines()) == 2


def test_the_end_of_a_manager_that_leaves_tasks_behind_is_told(folder: Folder) -> None:
    queue = TaskQueue(time.monotonic, lambda record: None)
    queue.sync(tasks_of(1))
    command = shlex.join([sys.executable, "-c", f"open({str(folder.root / 'told')!r}, 'w')"])
    made = Hooks(queue, Commands.parse(command, None), lambda: STATUS, folder.root)
    made.look(has_ended=True)
    made.close()
    assert (folder.root / "told").exists()


def test_what_an_earlier_manager_told_is_not_told_again(folder: Folder) -> None:
    folder.configure([1])
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
