"""One task looked at closely, over the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.manager.manager import ExperimentManager
from tests.live_manager import CONFIG, Folder, RawClient, worker

FIRST = "exp1_vary_width_0_42"


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


@pytest.fixture
def user(folder: Folder, manager: ExperimentManager) -> Iterator[RawClient]:
    with RawClient(manager.port, token=folder.token) as talk:
        yield talk


def log_of(folder: Folder, path: str, text: str) -> Path:
    log = folder.root / path
    log.parent.mkdir(parents=True)
    log.write_text(text, encoding="utf-8")
    return log


def test_show_tells_all_of_a_task_from_waiting_to_its_row(
    folder: Folder, manager: ExperimentManager, user: RawClient
) -> None:
    waits = user.say("show", task="exp1_vary_width_2_42")
    assert (waits["why"][:22], waits["row"], waits["log"]) == ("no worker is connected", None, [])
    with worker(manager) as talk:
        task = talk.say("request_task")
        log_of(folder, waits["log_path"].replace(waits["task"]["key"], task["key"]), "one\ntwo\n")
        runs = user.say("show", task=FIRST)
        assert runs["why"].startswith("runs: assigned to gpu0 0 s ago (attempt 1)")
        assert (runs["task"]["worker"], runs["log"]) == ("gpu0", ["one", "two"])
        assert runs["running_s"] >= 0
        turn = user.say("show", task="exp1_vary_width_2_42")["why"]
        assert turn == "its turn has not come: 1 pending tasks before it"
        talk.say("task_complete", key=task["key"], result={"score": 7})
    done = user.say("show", task=FIRST)
    assert done["why"] == "complete: its row is in results_exp1/final_results.csv"
    assert (done["row"]["score"], done["row"]["worker"], done["running_s"]) == ("7", "gpu0", None)


def test_a_paused_sweep_and_a_duplicate_are_told_as_reasons(folder: Folder) -> None:
    folder.configure([1], CONFIG + "exp1_again:\n  combinations:\n    - width: {widths}\n")
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        with worker(manager) as talk:
            user.say("pause")
            talk.say("request_task")
            assert user.say("show", task=FIRST)["why"] == "the sweep is paused; `resume` goes on"
            user.say("resume")
            talk.say("request_task")
            why = user.say("show", task="exp1_again_0_42")["why"]
            assert why.startswith(
                f"waits for its duplicate {FIRST}, the same work in another phase, which runs"
            )
        user.say("drain", worker_id="gpu0")


def test_a_worker_that_was_drained_is_no_help_to_a_pending_task(
    manager: ExperimentManager, user: RawClient
) -> None:
    with worker(manager) as talk:
        talk.say("heartbeat")
        user.say("drain", worker_id="gpu0")
        assert user.say("show", task=FIRST)["why"] == "all workers are excluded (gpu0: drained)"


def test_a_log_comes_in_pieces_by_offset(folder: Folder, user: RawClient) -> None:
    assert user.say("logs", task=FIRST) == {
        **{"type": "logs", "text": "", "offset": 0, "size": 0, "state": "pending"},
        "absent": f"{FIRST}: has not run yet, so there is no log",
    }
    log = log_of(folder, user.say("show", task=FIRST)["log_path"], "one\n")
    first = user.say("logs", task=FIRST)
    with log.open("a") as file:
        file.write("two\n")
    second = user.say("logs", task=FIRST, offset=first["offset"])
    assert (first["text"], second["text"], second["offset"], second["size"]) == ("one\n", "two\n", 8, 8)


def test_a_log_that_a_worker_elsewhere_keeps_is_said_to_be_there(
    manager: ExperimentManager, user: RawClient
) -> None:
    with worker(manager, shares=False, host="box7") as talk:
        talk.say("request_task")
        absent = user.say("logs", task=FIRST)["absent"]
    path = user.say("show", task=FIRST)["log_path"]
    assert absent == (f"{FIRST}: found no log here, expected it where box7/gpu0 ran it: {path} in its folder")


def test_an_unknown_task_is_refused(user: RawClient) -> None:
    for verb in ("show", "logs"):
        assert user.say(verb, task="exp9_0_42")["error"].startswith("task 'exp9_0_42': not in this sweep")
