import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from distexp.errors import ConfigError, UserError
from distexp.manager.manager import ExperimentManager
from distexp.system import locks
from distexp.system.process import ProcessMark
from distexp.task import State
from distexp.workdir import Workdir, write_private
from experiment_manager import ExperimentManager as PublicManager
from tests.live_manager import CONFIG, PATIENCE_S, Folder, RawClient, secret_of, worker
from tests.row_cases import a_task
from tests.support import Clock, poll

OPENED: list[str] = []  # files opened in this process while `recording` is in use
_FOREIGN: list[set[threading.Thread]] = []  # while it is: the threads that earlier tests may have left


def _record(event: str, args: tuple[Any, ...]) -> None:
    if _FOREIGN and event == "open" and threading.current_thread() not in _FOREIGN[0]:
        OPENED.append(str(args[0]))


sys.addaudithook(_record)


@pytest.fixture
def recording() -> Iterator[list[str]]:
    OPENED.clear()
    _FOREIGN.append({*threading.enumerate()} - {threading.current_thread()})
    yield OPENED
    _FOREIGN.clear()


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


def counts(manager: ExperimentManager) -> dict[str, int]:
    return {state.value: number for state, number in manager.queue.counts().items() if number}


# -- starting ------------------------------------------------------------------------------------------------


def test_without_auth_only_this_machine_is_served(folder: Folder) -> None:
    manager = PublicManager(host="0.0.0.0", port=0, workdir=folder.root, auth=False)
    with pytest.raises(UserError) as refusal:
        manager.start()
    assert str(refusal.value) == (
        "--no-auth with --host 0.0.0.0: other machines reach this address, and anybody there could "
        "take tasks and write results; leave out one of the two flags"
    )


def test_the_log_tells_what_workers_on_other_machines_need(folder: Folder) -> None:
    with folder.serving(host="0.0.0.0") as manager:
        port = manager.port
    needed = f"Workers on other machines need a copy of {folder.root}/.experiment_manager/token"
    assert (
        f"{needed}; they start by `distexp worker HOST {port}`, with --fetch where your code is not"
        in folder.log()
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b"])
def test_a_host_that_is_none_is_named(folder: Folder, host: str) -> None:
    with pytest.raises(UserError, match=f"^--host {host}: .*, give an address of this host$"):
        PublicManager(host=host, port=0, workdir=folder.root).start()


def test_the_log_counts_tasks_and_rows_word_for_word(folder: Folder) -> None:
    folder.configure(list(range(48)), CONFIG + "    - seed: [1, 2, 3, 4, 5]\n")
    folder.add_rows(*(f"{width},{seed},0.5" for width in range(9) for seed in range(1, 6)))
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 195, "complete": 45}
    assert folder.log()[:2] == ["Generated 240 total tasks", "Marked 45 tasks as already completed"]


def test_a_start_that_fails_holds_nothing(folder: Folder) -> None:
    Workdir(folder.root).make_state()
    write_private(folder.root / ".experiment_manager" / "token", "{}")
    with pytest.raises(UserError, match="holds no token"):
        ExperimentManager(port=0, workdir=folder.root).start()
    folder.root.joinpath(".experiment_manager", "token").unlink()
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 3}


def test_the_garbage_collector_passes_over_a_sweep_until_the_manager_stops(folder: Folder) -> None:
    folder.configure([1, 2])
    with folder.serving() as manager:
        assert not any(
            each is entry for each in gc.get_objects() for entry in manager.queue._entries.values()
        )
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_results_files_of_any_content_get_one_warning_each_and_the_manager_serves(folder: Folder) -> None:
    kinds = ["torn", "binary", "foreign", "short", "latin1", "good"]
    folder.configure([1, 2], CONFIG.replace("results_exp1", "results_{{kind}}") + f"    - kind: {kinds}\n")
    contents = {
        "torn": b"width,kind,seed,score\n1,torn,42,0.5\n2,torn",
        "binary": bytes(range(256)) * 40,
        "foreign": b"epoch,loss\n1,0.5\n2,0.25\n",
        "short": b"width,kind,seed,score\n1,short\n2,short,42,0.5\n",
        "latin1": b"width,kind,seed,score\n1,latin1,42,caf\xe9\n2,latin1,42,0.5\n",
        "good": b"score,seed,extra,kind,width\n0.5,42,x,good,1.0\n0.5,42,,good,2\n",
    }
    for kind, content in contents.items():
        (folder.root / f"results_{kind}").mkdir()
        (folder.root / f"results_{kind}" / "final_results.csv").write_bytes(content)
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 7, "complete": 5}
        manager.rescan()
        manager.rescan()
        log = folder.log()
        for kind in ("binary", "foreign", "short", "latin1"):
            assert len([line for line in log if f"results_{kind}/final_results.csv" in line]) == 1, kind
        assert (folder.root / "results_torn" / "final_results.csv.torn").read_bytes() == b"2,torn\n"
        with worker(manager) as talk:
            assert talk.say("request_task")["type"] == "task"


# -- looking again -------------------------------------------------------------------------------------------


def test_an_idle_rescan_of_240_tasks_opens_no_file(folder: Folder, recording: list[str]) -> None:
    folder.configure(list(range(240)), CONFIG.replace("results_exp1", "results_{{width}}"))
    for width in range(0, 240, 40):
        (folder.root / f"results_{width}").mkdir()
        path = folder.root / f"results_{width}" / "final_results.csv"
        path.write_text(f"width,seed\n{width},42\n", encoding="utf-8")
    with folder.serving() as manager:
        manager.rescan()
        recording.clear()
        manager.rescan()
        assert recording == []
        path.write_text("width,seed\n7,7\n", encoding="utf-8")
        manager.rescan()
        assert set(recording) == {str(path)}


def test_rows_of_another_program_are_taken_up_and_vanished_ones_not_rerun(
    folder: Folder, manager: ExperimentManager
) -> None:
    folder.add_rows("1,42,0.5", "2,42,0.5")
    manager.rescan()
    assert counts(manager) == {"pending": 1, "complete": 2}
    folder.csv.write_text("width,seed,score\n2,42,0.5\n", encoding="utf-8")
    manager.rescan()
    manager.rescan()
    assert counts(manager) == {"pending": 1, "complete": 2}
    assert [line for line in folder.log() if "vanished" in line] == [
        "Rows of 1 complete tasks have vanished (exp1_vary_width_0_42); `requeue --missing` runs them again"
    ]


def test_a_kept_row_of_no_task_of_the_sweep_may_vanish(folder: Folder, manager: ExperimentManager) -> None:
    left = a_task(width=9)
    manager.store.append([(left, {"acc": "1"})])
    (folder.root / left.output_dir / "final_results.csv").write_text("width,seed,acc\n", encoding="utf-8")
    manager.rescan()
    manager.rescan()
    assert [line for line in folder.log() if "vanished" in line] == [
        f"Rows of 1 complete tasks have vanished ({left.key}); `requeue --missing` runs them again"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files to reach")
def test_a_rescan_that_cannot_open_the_folder_is_tried_again(folder: Folder) -> None:
    with folder.serving(rescan_s=0.0) as manager:
        import resource  # not on Windows

        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        folder.add_rows("1,42,0.5")
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            manager.run_once()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert counts(manager) == {"pending": 3}
        manager.run_once()
        assert counts(manager) == {"pending": 2, "complete": 1}
    assert [line for line in folder.log() if "the next rescan tries again" in line]


def test_a_restart_runs_tasks_again_whose_rows_have_vanished(folder: Folder) -> None:
    folder.add_rows("1,42,0.5", "2,42,0.5")
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 1, "complete": 2}
    folder.csv.unlink()
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 3}


def test_edited_configs_add_and_withdraw_tasks_and_leave_finished_ones(
    folder: Folder, manager: ExperimentManager
) -> None:
    folder.add_rows("1,42,0.5")
    manager.rescan()
    folder.configure([3, 4, 5])
    manager.rescan()
    assert counts(manager) == {"complete": 1, "withdrawn": 1, "pending": 3}
    assert "Configs changed: generated 3 total tasks (2 new, 1 withdrawn)" in folder.log()
    folder.configure([2, 3])
    manager.rescan()
    assert counts(manager) == {"complete": 1, "withdrawn": 2, "pending": 2}


@pytest.mark.parametrize(
    ("row", "header", "rule"),
    [
        ("grid,1,42", "phase,width,seed", "renamed_from: {phase: [grid]}"),
        ("1,42", "breadth,seed", "renamed_from: {width: [breadth]}"),
        ("exp1_vary_width,42", "phase,seed", "assume: {width: 1}"),
    ],
)
def test_an_edit_that_lets_more_rows_count_is_taken_up(
    folder: Folder, manager: ExperimentManager, row: str, header: str, rule: str
) -> None:
    folder.add_rows(row, header=header)
    manager.rescan()
    assert counts(manager) == {"pending": 3}
    folder.configure([1, 2, 3], CONFIG + "  " + rule.replace("{", "{{").replace("}", "}}") + "\n")
    manager.rescan()
    assert counts(manager) == {"pending": 2, "complete": 1}


def test_tasks_that_join_with_their_row_on_disk_are_never_assigned(
    folder: Folder, manager: ExperimentManager
) -> None:
    folder.add_rows("8,42,0.5", "9,42,0.5")
    folder.configure([8, 9])
    manager.rescan()
    assert counts(manager) == {"withdrawn": 3, "complete": 2}


def test_a_broken_edit_changes_nothing_and_is_said_once(folder: Folder, manager: ExperimentManager) -> None:
    folder.configure(7)
    manager.rescan()
    manager.rescan()
    assert counts(manager) == {"pending": 3}
    said = "configs/config_exp1.yaml:5: exp1_vary_width.combinations[0].width: must be a list"
    assert len([line for line in folder.log() if line.startswith(said)]) == 1
    folder.configure([1])
    manager.rescan()
    assert counts(manager) == {"pending": 1, "withdrawn": 2}


@pytest.mark.parametrize("shares", [True, False], ids=["writes its row", "sends its result"])
def test_a_task_withdrawn_while_it_runs_finishes_and_its_row_is_kept(
    folder: Folder, manager: ExperimentManager, shares: bool
) -> None:
    with worker(manager, shares=shares) as talk:
        task = talk.say("request_task")
        folder.configure([2, 3])
        manager.rescan()
        if shares:
            folder.add_rows("1,42,0.5")
        result = {} if shares else {"result": {"score": 0.5}}
        assert talk.say("task_complete", key=task["key"], **result) == {"type": "ack"}
    assert counts(manager) == {"complete": 1, "pending": 2}
    assert [row["width"] for row in folder.rows()] == ["1"]


def test_a_task_whose_folder_is_edited_while_it_runs_finishes_where_it_was_assigned(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager) as talk:
        task = talk.say("request_task")
        folder.configure([1, 2, 3], CONFIG.replace("results_exp1", "results_new"))
        manager.rescan()
        folder.add_rows("1,42,0.5")
        assert talk.say("task_complete", lease_id=task["lease_id"], key=task["key"]) == {"type": "ack"}
        assert talk.say("request_task")["output_dir"] == "results_new"


def test_failures_survive_a_restart_until_they_are_to_be_retried(folder: Folder) -> None:
    folder.configure([1])
    with folder.serving() as manager, worker(manager) as talk:
        for _ in range(3):
            task = talk.say("request_task")
            talk.say("task_failed", lease_id=task["lease_id"], key=task["key"], error="Traceback\nboom")
        assert counts(manager) == {"failed": 1}
    with folder.serving() as manager:
        assert counts(manager) == {"failed": 1}
    known = "1 task failed earlier and stay failed (--retry-failed runs them again): boom"
    assert known in folder.log()
    with folder.serving(retry_failed=True) as manager:
        assert counts(manager) == {"pending": 1}
        assert manager.queue.entry(task["key"]).failures == 0


def test_leases_survive_a_restart(folder: Folder) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
    with folder.serving() as manager, worker(manager) as talk:
        assert counts(manager) == {"assigned": 1, "pending": 2}
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        assert talk.say("heartbeat", **named)["stop"] is False
        assert talk.say("task_complete", **named, result={"score": 1}, sweep_id=task["sweep_id"]) == {
            "type": "ack"
        }
        refused = talk.say("task_complete", **named, result={"score": 1}, sweep_id="another")
        assert "the result is of another sweep (another)" in refused["error"]
    assert manager.queue.entry(task["key"]).state is State.COMPLETE


def test_a_kept_result_is_welcome_after_the_journal_was_moved_away(folder: Folder) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
    manager.workdir.journal.unlink()
    with folder.serving() as manager, worker(manager) as talk:
        named = {"lease_id": task["lease_id"], "key": task["key"], "sweep_id": task["sweep_id"]}
        assert talk.say("task_complete", **named, result={"score": 1}) == {"type": "ack"}


# -- when nothing more can be done ---------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "waits"), [([1], True), ([2], False)])
def test_only_workers_of_an_earlier_manager_with_a_task_of_this_sweep_are_waited_for(
    folder: Folder, widths: list[int], waits: bool
) -> None:
    folder.configure([1])
    with folder.serving() as manager, worker(manager) as talk:
        talk.say("request_task")
    folder.configure(widths)
    with folder.serving() as manager:
        assert (manager._ending._stays_until_s > 0) is waits


def test_what_no_worker_that_is_left_has_the_memory_for_fails(folder: Folder) -> None:
    folder.configure([1])
    with folder.serving() as manager, worker(manager, memory_mib=8000) as small:
        with worker(manager, "gpu1", memory_mib=16000) as large:
            large.say("heartbeat")
            task = small.say("request_task")
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            small.say("task_failed", **named, cause="out_of_memory", error="too big")
            manager.rescan()
            assert small.say("request_task")["reason"] == "wait"
            manager._registry.drain("gpu1")
            manager.rescan()
        assert small.say("request_task")["reason"] == "done"
        assert manager.queue.entry(task["key"]).error == "too big"
    assert (
        "Task exp1_vary_width_0_42 failed: it ran out of memory with 8000 MiB, "
        "and no worker that is left has more"
    ) in folder.log()


def test_exit_when_done_ends_a_sweep_whose_last_worker_cannot_import_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.manager.ending.EXIT_WAIT_S", 0.0)
    manager = ExperimentManager(port=0, workdir=folder.root, exit_when_done=True)
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(manager.serve)
        poll(
            lambda: manager.workdir.log.exists() and "Manager serves" in manager.workdir.log.read_text(), "up"
        )
        with worker(manager) as bad, worker(manager, "gpu1") as good:
            task = bad.say("request_task")
            done = good.say("request_task")
            good.say("task_complete", key=done["key"], result={"score": 1})
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            bad.say("task_failed", **named, cause="import", error="No module")
            assert bad.say("request_task")["message"].startswith("cannot import absent_module:run")
            manager._registry.drain("gpu1")
            assert code.result(PATIENCE_S) == 1
    assert "Stopping with 2 tasks pending: no worker that is left can import their experiment" in folder.log()


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_manager_that_is_done_stays_until_a_worker_that_waits_for_a_gpu_has_heard_it_30_s_at_most(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, asks_again: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr("distexp.manager.ending.time", SimpleNamespace(monotonic=clock))
    folder.configure([1])
    with folder.serving(exit_when_done=True) as manager, RawClient(manager.port) as waiting:
        assert not waiting.say("status", token=secret_of(manager))["status"]["done"]
        with worker(manager, shares=False) as other:
            task = other.say("request_task")
            other.say("task_complete", key=task["key"], result={"score": 1})
            assert other.say("request_task")["reason"] == "done"
        poll(lambda: not manager._registry.connected(), "no other worker")
        manager.run_once()
        clock.advance(29.0)
        manager.run_once()
        assert not manager._is_done
        if asks_again:
            assert waiting.say("status", token=secret_of(manager))["status"]["done"]
        else:
            clock.advance(1.0)
        manager.run_once()
        assert manager._is_done  # also where it stays: perhaps it only shows how far the sweep is


def test_all_problems_of_all_configs_are_raised_at_once(folder: Folder) -> None:
    folder.configure(7)
    folder.configure("[]", name="config_exp2.yaml")
    with pytest.raises(ConfigError) as refusal:
        ExperimentManager(port=0, workdir=folder.root).start()
    assert [problem.split(":")[0] for problem in refusal.value.problems] == [
        *["configs/config_exp1.yaml", "configs/config_exp2.yaml"]
    ]


def test_a_task_that_outlives_its_killed_worker_is_not_assigned_and_named_until_it_has_ended(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.manager.workers.STUCK_S", 0.0)
    monkeypatch.setattr("distexp.manager.dispatch.TASK_ENDS_S", 0.1)
    folder.configure([1])
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    manager = ExperimentManager(port=0, workdir=folder.root, exit_when_done=True)
    with ThreadPoolExecutor(1) as pool, locks.acquire(manager.workdir.task_lock(mark)) as watcher:
        watcher.note("pid 4711")
        code = pool.submit(manager.serve)
        log = manager.workdir.log
        poll(lambda: log.exists() and "Manager serves" in log.read_text(), "up")
        with worker(manager, pid=process.pid) as dead:
            task = dead.say("request_task")
            process.kill()
            process.communicate()
        told = "is not assigned again: its worker gpu0 has died, and pid 4711 of the task does not end"
        poll(lambda: told in log.read_text(), "the log names the process")
        with worker(manager, "gpu1") as other:
            assert other.say("request_task")["type"] == "no_task"
        with RawClient(manager.port, token=secret_of(manager)) as user:
            why = user.say("show", task=task["task_id"])["why"]
        assert why.startswith("its worker gpu0 has died, and pid 4711 of the task does not end")
        assert code.result(PATIENCE_S) == 1, "the task counts as one that cannot run"
    why = "their workers have died, and their processes do not end"
    assert f"Stopping with 1 tasks pending: {why}" in folder.log()
    with folder.serving() as manager, worker(manager, "gpu1") as other:
        manager.run_once()
        assert other.say("request_task")["attempt"] == 2
