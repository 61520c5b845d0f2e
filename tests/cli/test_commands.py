"""The verbs of experiment_manager.py, asked of a running manager: what they print, and their exit codes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import experiment_manager
from distexp.manager.manager import ExperimentManager
from tests.live_manager import CONFIG, Folder, RawClient, worker
from tests.live_worker import await_file
from tests.support import poll

FIRST, SECOND = "exp1_vary_width_0_42", "exp1_vary_width_1_42"
Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


@pytest.fixture
def verb(folder: Folder, manager: ExperimentManager, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Call a verb and return exit code, output and error output."""

    def call(*words: object) -> tuple[int, str, str]:
        code = experiment_manager.main([*map(str, words), "--workdir", str(folder.root)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def fail(talk: RawClient, error: str = "Traceback ...\nValueError: no", times: int = 1) -> str:
    """Let the worker fail a task for good and return its id."""
    task = talk.say("request_task")
    named = {"lease_id": task["lease_id"], "key": task["key"]}
    talk.say("task_failed", **named, error=error, cause="out_of_memory")
    return str(task["task_id"])


def test_tasks_lists_those_that_match_in_columns(manager: ExperimentManager, verb: Verb) -> None:
    with worker(manager) as talk:
        failed = fail(talk)
    code, out, _ = verb("tasks", "--state", "failed", "--phase", "exp1_vary_width")
    assert (code, [line.split() for line in out.splitlines()]) == (
        0,
        [["task", "state", "attempts", "worker"], [failed, "failed", "1", "gpu0", "ValueError:", "no"]],
    )
    assert SECOND in verb("tasks", "--where", "width=2", "--where", "seed=42")[1]
    assert verb("tasks", "--where", "width=7")[:2] == (1, "No task matches\n")
    assert verb("tasks", "--where", f"width={'[' * 5000}")[:2] == (1, "No task matches\n")
    limited = verb("tasks", "--limit", "1")[1].splitlines()
    assert limited[-1] == "... 2 more (--limit 0 shows all)"


def test_tasks_are_read_page_by_page(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.configure(list(range(250)))
    with folder.serving():
        words = ["tasks", "--limit", "0", "--json", "--workdir", str(folder.root)]
        assert experiment_manager.main(words) == 0
    reply = json.loads(capsys.readouterr().out)
    assert (len({task["task_id"] for task in reply["tasks"]}), reply["total"]) == (250, 250)


def test_tasks_are_cancelled_and_requeued_by_id_and_by_state(manager: ExperimentManager, verb: Verb) -> None:
    assert verb("cancel", FIRST)[:2] == (0, "Cancelled 1 task\n")
    part = "Cancelled 1 of 2 tasks; those that had ended stay as they are\n"
    assert verb("cancel", FIRST, SECOND, SECOND)[:2] == (0, part)
    assert verb("cancel", FIRST)[:2] == (1, "Cancelled 0 of 1 task; those that had ended stay as they are\n")
    assert verb("requeue", FIRST)[:2] == (0, "Requeued 1 task\n")
    assert json.loads(verb("requeue", "--failed", "--json")[1]) == {"type": "ack", "count": 0}
    assert verb("requeue", "--missing")[:2] == (1, "Requeued 0 tasks\n")
    code, out, _ = verb("requeue", FIRST)
    assert (code, out.splitlines()[0]) == (1, "Requeued 0 tasks")
    assert out.splitlines()[1].startswith(f"{FIRST}: "), "why nothing happened"
    with worker(manager) as talk:
        fail(talk)
    assert verb("requeue", "--failed")[:2] == (0, "Requeued 1 task\n")


def test_a_refusal_is_code_1_and_an_absent_manager_or_wrong_words_code_2(folder: Folder, verb: Verb) -> None:
    code, out, err = verb("cancel", "exp9_0_42")
    assert (code, out) == (1, "")
    assert err == "error: task 'exp9_0_42' is not in this sweep; `tasks` lists those that are\n"
    code, _, err = verb("drain", "gpu7")
    assert (code, err) == (1, "error: worker gpu7: no worker is connected\n")
    code, _, err = verb("pause", "--port", "1")
    assert (code, "no manager answers at localhost:1" in err) == (2, True)
    for flag, run in (
        ("--failed", " --retry-failed"),
        ("--missing", ""),
        ("--other-code", " --retry-other-code"),
    ):
        code, _, err = verb("requeue", flag, "--port", "1")
        assert (code, err.endswith(f" run{run}`\n")) == (2, True)
    for words in (["requeue"], ["show"], ["tasks", "--where", "width"]):
        assert verb(*words)[0] == 2


def test_a_typo_is_answered_by_what_is_like_it(
    folder: Folder, verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Did you mean one of: 'pause', 'status', 'tasks'" in verb("staus")[2]
    assert "Did you mean '--phase'?" in verb("tasks", "--phases", "a")[2]
    assert "Did you mean 'failed'?" in verb("tasks", "--state", "faild")[2]
    assert "did you mean exp1_vary_width_0_42?" in verb("show", "exp1_vary_widht_0_42")[2]
    assert "exp1_vary_width runs with the seeds 42" in verb("logs", "exp1_vary_width_0_43")[2]
    assert "no combination 9" in verb("cancel", "exp1_vary_width_9_42")[2]
    assert "no parameter is called widht: did you mean width?" in verb("tasks", "--where", "widht=1")[2]
    assert "no phase is called exp1: there is exp1_vary_width" in verb("tasks", "--phase", "exp1")[2]
    assert experiment_manager.main(["status", "--workdir", str(folder.root / "absent")]) == 2
    told = (
        f"error: --workdir {folder.root / 'absent'}: no such folder; name that of your configs and results\n"
    )
    assert capsys.readouterr().err == told


def test_pause_resume_and_drain_do_as_they_say(manager: ExperimentManager, verb: Verb) -> None:
    with worker(manager) as talk:
        assert verb("pause")[:2] == (0, "paused\n")
        assert talk.say("request_task")["message"] == "paused"
        assert verb("resume")[:2] == (0, "resumed\n")
        assert talk.say("request_task")["type"] == "task"
        assert verb("drain", "gpu0")[:2] == (0, "gpu0 leaves after its current task\n")


def test_prioritize_says_the_order_of_the_phases_and_outlives_the_manager(
    folder: Folder, manager: ExperimentManager, verb: Verb
) -> None:
    folder.configure([8], CONFIG.replace("exp1_vary_width", "exp2"), name="config_exp2.yaml")
    manager.rescan()
    assert verb("prioritize", "exp2")[:2] == (0, "first to last: exp2 (1), exp1_vary_width (0)\n")
    assert verb("prioritize", "exp1_vary_width", "-3")[1].endswith("exp1_vary_width (-3)\n")
    assert "no phase is called 'exp3': there are exp1_vary_width, exp2" in verb("prioritize", "exp3")[2]
    assert verb("prioritize", "exp2", "high")[0] == verb("prioritize", "exp2", "9999999")[0] == 2
    manager.stop()
    with folder.serving() as again, worker(again) as talk:
        assert talk.say("request_task")["phase"] == "exp2"


def test_show_tells_parameters_attempts_error_and_reason(manager: ExperimentManager, verb: Verb) -> None:
    with worker(manager) as talk:
        failed = fail(talk)
    code, out, _ = verb("show", failed)
    assert (code, out.splitlines()[:4]) == (
        0,
        [
            f"{failed}: failed",
            f"  failed (1 failures, 0 lost workers): ValueError: no; `requeue {failed}` runs it again",
            "  tried       1 attempt, 1 failure, 0 lost workers, last on gpu0",
            "  parameters  width=1, seed=42",
        ],
    )
    assert "  error       (out_of_memory)\n    Traceback ...\n    ValueError: no\n" in out
    assert json.loads(verb("show", SECOND, "--json")[1])["task"]["config"] == {"width": 2}


def test_show_tells_the_result_and_how_long_it_took(manager: ExperimentManager, verb: Verb) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        run = {"duration_s": 2.5, "started_utc": "2026-01-01T00:00:00Z", "worker": "gpu0"}
        talk.say("task_complete", key=task["key"], result={"score": 0.5, "lost": None}, run=run)
    out = verb("show", task["task_id"])[1]
    assert "  took        2.5 s, from 2026-01-01T00:00:00Z, on gpu0\n" in out
    assert "  result      score=0.5\n" in out


def test_logs_prints_a_log_and_says_why_there_is_none(
    folder: Folder, manager: ExperimentManager, verb: Verb
) -> None:
    assert verb("logs", FIRST) == (1, "", f"{FIRST}: has not run yet, so there is no log\n")
    log = log_path(folder, verb)
    log.write_text("one\n\x1b[2Jtwo\n")
    assert verb("logs", FIRST)[:2] == (0, "one\n\\x1b[2Jtwo\n"), "a task does not steer a terminal"


def log_path(folder: Folder, verb: Verb) -> Path:
    path: str = json.loads(verb("show", FIRST, "--json")[1])["log_path"]
    log = folder.root / path
    log.parent.mkdir(parents=True)
    return log


def test_logs_follows_a_task_to_its_end(folder: Folder, manager: ExperimentManager, verb: Verb) -> None:
    log, seen = log_path(folder, verb), folder.root / "seen"
    with worker(manager) as talk, seen.open("w") as output:
        task = talk.say("request_task")
        log.write_text("one\n")
        words = ["logs", FIRST, "-f", "--workdir", str(folder.root)]
        process = subprocess.Popen([sys.executable, experiment_manager.__file__, *words], stdout=output)
        try:
            await_file(seen)
            poll(lambda: seen.read_text() == "one\n", "the first line", 60)
            with log.open("a") as file:
                file.write("two\n")
            poll(lambda: seen.read_text() == "one\ntwo\n", "the second line", 60)
            talk.say("task_complete", key=task["key"], result={"score": 1})
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert seen.read_text() == "one\ntwo\n"
