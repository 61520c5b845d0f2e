"""Who a worker is, and when it gets no more tasks. Beside it, whether its process is there."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distexp.manager.completion import CompletionHandler
from distexp.manager.forecast import Forecaster
from distexp.manager.workers import EXCLUDE_AFTER, LIVE_S, Worker, WorkerRegistry
from distexp.queue.entry import WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.system.process import ProcessMark, host_name, machine_id
from distexp.task import State
from distexp.wire import messages as wire
from tests.row_cases import a_task
from tests.support import Clock

TASK = a_task()
GPU0, GPU1 = WorkerInfo("gpu0"), WorkerInfo("gpu1")


class Office:
    """A registry of workers and its clock."""

    def __init__(self) -> None:
        self.clock, self.widths = Clock(), itertools.count(2)
        self.registry = WorkerRegistry(host="here", machine="boot/pid", nonce="n0nce", clock=self.clock)

    def greet(self, worker_id: str = "gpu0", connection: int = 1, **about: Any) -> Worker:
        return self.registry.register(wire.RequestTask(worker_id=worker_id, **about), connection)

    def fails(self, name: str, times: int = EXCLUDE_AFTER) -> str:
        """Let the worker fail as many new tasks and return why it gets no more."""
        for _ in range(times):
            self.registry.failed(WorkerInfo(name), a_task(width=next(self.widths)))
        return self.registry.exclusion(self.greet(name))


def test_a_worker_of_another_host_is_named_after_it() -> None:
    office = Office()
    names = [office.greet("gpu0", host=host).name for host in ("here", "", "node7")]
    assert names == ["gpu0", "gpu0", "node7/gpu0"]
    assert [worker.name for worker, _ in office.registry.all()] == ["gpu0", "node7/gpu0"]


def test_a_worker_with_other_code_is_told_once_per_commit(caplog: pytest.LogCaptureFixture) -> None:
    office = Office()
    ours, theirs = "a" * 40, "b" * 40
    asked = []
    here = office.greet("gpu3", 4, machine="boot/pid", nonce="n0nce", git_commit=theirs)
    office.registry.compare_commits(lambda: asked.append("git") or ours)
    assert asked == [], "nobody is elsewhere"
    same, old = office.greet("gpu0", git_commit=ours), office.greet("gpu1", 2)
    for _ in range(2):
        other = office.greet("gpu2", 3, host="box7", git_commit=theirs)
        office.registry.compare_commits(lambda: ours)
    assert [office.registry.has_other_commit(each) for each in (same, old, other)] == [False, False, True]
    assert [record.message for record in caplog.records] == [
        "Worker box7/gpu2: found git commit bbbbbbbbbb in its folder, expected aaaaaaaaaa as in the "
        "manager's; its rows hold the worker's (git_commit)"
    ]
    office.greet("gpu2", 3, host="box7", git_commit="c" * 40)
    office.registry.compare_commits(lambda: ours)
    assert len(caplog.records) == 2
    assert not office.registry.has_other_commit(here), "it reads the manager's own folder, a moment earlier"


def test_a_worker_that_only_fails_where_others_succeed_gets_no_more() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    office.registry.completed(GPU1, TASK)
    assert office.fails("gpu0", EXCLUDE_AFTER - 1) == ""
    assert office.fails("gpu0", 1) == "3 failures in a row where other workers succeed"
    assert office.registry.exclusion(office.greet("gpu1", 2)) == ""
    assert office.registry.exclusion(office.greet("gpu0", instance="restarted")) == ""


def test_a_success_in_between_clears_the_slate() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    office.registry.completed(GPU1, TASK)
    office.fails("gpu0", EXCLUDE_AFTER - 1)
    office.registry.completed(GPU0, TASK)
    assert office.fails("gpu0", EXCLUDE_AFTER - 1) == ""
    worker, _ = office.registry.all()[0]
    assert (worker.completed, worker.failed) == (1, 4)


@pytest.mark.parametrize("winner", [None, "gpu0"])
def test_nobody_is_excluded_where_no_other_worker_succeeds(winner: str | None) -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    if winner:
        office.registry.completed(WorkerInfo(winner), TASK)
    assert office.fails("gpu0", 10) == ""


def test_nobody_is_excluded_for_another_phase() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    office.registry.completed(GPU1, a_task(phase="exp2"))
    assert office.fails("gpu0", 10) == ""


def test_tasks_that_fail_everywhere_exclude_nobody_for_long() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    office.registry.completed(GPU0, TASK), office.registry.completed(GPU1, TASK)
    corner = [a_task(width=width) for width in (7, 8, 9)]
    for task in corner:
        office.registry.failed(GPU0, task)
        office.registry.failed(GPU0, task)
    assert (
        office.registry.exclusion(office.greet("gpu0")) == "3 failures in a row where other workers succeed"
    )
    office.registry.failed(GPU1, corner[0])
    assert office.registry.exclusion(office.greet("gpu0")) == "", "it is the task"
    for task in corner[1:]:
        office.registry.failed(GPU1, task)
    assert office.fails("gpu1", EXCLUDE_AFTER - 1) == "", "none of the others speaks against it"


def test_two_bad_machines_do_not_excuse_each_other_once_a_third_succeeds() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2), office.greet("gpu2", 3)
    office.registry.completed(WorkerInfo("gpu2"), TASK)
    tasks = [a_task(width=width) for width in (7, 8, 9)]
    for task in tasks:
        office.registry.failed(GPU0, task), office.registry.failed(GPU1, task)
    assert office.registry.exclusion(office.greet("gpu0")) == ""
    for task in tasks:
        office.registry.completed(WorkerInfo("gpu2"), task)
    assert all(office.registry.exclusion(office.greet(name)) for name in ("gpu0", "gpu1"))


def test_the_last_worker_keeps_its_tasks() -> None:
    office = Office()
    office.greet("gpu0"), office.greet("gpu1", 2)
    office.registry.completed(GPU1, TASK)
    assert office.fails("gpu0") != ""
    office.clock.advance(LIVE_S + 1)
    assert office.registry.exclusion(office.greet("gpu0")) == "", "gpu1 has not been heard of for a minute"
    office.greet("gpu1", 2)
    assert office.registry.exclude(office.greet("gpu2", 3).info, "cannot import it")
    office.clock.advance(LIVE_S + 1)
    assert office.registry.exclusion(office.greet("gpu0")) == "", "it is better than none"
    assert office.registry.exclusion(office.greet("gpu2", 3)) == "cannot import it", "this one is not"


def test_there_is_no_fit_worker_left_when_all_live_ones_cannot_import() -> None:
    office = Office()
    assert not office.registry.are_all_excluded(), "nobody is there yet"
    office.greet("gpu1", 2)
    assert office.registry.exclude(office.greet("gpu0").info, "cannot import it")
    assert not office.registry.are_all_excluded()
    office.clock.advance(LIVE_S + 1)
    office.greet("gpu0")
    assert office.registry.are_all_excluded()


def test_two_processes_of_one_name_are_two_workers() -> None:
    office = Office()
    one, _ = (office.greet("cpu0", number, instance=f"{number}") for number in (1, 2))
    office.registry.completed(one.info, TASK)
    assert [worker.completed for worker, _ in office.registry.all()] == [1, 0]
    assert office.registry.drain("cpu0")
    assert all(office.greet("cpu0", number, instance=f"{number}").drained for number in (1, 2))
    office.registry.disconnect(one.info.connection or 0)
    office.clock.advance(LIVE_S + 1)
    office.greet("cpu0", 3, instance="3")
    assert [worker.instance for worker, _ in office.registry.all()] == ["2", "3"], "the first is long gone"


def test_the_memory_of_live_workers_alone_counts() -> None:
    office = Office()
    office.greet("gpu0", memory_mib=8000), office.greet("gpu1", 2, memory_mib=16000)
    assert office.registry.largest_mib() == 16000
    office.registry.drain("gpu1")
    assert office.registry.largest_mib() == 8000
    office.clock.advance(LIVE_S + 1)
    office.greet("gpu0", memory_mib=8000)
    assert office.registry.largest_mib() == 8000
    office.registry.drain("gpu0")
    assert office.registry.largest_mib() == 0
    office.clock.advance(LIVE_S + 1)
    assert office.registry.largest_mib() is None


def test_who_shares_the_folder_and_the_machine_writes_rows_itself() -> None:
    office = Office()
    assert office.greet("a", machine="boot/pid", nonce="n0nce").info.shares_folder
    assert not office.greet("b", machine="boot/pid", nonce="another").info.shares_folder
    assert not office.greet("c", machine="other", nonce="n0nce").info.shares_folder
    assert not office.greet("d").info.shares_folder
    without_nonce = WorkerRegistry(host="here", machine="boot/pid", nonce="", clock=Clock())
    request = wire.RequestTask(worker_id="a", machine="boot/pid")
    assert not without_nonce.register(request, 1).info.shares_folder


def test_a_worker_is_dead_when_its_connection_broke_and_its_process_is_gone() -> None:
    office = Office()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = {"machine": "boot/pid", "nonce": "n0nce", "pid": process.pid}
    gpu0 = office.greet("gpu0", **here).info
    far = office.greet("far", 2, **here | {"machine": "elsewhere"}).info
    copy = office.greet("copy", 3, **here | {"nonce": "another"}).info
    duplicate = office.greet("gpu0", 4, instance="duplicate", **here | {"pid": os.getpid()}).info
    for number in (1, 2, 3, 4):
        office.registry.disconnect(number)
    assert not office.registry.has_died(gpu0)
    process.kill()
    process.communicate()
    assert office.registry.has_died(gpu0)
    assert not office.registry.has_died(far), "its pid means nothing here"
    assert not office.registry.has_died(copy), "it has not shown that it is on this host"
    assert not office.registry.has_died(duplicate), "it has the same name, but is another process"
    assert not office.registry.has_died(WorkerInfo("nobody"))
    office.greet("gpu0", 3, **here)
    assert not office.registry.has_died(gpu0), "it speaks, so it lives"


def test_a_process_that_has_ended_but_was_not_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert mark.is_gone()
    process.communicate()
    assert mark.is_gone()
    assert ProcessMark.of(process.pid) is None


def test_a_later_process_with_the_same_pid_is_not_mistaken_for_the_first() -> None:
    mine = ProcessMark.of(os.getpid())
    assert mine is not None
    assert not mine.is_gone()
    assert ProcessMark(mine.pid, mine.started - 1).is_gone()


def test_two_processes_of_one_host_agree_on_what_it_is() -> None:
    program = "from distexp.system.process import *; print(host_name(), machine_id())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [host_name(), machine_id()]


# -- import failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_proven", "is_alone"), [(True, False), (True, True), (False, False)])
def test_who_cannot_import_what_others_can_is_excluded_and_else_the_phase_ends(
    tmp_path: Path, is_proven: bool, is_alone: bool
) -> None:
    office = Office()
    office.greet("gpu1", 2)
    office.clock.advance(LIVE_S + 1 if is_alone else 0)
    worker = office.greet("gpu0")
    tasks = [a_task(phase=phase, width=width) for phase in ("exp1", "exp2") for width in (1, 2, 3)]
    journal = Journal(tmp_path / "journal")
    queue = TaskQueue(office.clock, journal.record)
    queue.sync(tasks)
    store = ResultsStore(tmp_path, lambda scan: None)
    completion = CompletionHandler(
        queue=queue,
        journal=journal,
        store=store,
        registry=office.registry,
        forecaster=Forecaster(queue, office.registry),
    )
    if is_proven:
        office.registry.completed(GPU1, tasks[0])
    lease = queue.assign(worker.info)
    assert lease is not None
    about: dict[str, Any] = {"worker_id": "gpu0", "lease_id": lease.lease_id, "key": lease.task.key}
    error = "Traceback ...\nModuleNotFoundError: No module named 'mine'"
    completion.failed(wire.TaskFailed(cause="import", error=error, **about), worker)
    journal.close()
    states = [entry.state for entry in queue.entries()]
    if is_proven and not is_alone:
        assert states == [State.PENDING] * 6, "the task goes back without cost"
        why = "cannot import distexp.experiments.classification:run, which others can: "
        assert (
            office.registry.exclusion(office.greet("gpu0"))
            == f"{why}ModuleNotFoundError: No module named 'mine'"
        )
    else:
        assert states == [State.FAILED, *[State.CANCELLED] * 2, *[State.PENDING] * 3]
        assert office.registry.exclusion(office.greet("gpu0")) == ""
