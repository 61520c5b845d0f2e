"""Results that reach the manager together: one write of rows, one commit of leases, each judged by itself."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from distexp.manager.completion import Completion
from distexp.manager.manager import ExperimentManager
from distexp.queue.records import TaskRecord
from distexp.results import results_file
from distexp.system import locks
from distexp.system.group_commit import GroupCommit
from distexp.task import State
from tests.live_manager import Folder, RawClient, worker
from tests.support import poll

WORKERS = 12
OOM = "out_of_memory"

Reply = dict[str, Any]


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    folder.configure(list(range(2 * WORKERS)))
    with folder.serving() as manager:
        yield manager


@pytest.fixture
def talks(manager: ExperimentManager) -> Iterator[list[RawClient]]:
    """Workers on other machines."""
    with ExitStack() as opened:
        yield [opened.enter_context(worker(manager, f"gpu{n}", shares=False)) for n in range(WORKERS)]


def result_of(talk: RawClient) -> Callable[[], Reply]:
    """Take a task, and return what hands its result over and asks for the next one."""
    return report_of(talk, talk.say("request_task"), result={"score": 1})


def report_of(talk: RawClient, task: Reply, **result: object) -> Callable[[], Reply]:
    """Return what reports the task as complete and asks for the next one."""
    named = {"lease_id": task["lease_id"], "key": task["key"]}
    return lambda: talk.say("task_complete", **named, **result, next=True)


def is_on_its_way(batch: GroupCommit[Completion]) -> bool:
    """Whether a batch is being committed, and what comes now goes into the next one."""
    return batch._committing.locked() and not batch._open.items


def together(
    folder: Folder,
    manager: ExperimentManager,
    says: Sequence[Callable[[], Reply]],
    meanwhile: Callable[[], object] = bool,
) -> list[Reply]:
    """Let the first be on its way alone, all others wait for it, and then `meanwhile` happen."""
    folder.csv.parent.mkdir(exist_ok=True)
    batches = manager.dispatcher._batches
    with ThreadPoolExecutor(len(says)) as pool:
        with locks.acquire(f"{folder.csv}.lock"):  # another program writes
            replies = [pool.submit(says[0])]
            poll(lambda: "results_exp1" in batches and is_on_its_way(batches["results_exp1"]), "the first")
            replies += [pool.submit(say) for say in says[1:]]
            poll(lambda: len(batches["results_exp1"]._open.items) == len(says) - 1, "the others wait for it")
            meanwhile()
        return [reply.result() for reply in replies]


def test_results_that_arrive_together_cost_one_sync_of_rows_and_one_of_leases(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, leases = list[int](), list[int]()
    append, commit = results_file.append_durably, manager.journal._commits._commit
    monkeypatch.setattr(
        "distexp.results.results_file.append_durably",
        lambda path, data: writes.append(data.count(b"\n")) or append(path, data),
    )
    says = [result_of(talk) for talk in talks]
    monkeypatch.setattr(
        manager.journal._commits,
        "_commit",
        lambda records: leases.append(sum(each.state == "assigned" for each in records)) or commit(records),
    )
    replies = together(folder, manager, says)
    assert writes == [2, WORKERS - 1]  # the first line is the header
    assert leases == [1, WORKERS - 1]
    assert len({reply["next"]["key"] for reply in replies}) == WORKERS
    assert len(folder.rows()) == WORKERS
    lines = folder.log()
    for number in range(WORKERS):
        mine = [line.split(" exp1_vary_width_")[0] for line in lines if line.endswith(f"gpu{number}")]
        assert mine == ["Assigned task", "Task", "Assigned task"]


def test_one_that_is_refused_takes_nothing_from_those_beside_it(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient]
) -> None:
    with worker(manager, "local") as local:
        task = local.say("request_task")  # of which it has written no row
        replies = together(folder, manager, [*map(result_of, talks[:3]), report_of(local, task)])
    assert [reply["type"] for reply in replies] == ["ack", "ack", "ack", "error"]
    assert f"no row of it is in {folder.csv}" in replies[3]["error"]
    assert len(folder.rows()) == 3
    assert manager.queue.counts()[State.ASSIGNED] == 3
    assert manager.queue.entry(task["key"]).losses == 1


def test_rows_that_cannot_be_written_are_kept_and_hold_nobody_up(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient]
) -> None:
    says = [result_of(talk) for talk in talks[:4]]
    replies = together(folder, manager, says, folder.csv.mkdir)  # nothing can be appended to a folder
    assert [reply["type"] for reply in replies] == ["ack"] * 4
    assert len(list(manager.workdir.kept_rows.glob("*.result"))) == 4
    folder.csv.rmdir()
    manager.rescan()
    assert len(folder.rows()) == 4
    assert manager.queue.counts()[State.COMPLETE] == 4
    assert list(manager.workdir.kept_rows.glob("*.result")) == []
    assert sum(" completed by " in line for line in folder.log()) == 4


def test_a_row_that_its_worker_has_written_counts_though_those_beside_it_cannot_be_written(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker(manager, "local") as local:
        task = local.say("request_task")
        says = [*map(result_of, talks[:3]), report_of(local, task)]
        folder.add_rows(f"{task['config']['width']},42,1")

        def full(path: object, data: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("distexp.results.results_file.append_durably", full)
        replies = together(folder, manager, says)
    assert [reply["type"] for reply in replies] == ["ack"] * 4
    assert replies[3]["next"]["type"] == "task"
    assert [row["score"] for row in folder.rows()] == ["1"]


def test_a_lease_that_ends_while_it_is_written_down_is_not_handed_out(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    says, commit = [result_of(talk) for talk in talks[:4]], manager.journal._commits._commit

    def meet_a_late_row(records: list[TaskRecord]) -> None:
        assigned = [record.key for record in records if record.state == State.ASSIGNED]
        if len(assigned) == 3:  # of those who came together
            manager.queue.complete(assigned[1])
        commit(records)

    monkeypatch.setattr(manager.journal._commits, "_commit", meet_a_late_row)
    replies = together(folder, manager, says)
    given = [reply["next"]["key"] for reply in replies]
    assert len(set(given)) == 4
    assert {lease.task.key for lease in manager.queue.leases()} == set(given)
    assert manager.queue.counts()[State.COMPLETE] == 5


def test_without_journal_the_rows_count_and_no_lease_is_left_behind(
    folder: Folder, manager: ExperimentManager, talks: list[RawClient]
) -> None:
    says = [result_of(talk) for talk in talks[:4]]
    journal = manager.journal._database
    replies = together(folder, manager, says, lambda: journal.execute("PRAGMA query_only=ON"))
    assert [(reply["type"], reply["again"]) for reply in replies] == [("error", True)] * 4
    assert [manager.queue.counts()[state] for state in (State.COMPLETE, State.ASSIGNED)] == [4, 0]
    journal.execute("PRAGMA query_only=OFF")
    assert len({say()["next"]["key"] for say in says}) == 4, "a report that is repeated is acknowledged again"
    assert len(folder.rows()) == 4


def test_a_run_that_diverged_ends_with_its_row_also_where_the_client_writes_nan_as_python_does(
    folder: Folder, manager: ExperimentManager
) -> None:
    with RawClient(manager.port, token=folder.token, worker_id="mine") as mine:
        task = mine.say("request_task")
        result = {"val_loss": float("nan"), "norm": float("inf"), "acc": 0.1}
        assert mine.say("task_complete", task_id=task["task_id"], result=result)["type"] == "ack"
    [row] = folder.rows()
    assert (row["val_loss"], row["norm"], row["acc"]) == ("nan", "inf", "0.1")


# -- a results file that cannot be opened for a moment -----------------------------------------------------


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Let a folder stand in the place of a file: it is there, and nobody can read it."""
    aside = path.with_name("aside.csv")
    path.rename(aside)
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


@contextmanager
def row_unreported(
    folder: Folder, manager: ExperimentManager, **about: float
) -> Iterator[tuple[RawClient, Reply]]:
    """A worker that has written the row of its task and not reported it."""
    with worker(manager, "local", **about) as local:
        task = local.say("request_task")
        folder.add_rows(row_of(task))
        yield local, task


@pytest.fixture
def overdue(folder: Folder) -> Iterator[tuple[ExperimentManager, Reply]]:
    """A manager that ends when all is done; its task is overdue, and the row of that cannot be read."""
    folder.configure([1])
    with folder.serving(exit_when_done=True) as manager:
        with row_unreported(folder, manager, heartbeat_s=0.001) as (_, task):
            pass  # it is gone
        with unreadable(folder.csv):
            poll(lambda: manager.queue.overdue(manager.queue.now_s()), "its lease to be overdue")
            manager.run_once()
            yield manager, task


def row_of(task: Reply) -> str:
    return f"{task['config']['width']},42,1"


def test_the_third_full_disk_that_a_task_meets_is_a_failure_whichever_workers_it_met_them_on(
    folder: Folder,
) -> None:
    folder.configure([1])

    def meets_full_disk(name: str) -> tuple[State, int, int]:
        with folder.serving() as manager, worker(manager, name) as talk:
            task = talk.say("request_task")
            named = {"lease_id": task["lease_id"], "key": task["key"]}
            why = "results_exp1: disk full or read-only: No space left on device"
            assert talk.say("task_released", **named, reason=why, cause="disk_full")["type"] == "ack"
            entry = manager.queue.entry(task["key"])
            return entry.state, entry.failures, entry.losses

    assert meets_full_disk("gpu0") == (State.PENDING, 0, 0)
    assert meets_full_disk("gpu1") == (State.PENDING, 0, 0)
    assert meets_full_disk("gpu2") == (State.PENDING, 1, 0)
    assert any("No space left on device, 3 times now" in line for line in folder.log())


def test_a_report_whose_file_cannot_be_read_is_asked_for_again_and_costs_nothing(
    folder: Folder, manager: ExperimentManager
) -> None:
    with row_unreported(folder, manager) as (local, task):
        with unreadable(folder.csv):
            refused = report_of(local, task)()
            assert (refused["type"], refused["again"]) == ("error", True)
            assert f"{folder.csv}: cannot be read now" in refused["error"]
            assert manager.queue.entry(task["key"]).state is State.ASSIGNED
        reply = report_of(local, task)()
    assert reply["type"] == "ack"
    assert reply["next"]["key"] != task["key"]
    assert manager.queue.entry(task["key"]).losses == 0
    assert sum(task["task_id"] in line and " completed by local" in line for line in folder.log()) == 1


def test_a_worker_that_is_gone_loses_its_task_only_once_its_file_was_read(
    folder: Folder, manager: ExperimentManager
) -> None:
    with row_unreported(folder, manager) as (_, task):
        [lease] = manager.queue.leases()
        with unreadable(folder.csv):
            manager.dispatcher.completion.lose(lease, "its process is gone")
            assert manager.queue.is_live(lease)
        manager.dispatcher.completion.lose(lease, "its process is gone")
    entry = manager.queue.entry(task["key"])
    assert (entry.state, entry.losses) == (State.COMPLETE, 0)


def test_a_second_attempt_waits_until_the_file_can_be_read_and_other_tasks_go_on(folder: Folder) -> None:
    folder.configure([1])
    (folder.root / "configs" / "config_exp2.yaml").write_text(
        "b: {defaults: {experiment: 'm:run', output_dir: results_b}, combinations: [{depth: [1]}]}"
    )
    with folder.serving() as manager, worker(manager, "one") as one, worker(manager, "two") as two:
        task = one.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        one.say("task_failed", **named, error="exit code 1")
        folder.add_rows(row_of(task))
        with unreadable(folder.csv):
            assert two.say("request_task")["phase"] == "b"
            assert one.say("request_task")["reason"] == "wait"
            entry = manager.queue.entry(task["key"])
            assert (entry.state, entry.attempts) == (State.PENDING, 1)
        manager.rescan()
        assert manager.queue.entry(task["key"]).state is State.COMPLETE


def test_a_manager_does_not_wait_for_ever_for_a_lost_task_whose_file_stays_unreadable(
    folder: Folder, overdue: tuple[ExperimentManager, Reply]
) -> None:
    manager, task = overdue
    assert not manager._is_done
    manager.rescan()
    manager._ending._exit_at_s = manager._ending._stays_until_s = 0.0
    manager.run_once()
    assert manager._is_done
    assert manager.queue.entry(task["key"]).losses == 0
    why = f"Stopping with 1 tasks pending: {folder.csv}: cannot be read now"
    assert any(line.startswith(why) for line in folder.log())


def test_a_worker_that_comes_back_while_its_file_cannot_be_read_is_waited_for(
    overdue: tuple[ExperimentManager, Reply],
) -> None:
    manager, task = overdue
    manager.rescan()
    manager.run_once()
    with worker(manager, "local") as local:
        assert not local.say("heartbeat", lease_id=task["lease_id"], key=task["key"])["stop"]
        manager.run_once()
        assert not manager.dispatcher.is_ending
        manager._ending._exit_at_s = manager._ending._stays_until_s = 0.0
        manager.run_once()
        assert not manager._is_done


# -- want of memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "gpus", "state", "cause"),
    [
        ("python: exit code 1; last output: torch.OutOfMemoryError: CUDA out of memory.", 1, "failed", OOM),
        ("train.py:9: XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", 1, "failed", OOM),
        ("train.py:9: XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", 0, "pending", "error"),
        ("train.py:9: ValueError: no such width", 1, "pending", "error"),
    ],
    ids=["a program", "JAX", "JAX on the CPU", "another error"],
)
def test_want_of_a_gpus_memory_that_only_words_tell_of_is_not_tried_again_on_an_equal_device(
    manager: ExperimentManager, error: str, gpus: int, state: str, cause: str
) -> None:
    with worker(manager, memory_mib=24_000, gpus=gpus) as talk:
        task = talk.say("request_task")
        talk.say("task_failed", lease_id=task["lease_id"], key=task["key"], error=error, cause="error")
    entry = manager.queue.entry(task["key"])
    assert (entry.state, entry.failures, entry.cause, entry.error) == (state, 1, cause, error)
