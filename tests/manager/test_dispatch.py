import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from distexp.manager.dispatch import UNABLE
from distexp.manager.manager import ExperimentManager
from distexp.queue.holds import HOLD_AFTER
from distexp.queue.records import TaskRecord
from distexp.queue.task_queue import LOSS_BUDGET
from distexp.results.row import CAPTURED
from distexp.task import State
from tests.live_manager import Folder, RawClient, worker


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


def by_hand(folder: Folder, manager: ExperimentManager) -> RawClient:
    """A client of a user: it says who it is and what the secret is, nothing else."""
    return RawClient(manager.port, worker_id="mine", token=folder.token)


def count(manager: ExperimentManager, state: State) -> int:
    return manager.queue.counts()[state]


# -- who may ask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wrong"), [({}, "is missing"), ({"token": "guess"}, "holds a wrong secret")]
)
def test_a_request_without_the_secret_is_told_where_it_is(
    manager: ExperimentManager, said: dict[str, str], wrong: str
) -> None:
    with RawClient(manager.port) as talk:
        reply = talk.say("request_task", worker_id="stranger", **said)
        remedy = "put the secret of the manager's .experiment_manager/token into it"
        assert reply["error"] == f"request_task: `token` {wrong}; {remedy}"
        assert talk.say("status")["status"]["assigned"] == 0


def test_without_auth_nobody_needs_the_secret(folder: Folder) -> None:
    with folder.serving(auth=False) as manager, RawClient(manager.port) as talk:
        assert talk.say("request_task", worker_id="anyone")["type"] == "task"


# -- assigning ---------------------------------------------------------------------------------------------


def test_a_task_comes_with_all_that_a_client_needs(folder: Folder, manager: ExperimentManager) -> None:
    with by_hand(folder, manager) as talk:
        task = talk.say("request_task")
    wanted = ("type", "task_id", "phase", "config", "seed", "output_dir", "attempt")
    assert [task[name] for name in wanted] == [
        *("task", "exp1_vary_width_0_42", "exp1_vary_width", {"width": 1}, 42, "results_exp1", 1)
    ]
    assert "Assigned task exp1_vary_width_0_42 to mine" in folder.log()


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "lost"])
def test_a_shared_gpu_is_no_workers_before_a_task_without_lease_has_left_its_memory(
    folder: Folder, manager: ExperimentManager, is_cancelled: bool
) -> None:
    def sharing(pid: int) -> RawClient:
        about = {"shared_gpu": "GPU-0", "gpus": 1, "pid": pid, "memory_mib": 40_000}
        return worker(manager, f"gpu0.{pid}", shares=False, **about)

    full = {"total_mib": 40_000, "free_mib": 10_000, "held_mib": {"1": 30_000}}
    free = {"total_mib": 40_000, "free_mib": 40_000}
    with sharing(1) as one, sharing(2) as other:
        task = one.say("request_task", memory=free)
        if is_cancelled:
            with RawClient(manager.port, token=folder.token) as user:
                assert user.say("cancel", tasks=[task["task_id"]])["count"] == 1
        else:
            manager.dispatcher.completion.lose(manager.queue.leases()[0], "no sign of life")
        assert other.say("request_task", memory=full)["type"] == "no_task"
        assert other.say("request_task", memory=free)["type"] == "task"


def test_a_request_that_one_process_repeats_gets_the_same_lease(manager: ExperimentManager) -> None:
    with worker(manager) as talk:
        first = talk.say("request_task")
    with worker(manager) as talk:
        again = talk.say("request_task")
        assert again["lease_id"] == first["lease_id"]
        done = talk.say("task_complete", key=again["key"], result={"score": 1}, next=True)
        repeated = talk.say("task_complete", key=again["key"], result={"score": 1}, next=True)
    assert repeated["next"]["lease_id"] == done["next"]["lease_id"] != first["lease_id"]


def test_another_process_of_the_same_name_gets_another_task(manager: ExperimentManager) -> None:
    with worker(manager) as one, worker(manager, instance="duplicate container") as two:
        assert one.say("request_task")["key"] != two.say("request_task")["key"]


def test_requests_of_one_process_that_overlap_get_one_lease(manager: ExperimentManager) -> None:
    def ask(number: int) -> str:
        with worker(manager) as talk:
            lease_id: str = talk.say("request_task")["lease_id"]
            return lease_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert count(manager, State.ASSIGNED) == 1


def test_a_row_that_comes_to_light_while_its_task_is_assigned_again_ends_that_lease(
    folder: Folder, manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = manager.journal.flush

    def after_a_row() -> None:
        monkeypatch.setattr(manager.journal, "flush", flush)
        folder.add_rows("1,42,0.9")
        manager.store.scan_all()
        flush()

    with worker(manager) as late, worker(manager, "gpu1") as other:
        task = late.say("request_task")
        manager.dispatcher.completion.lose(manager.queue.leases()[0], "no sign of life")
        monkeypatch.setattr(manager.journal, "flush", after_a_row)
        assert other.say("request_task")["key"] != task["key"], "its bookmark would be beyond the row"
    assert manager.queue.entry(task["key"]).state is State.COMPLETE
    assert f"Assigned task {task['task_id']} to gpu1" not in folder.log()


def test_a_lease_that_a_heartbeat_has_taken_back_is_in_the_journal(manager: ExperimentManager) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        manager.dispatcher.completion.lose(manager.queue.leases()[0], "no sign of life")
        heartbeat = {"lease_id": task["lease_id"], "key": task["key"]}
        assert talk.say("heartbeat", **heartbeat)["stop"] is False
        (record,) = manager.journal.load(TaskRecord)
    assert record.lease is not None
    assert record.lease.lease_id == task["lease_id"]


def test_a_returned_task_is_not_held_already(manager: ExperimentManager) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        talk.say("task_released", lease_id=task["lease_id"], key=task["key"])
        assert talk.say("request_task")["lease_id"] != task["lease_id"]


@pytest.mark.parametrize(("machine", "shares"), [({}, True), ({}, False), ({"machine": "other boot"}, True)])
def test_only_who_shares_host_and_folder_writes_rows(
    manager: ExperimentManager, machine: dict[str, str], shares: bool
) -> None:
    with worker(manager, shares=shares, **machine) as talk:
        assert talk.say("request_task")["writes_row"] is (shares and not machine)


def test_who_waits_is_told_when_to_ask_again_and_when_all_is_done(manager: ExperimentManager) -> None:
    with worker(manager) as one, worker(manager, "gpu1") as two:
        tasks = [one.say("request_task", instance="") for _ in range(3)]
        waits = two.say("request_task")
        assert (waits["reason"], waits["retry_after_s"]) == ("wait", 0.5)
        for task in tasks:
            one.say("task_complete", instance="", key=task["key"], result={"score": 1})
        assert two.say("request_task")["reason"] == "done"


def test_who_has_no_time_for_any_task_that_is_left_is_told_so(manager: ExperimentManager) -> None:
    with worker(manager) as one, worker(manager, "gpu1") as two:
        first = one.say("request_task", left_s=0)
        assert first["type"] == "task", "how long it takes is not known yet"
        one.say("task_complete", key=first["key"], lease_id=first["lease_id"], result={"score": 1})
        told = two.say("request_task", left_s=0)
        assert (told["reason"], told["message"]) == ("no_time", "no task that is left takes less than 0 s")
        assert count(manager, State.PENDING) == 2
        assert [two.say("request_task", left_s=3600)["type"], one.say("request_task")["type"]] == ["task"] * 2
        third = worker(manager, "gpu2")
        with third:
            assert third.say("request_task", left_s=0)["reason"] == "wait", "none is left for anybody"


# -- completion ----------------------------------------------------------------------------------------------


def test_a_hand_written_client_writes_its_row_and_reports(folder: Folder, manager: ExperimentManager) -> None:
    with by_hand(folder, manager) as talk:
        task_id = talk.say("request_task")["task_id"]
        refused = talk.say("task_complete", task_id=task_id)["error"]
        assert refused == (
            f"task_complete {task_id}: no row of it is in {folder.csv}: write the row before you "
            "report, or send a `result` with it"
        )
        folder.add_rows("1,42,0.9")
        assert talk.say("task_complete", task_id=task_id) == {"type": "ack"}
        assert talk.say("task_complete", task_id=task_id) == {"type": "ack"}
    assert folder.log().count(f"Task {task_id} completed by mine") == 1
    assert count(manager, State.COMPLETE) == 1


def test_a_worker_whose_rows_are_never_found_gets_a_task_five_times_at_most(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as talk:
        for _ in range(3 * LOSS_BUDGET):
            task = talk.say("request_task")
            reply = talk.say("task_complete", lease_id=task["lease_id"], key=task["key"])
            assert "no row of it is in" in reply["error"]
        assert talk.say("request_task")["reason"] == "done"
    assert count(manager, State.FAILED) == 3
    assert len([line for line in folder.log() if "the row that it has reported is not there" in line]) == 15


def test_a_result_that_another_worker_hands_over_names_the_one_that_computed_it(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager, shares=False, host="node7") as talk:
        task = talk.say("request_task")
        run = {"worker": "gpu3", "host": "node9"}
        talk.say("task_complete", key=task["key"], result={"score": 0.25}, run=run)
    (row,) = folder.rows()
    assert (row["worker"], row["host"]) == ("node9/gpu3", "node9")


def test_a_report_that_is_refused_for_good_is_charged_with_its_reason(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager, shares=False) as talk:
        task = talk.say("request_task")
        for attempt in range(3):
            named = {"lease_id": task["lease_id"], "key": task["key"], "sweep_id": "another"}
            assert "of another sweep" in talk.say("task_complete", **named, result={"x": 1})["error"]
            entry = manager.queue.entry(task["key"])
            assert entry.failures == attempt + 1
            assert entry.error.startswith("its result was refused: task_complete ")
            while attempt < 2 and (task := talk.say("request_task"))["key"] != entry.key:
                talk.say("task_complete", key=task["key"], result={"x": 1})
    assert entry.state is State.FAILED


def test_a_reported_result_becomes_a_row(folder: Folder, manager: ExperimentManager) -> None:
    with worker(manager, shares=False, host="node7") as talk:
        task = talk.say("request_task")
        run = {"attempt": 1, "host": "node7", "device": "H100", "duration_s": 2.5}
        talk.say("task_complete", key=task["key"], result={"score": 0.25, "ok": True}, run=run)
    (row,) = folder.rows()
    assert row == {
        **{"phase": "exp1_vary_width", "task_id": "exp1_vary_width_0_42", "width": "1", "seed": "42"},
        **{"score": "0.25", "ok": "True", "attempt": "1", "worker": "node7/gpu0", "host": "node7"},
        **{"device": "H100", "started_utc": "", "run_dir": "", "duration_s": "2.5"},
        **dict.fromkeys(CAPTURED, ""),
    }


def test_any_reported_result_becomes_a_row(folder: Folder, manager: ExperimentManager) -> None:
    with worker(manager, shares=False) as talk:
        task = talk.say("request_task")
        result = {"width": 3, "test": {"acc": 0.5}, "history": [1, None], "best": None, "note": "a\0"}
        talk.say("task_complete", key=task["key"], result=result, run={"host": "a\0b", "device": "\0"})
    (row,) = folder.rows()
    assert (row["width"], row["width_result"], row["test.acc"]) == ("1", "3", "0.5")
    assert (row["history"], row["best"], row["note"], row["device"]) == ("[1, null]", "", "a\ufffd", "\ufffd")
    manager.stop()
    with folder.serving() as restarted:
        assert restarted.dispatcher.status().complete == 1


def test_many_completions_at_once_become_one_row_each(folder: Folder) -> None:
    folder.configure(list(range(60)))
    with folder.serving() as manager:

        def work(name: str) -> None:
            with worker(manager, name, shares=False) as talk:
                reply = talk.say("request_task")
                while reply["type"] == "task":
                    for _ in range(2):  # the reply of the first was lost, as it were
                        ack = talk.say("task_complete", key=reply["key"], result={"score": 1}, next=True)
                    reply = ack["next"]

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(work, [f"gpu{n}" for n in range(12)]))
        assert count(manager, State.COMPLETE) == 60
    assert sorted(int(row["width"]) for row in folder.rows()) == list(range(60))


def test_the_late_result_wins_and_the_other_attempt_is_stopped_at_its_heartbeat(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as late, worker(manager, "gpu1", instance="") as other:
        task = late.say("request_task")
        manager.dispatcher.completion.lose(manager.queue.leases()[0], "no sign of life")
        retried = other.say("request_task")  # retries go first to another worker
        assert (retried["key"], retried["attempt"]) == (task["key"], 2)
        heartbeat = {"lease_id": retried["lease_id"], "key": task["key"]}
        assert other.say("heartbeat", **heartbeat)["stop"] is False
        late.say("task_complete", lease_id=task["lease_id"], key=task["key"], result={"score": 1})
        assert other.say("heartbeat", **heartbeat)["stop"] is True
        other.say("task_complete", **heartbeat, result={"score": 2})
    assert [row["score"] for row in folder.rows()] == ["1"]
    assert "Task exp1_vary_width_0_42 completed by gpu0" in folder.log()


def test_the_row_of_a_worker_that_died_before_its_report_counts(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as talk:
        talk.say("request_task")
        folder.add_rows("1,42,0.9")
        (lease,) = manager.queue.leases()
        manager.dispatcher.completion.lose(lease, "its process is gone")
    assert manager.queue.entry(lease.task.key).state is State.COMPLETE
    assert "Task exp1_vary_width_0_42 completed by gpu0" in folder.log()


# -- failures ------------------------------------------------------------------------------------------------


def test_a_late_failure_changes_nothing(manager: ExperimentManager) -> None:
    with worker(manager) as one, worker(manager, "gpu1", instance="") as two:
        task = one.say("request_task")
        one.say("task_released", lease_id=task["lease_id"], key=task["key"])
        assert task["key"] in [two.say("request_task")["key"] for _ in range(3)]
        for named in ({"lease_id": task["lease_id"]}, {}):  # a client may name the task alone
            reply = one.say("task_failed", key=task["key"], error="boom", **named)
            assert reply["message"] == "that lease has ended; nothing changed"
    assert manager.queue.entry(task["key"]).failures == 0


def test_an_experiment_that_cannot_be_imported_holds_its_phase_once(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as one, worker(manager, "gpu1") as two:
        tasks = [talk.say("request_task") for talk in (one, two)]
        for talk, task in zip((one, two), tasks, strict=True):
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            talk.say("task_failed", **named, cause="import", error="No module named 'absent_module'")
        waits = one.say("request_task")
        why = "absent_module:run cannot be imported: No module named 'absent_module'"
        assert (waits["reason"], waits["cannot_run"]) == ("wait", True)
        assert waits["message"] == f"phase exp1_vary_width is held: {why}"
        assert count(manager, State.PENDING) == 3
        assert [line for line in folder.log() if "cannot be imported" in line] == [
            f"Phase exp1_vary_width is held: {why}; fix it, then `resume` goes on, or an edit does"
        ]
        with RawClient(manager.port, token=folder.token) as user:
            assert user.say("status")["status"]["held_phases"] == "exp1_vary_width"
            told = user.say("show", task="exp1_vary_width_0_42")["why"]
            assert told == f"its phase is held: {why}; fix it, then `resume` goes on"
            assert user.say("resume")["message"] == "resumed exp1_vary_width"
            assert user.say("status")["status"]["held_phases"] == ""
        again = one.say("request_task")
        assert (again["code_version"], tasks[0]["code_version"]) == (1, 0)
        one.say("task_complete", key=again["key"], result={"score": 1})
    assert "Phase exp1_vary_width goes on: `resume`" in folder.log()


def test_a_worker_that_no_setup_lets_begin_hears_that_and_not_of_work_for_others(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as bad, worker(manager, "gpu1") as good:
        task = bad.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        bad.say("task_failed", **named, cause="setup", error="setup failed")
        task = good.say("request_task")
        good.say("task_complete", key=task["key"], result={"score": 1})
        waits = bad.say("request_task")
        assert (waits["reason"], waits["cannot_run"], waits["message"]) == ("wait", True, UNABLE)
        assert good.say("request_task")["type"] == "task", "the phase is not held for others"
        manager.rescan()
        assert bad.say("request_task")["message"] == UNABLE
        (folder.root / "get_data.py").write_text("# fixed\n")
        manager.rescan()
        assert bad.say("request_task")["type"] == "task"


@pytest.mark.parametrize("edited", ["configs/config_exp1.yaml", "absent_module.py", "src/lib/inner.py"])
def test_an_edit_of_config_or_code_ends_a_hold(
    folder: Folder, manager: ExperimentManager, edited: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        talk.say("task_failed", **named, cause="import", error="No module named 'absent_module'")
        (folder.root / edited).parent.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as patch:
            patch.delattr("distexp.queue.queries.Queries.page")  # it may walk through a million tasks
            manager.rescan()
        assert talk.say("request_task")["cannot_run"] is True
        with (folder.root / edited).open("a") as file:
            file.write("# fixed\n")
        manager.rescan()
        assert talk.say("request_task")["code_version"] == 1


def test_a_success_of_another_worker_ends_a_hold_and_the_log_says_so(folder: Folder) -> None:
    folder.configure(list(range(20)))
    with folder.serving() as manager, worker(manager) as bad, worker(manager, "gpu1") as good:
        for _ in range(HOLD_AFTER):
            task = bad.say("request_task")
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            bad.say("task_failed", **named, error="Traceback\nNameError: x")
        why = "5 different tasks failed and none succeeded (each: NameError: x)"
        assert bad.say("request_task")["message"] == f"phase exp1_vary_width is held: {why}"
        task = good.say("request_task")
        good.say("task_complete", key=task["key"], result={"score": 1})
        assert bad.say("request_task")["type"] == "task"
    assert [line for line in folder.log() if "Phase " in line] == [
        f"Phase exp1_vary_width is held: {why}; fix it, then `resume` goes on, or an edit does",
        f"Phase exp1_vary_width goes on: {task['task_id']} has succeeded",
    ]


def test_a_phase_is_held_by_import_also_where_the_journal_cannot_be_written(
    manager: ExperimentManager,
) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"], "cause": "import", "error": "No module"}
        manager.journal._database.execute("PRAGMA query_only=ON")
        assert talk.say("task_failed", **named)["again"] is True
        manager.journal._database.execute("PRAGMA query_only=OFF")
        assert count(manager, State.PENDING) == 3
        assert "that lease has ended" in talk.say("task_failed", **named)["message"]
    assert {record.state for record in manager.journal.load(TaskRecord)} == {"pending"}


# -- disks that refuse ---------------------------------------------------------------------------------------


def test_without_journal_nothing_is_assigned_and_losses_do_not_end_the_manager(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as talk, worker(manager, "gpu1") as other:
        talk.say("request_task")
        manager.journal._database.execute("PRAGMA query_only=ON")  # every write fails, as on a full disk
        reply = other.say("request_task")
        assert reply["again"] is True
        assert reply["error"].startswith(f"{manager.workdir.journal}: ")
        assert count(manager, State.ASSIGNED) == 1
        manager.dispatcher.completion.lose(manager.queue.leases()[0], "no sign of life")
        assert other.say("status")["status"]["pending"] == 3
        manager.journal._database.execute("PRAGMA query_only=OFF")
        for _ in range(9):
            manager.journal._database.execute("PRAGMA query_only=ON")
            assert other.say("request_task")["again"] is True
            manager.journal._database.execute("PRAGMA query_only=OFF")
        assert other.say("request_task")["attempt"] == 2, "what nobody has heard of is no attempt"
        assert talk.say("request_task")["attempt"] == 1
    manager.journal.flush()
    with pytest.raises(sqlite3.OperationalError, match="locked"):  # nobody else may write it meanwhile
        sqlite3.connect(manager.workdir.journal, timeout=0).execute("BEGIN IMMEDIATE")


def test_a_row_that_can_be_kept_nowhere_costs_nothing(folder: Folder, manager: ExperimentManager) -> None:
    folder.csv.mkdir(parents=True)  # nothing can be appended to a folder
    manager.workdir.spool.write_text("")  # nor kept in a file
    with worker(manager, shares=False) as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        refused = talk.say("task_complete", **named, result={"score": 1})
        assert refused["again"] is True
        assert refused["error"].startswith(f"{folder.csv}: cannot be written now (Is a directory)")
        (lease,) = manager.queue.leases()
        manager.dispatcher.completion.lose(lease, "no sign of life")
        assert talk.say("task_complete", **named, result={"score": 1})["again"] is True
        assert manager.queue.leases()[0].until_s > lease.until_s, "a report is a sign of life"
        assert talk.say("heartbeat", **named)["stop"] is False
        folder.csv.rmdir()
        assert talk.say("task_complete", **named, result={"score": 1}) == {"type": "ack"}
    assert [row["score"] for row in folder.rows()] == ["1"]
    assert manager.queue.entry(task["key"]).failures == 0
