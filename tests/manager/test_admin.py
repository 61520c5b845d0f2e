"""Looking at a sweep and steering it by hand, over the wire."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.manager.admin import METRICS
from distexp.manager.manager import ExperimentManager
from distexp.queue.entry import WorkerInfo
from distexp.queue.records import DrainRecord
from distexp.wire.framing import MAX_STATUS_BYTES, encode
from distexp.wire.messages import PAGE, RequestTask, StatusReply
from tests.live_manager import CONFIG, Folder, RawClient, worker
from tests.support import poll

FIRST = "exp1_vary_width_0_42"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 3, 4], CONFIG + "    - model: [mlp, cnn]\n")
    return folder


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


@pytest.fixture
def user(folder: Folder, manager: ExperimentManager) -> Iterator[RawClient]:
    with RawClient(manager.port, token=folder.token) as talk:
        yield talk


def test_status_counts_tasks_by_state(folder: Folder, manager: ExperimentManager, user: RawClient) -> None:
    folder.add_rows("1,mlp,42,0.5", header="width,model,seed,score")
    manager.rescan()
    with worker(manager) as talk:
        talk.say("request_task")
        user.say("cancel", tasks=["exp1_vary_width_7_42"])
        assert user.say("status")["status"] == {
            **{
                "total": 8,
                "pending": 5,
                "assigned": 1,
                "complete": 1,
                "failed": 0,
                "cancelled": 1,
                "pruned": 0,
            },
            **{"progress": "1/8 (12.5%)", "done": False, "paused": False, "workers": 1, "benched": ""},
            "excluded_workers": "",
            "held_phases": "",
            "problems": 0,
            "ending": False,
        }


def test_a_status_stays_below_its_limit_whatever_workers_are_called(manager: ExperimentManager) -> None:
    for number in range(30):
        name = f"{number}\U0001f600" * 20
        with worker(manager, name) as talk, worker(manager, "substitute") as other:
            other.say("heartbeat"), talk.say("heartbeat")
        assert manager._registry.exclude(WorkerInfo(name, instance=f"{name}-1"), "it fails")
    status = manager.dispatcher.status()
    assert status.excluded_workers == status.benched
    assert status.benched.startswith("0\U0001f600")
    assert len(encode(StatusReply(status=status))) <= MAX_STATUS_BYTES


def test_workers_are_listed_with_task_and_progress(manager: ExperimentManager, user: RawClient) -> None:
    with worker(manager, device="H100", memory_mib=80_000) as talk:
        task = talk.say("request_task")
        progress = {"step": 3, "total": 10, "metrics": {"loss": 0.5}}
        talk.say("heartbeat", lease_id=task["lease_id"], key=task["key"], progress=progress)
        (listed,) = user.say("workers")["workers"]
    del listed["age_s"], listed["task_s"]
    assert listed == {
        **{"worker": "gpu0", "host": "", "device": "H100", "memory_mib": 80_000, "connected": True},
        **{
            "task": task["task_id"],
            "progress": [3, 10],
            "metrics": {"loss": 0.5},
            "gpu": None,
            "completed": 0,
            "failed": 0,
        },
        **{"drained": False, "benched": "", "excluded": "", "git_commit": "", "other_commit": False},
        "usual_s": None,
    }


def test_tasks_are_filtered_by_state_phase_and_values(user: RawClient) -> None:
    def ids(**filters: object) -> list[str]:
        return [task["task_id"] for task in user.say("tasks", **filters)["tasks"]]

    assert ids(where={"model": "cnn", "width": 2.0}) == ["exp1_vary_width_3_42"]
    assert ids(where={"model": "cnn"}, offset=3) == ["exp1_vary_width_7_42"]
    assert ids(where={"colour": "red"}) == ids(state="failed") == ids(phase="exp2") == []
    assert len(ids(state="pending", phase="exp1_vary_width", where={"seed": 42})) == 8


def test_tasks_are_searched_by_words_and_sorted_by_column_or_parameter(
    folder: Folder, manager: ExperimentManager, user: RawClient
) -> None:
    def ids(**asked: object) -> list[str]:
        return [task["task_id"].removesuffix("_42")[-1] for task in user.say("tasks", **asked)["tasks"]]

    with worker(manager) as talk:
        task = talk.say("request_task")
        talk.say("task_failed", lease_id=task["lease_id"], key=task["key"], error="ValueError: NaN in loss")
    user.say("cancel", tasks=["exp1_vary_width_3_42"])
    assert ids(text="nan LOSS") == ids(text="gpu0") == ["0"]
    assert ids(text="width_7") == ids(text="'width_7'") == ["7"]
    assert (ids(text='"NaN in loss"'), ids(text='"loss in NaN"')) == (["0"], [])
    assert ids(sort="model", state="pending") == ["1", "5", "7", "0", "2", "4", "6"]
    assert ids(sort="-width", where={"model": "mlp"}) == ["6", "4", "2", "0"]
    assert ids(sort="state")[0] == "3"
    assert ids(sort="-attempts")[0] == "0"
    assert ids(sort="-task") == ["7", "6", "5", "4", "3", "2", "1", "0"]


def test_a_view_counts_the_tasks_of_each_phase_and_the_failures_of_each_cause(
    folder: Folder, manager: ExperimentManager, user: RawClient
) -> None:
    folder.configure([1, 2, 3, 4], CONFIG.replace("exp1_", "exp2_"), "config_exp2.yaml")
    folder.add_rows("1,42,0.5")
    manager.rescan()
    with worker(manager) as talk:
        for number in range(3):
            task = talk.say("request_task")
            talk.say("task_failed", lease_id=task["lease_id"], key=task["key"], error=f"loss {number} is NaN")
        view = user.say("view")
    assert view["phases"] == [
        {"phase": "exp1_vary_width", "tasks": {"pending": 8}, "held": ""},
        {"phase": "exp2_vary_width", "tasks": {"complete": 1, "pending": 3}, "held": ""},
    ]
    assert [(each["why"], each["count"]) for each in view["failures"]] == [("error: loss 2 is NaN", 3)]


def test_tasks_come_in_pages(folder: Folder) -> None:
    folder.configure(list(range(PAGE + 20)))
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        pages = [user.say("tasks", offset=offset) for offset in (0, PAGE, 2 * PAGE)]
    assert [len(page["tasks"]) for page in pages] == [PAGE, 20, 0]
    assert {page["total"] for page in pages} == {PAGE + 20}


def test_workers_fit_into_a_message_those_that_have_left_last(
    manager: ExperimentManager, user: RawClient
) -> None:
    long_gone = [RequestTask(worker_id=f"old{number}", host="h" * 200) for number in range(3000)]
    for number, request in enumerate(long_gone, start=10**6):
        manager._registry.register(request, number)
        manager._registry.disconnect(number)
    with worker(manager) as talk:
        task = talk.say("request_task")
        metrics = {f"{'x' * (30 + number)}": number / 7 for number in range(100)}
        about = {"lease_id": task["lease_id"], "key": task["key"]}
        talk.say("heartbeat", **about, progress={"step": 1, "metrics": metrics})
        reply = user.say("workers")["workers"]
    assert (reply[0]["worker"], len(reply[0]["metrics"])) == ("gpu0", METRICS)
    assert 1000 < len(reply) < 3000


def test_a_page_of_large_tasks_fits_into_a_message(folder: Folder) -> None:
    text = CONFIG + f"    - big: [{'x' * 30_000}]\n"
    folder.configure(list(range(PAGE)), text)
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        found: list[str] = []
        while len(found) < PAGE:
            page = user.say("tasks", offset=len(found))
            assert page["total"] == PAGE
            assert 0 < len(page["tasks"]) < PAGE
            found += [task["task_id"] for task in page["tasks"]]
    assert found == [f"exp1_vary_width_{number}_42" for number in range(PAGE)]


def test_a_cancelled_task_that_runs_is_told_to_stop_and_a_requeued_one_runs_again(
    manager: ExperimentManager, user: RawClient
) -> None:
    with worker(manager) as talk, worker(manager, "gpu1") as other:
        task = talk.say("request_task")
        assert user.say("cancel", tasks=[task["task_id"]])["count"] == 1
        assert user.say("cancel", tasks=[task["task_id"]])["count"] == 0
        assert user.say("requeue", tasks=[task["task_id"]])["count"] == 1
        assert manager.queue.entry(task["key"]).state == "pending"
        assert other.say("request_task")["key"] != task["key"], "it still runs"
        assert user.say("show", task=task["task_id"])["why"].startswith("waits until gpu0 has heard that")
        assert talk.say("heartbeat", lease_id=task["lease_id"], key=task["key"])["stop"] is True
        assert talk.say("request_task")["key"] != task["key"]
        manager.rescan()
        with worker(manager, "gpu2") as third:
            assert third.say("request_task")["key"] == task["key"]


@pytest.mark.parametrize("verb", ["cancel", "requeue"])
def test_a_list_with_one_unknown_task_touches_none(user: RawClient, verb: str) -> None:
    user.say("cancel", tasks=["exp1_vary_width_1_42"])
    tasks = ["exp1_vary_width_0_42", "exp1_vary_width_1_42", "exp9_0_42"]
    before = user.say("status")
    reply = user.say(verb, tasks=tasks)
    assert reply["error"].startswith("task 'exp9_0_42' is not in this sweep")
    assert user.say("status") == before


def test_failed_and_missing_tasks_are_requeued_together(
    folder: Folder, manager: ExperimentManager, user: RawClient
) -> None:
    folder.add_rows("1,cnn,42,0.5", header="width,model,seed,score")
    manager.rescan()
    folder.csv.unlink()
    with worker(manager) as talk:
        for _ in range(3):  # there is no larger device: no second try
            task = talk.say("request_task", instance="")
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            talk.say("task_failed", **named, error="no memory", cause="out_of_memory")
    assert user.say("status")["status"]["failed"] == 3
    assert user.say("requeue", failed=True)["count"] == 3
    assert user.say("requeue", missing=True)["count"] == 1
    assert user.say("status")["status"]["pending"] == 8


def test_a_paused_sweep_assigns_nothing_until_it_is_resumed(
    manager: ExperimentManager, user: RawClient
) -> None:
    user.say("pause")
    with worker(manager) as talk:
        waits = talk.say("request_task")
        assert (waits["reason"], waits["message"]) == ("wait", "paused")
        user.say("resume")
        assert talk.say("request_task")["type"] == "task"


def test_a_drained_worker_leaves_after_its_task(manager: ExperimentManager, user: RawClient) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        user.say("drain", worker_id="gpu0")
        done = talk.say("task_complete", key=task["key"], result={"score": 1}, next=True)
    assert done["next"]["reason"] == "done"
    assert user.say("drain", worker_id="gpu7")["error"].startswith("worker gpu7: not known")


def test_a_drain_is_of_a_client_without_an_instance_until_it_has_left(
    manager: ExperimentManager, user: RawClient
) -> None:
    own = {"instance": "", "heartbeat_s": None}
    with worker(manager, **own) as client:
        client.say("request_task")
        user.say("drain", worker_id="gpu0")
        assert client.say("request_task")["reason"] == "done"
    poll(lambda: user.say("status")["status"]["workers"] == 0, "its end")
    with worker(manager, **own) as client:
        assert client.say("request_task")["type"] == "task", "somebody has started the script again"


def test_a_pause_and_a_drain_outlive_the_manager(folder: Folder) -> None:
    with (
        folder.serving() as manager,
        RawClient(manager.port, token=folder.token) as user,
        worker(manager) as talk,
    ):
        task = talk.say("request_task")
        user.say("pause")
        user.say("drain", worker_id="gpu0")
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        assert any(
            re.fullmatch(r"Paused since .*Z: nothing is assigned until `resume`", line)
            for line in folder.log()
        )
        assert user.say("status")["status"]["paused"]
        with worker(manager, "gpu1") as other:
            assert other.say("request_task")["message"] == "paused"
        user.say("resume")
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        assert not user.say("status")["status"]["paused"]
        with worker(manager, instance="of a new process") as new:
            assert new.say("request_task")["type"] == "task"
        with worker(manager) as drained:
            drained.say("heartbeat")
            (told,) = [each for each in user.say("workers")["workers"] if each["drained"]]
            assert told["task"] == task["task_id"]
            done = drained.say("task_complete", key=task["key"], result={"score": 1}, next=True)
            assert done["next"]["reason"] == "done"
        poll(lambda: manager.journal.flush() or not manager.journal.load(DrainRecord), "it has left")


def test_a_filter_that_nests_without_end_is_refused(user: RawClient) -> None:
    deep: list[object] = []
    for _ in range(600):
        deep = [deep]
    error = user.say("tasks", where={"width": deep})["error"]
    assert error == "tasks.where: it nests hundreds of levels deep; give values of a config"


# -- one task ------------------------------------------------------------------------------------------------


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
        assert re.match(r"runs: assigned to gpu0 \d+ s ago \(attempt 1\)", runs["why"])
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
    assert absent == f"{FIRST}: its log, if any, is where box7/gpu0 ran it: {path} in that folder"


def test_an_unknown_task_is_refused(user: RawClient) -> None:
    for verb in ("show", "logs"):
        assert user.say(verb, task="exp9_0_42")["error"].startswith("task 'exp9_0_42' is not in this sweep")


def test_show_names_workers_on_whose_host_the_setup_has_failed(
    manager: ExperimentManager, folder: Folder, user: RawClient
) -> None:
    with worker(manager, "cpu0") as bad:
        task = bad.say("request_task")
        report = {"lease_id": task["lease_id"], "key": task["key"], "cause": "setup", "error": "setup failed"}
        assert bad.say("task_failed", **report)["type"] == "ack"
        assert user.say("show", task=FIRST)["why"].startswith("its phase is held: setup failed")
        with worker(manager, "cpu1") as good:
            assert good.say("request_task")["task_id"] == "exp1_vary_width_1_42"
            folder.add_rows("1,cnn,42,0.5", header="width,model,seed,score")
            good.say("task_complete", task_id="exp1_vary_width_1_42")
        assert bad.say("request_task")["reason"] == "wait"
        why = "cpu0: the setup of its file has failed there; `resume` tries it again"
        poll(lambda: why in user.say("show", task=FIRST)["why"], "the other worker has left")
        user.say("resume")
        assert bad.say("request_task")["type"] == "task"
