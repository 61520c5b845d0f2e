"""Who a worker is, when it gets no more tasks, and when it has died."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distexp.errors import ProtocolError
from distexp.manager import workers
from distexp.manager.completion import CompletionHandler
from distexp.manager.kept_rows import KeptRows
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import EXCLUDE_AFTER, LIVE_S, RETURN_S, Worker, WorkerRegistry
from distexp.queue.entry import WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.system import locks
from distexp.system.process import ProcessMark
from distexp.task import State
from distexp.wire import messages as wire
from distexp.workdir import Workdir
from tests.row_cases import a_task
from tests.support import Clock

TASK = a_task()
GPU0, GPU1 = WorkerInfo("gpu0"), WorkerInfo("gpu1")


class SampleRegistry:
    """A registry of workers and its clock."""

    def __init__(self) -> None:
        self.clock, self.widths = Clock(), itertools.count(2)
        self.registry = WorkerRegistry(
            host="here",
            machine="boot/pid",
            nonce="n0nce",
            task_lock=Workdir(Path()).task_lock,
            clock=self.clock,
        )

    def request(self, worker_id: str = "gpu0", connection: int = 1, **about: Any) -> Worker:
        return self.registry.register(wire.RequestTask(worker_id=worker_id, **about), connection)

    def fails(self, name: str, times: int = EXCLUDE_AFTER) -> str:
        """Let the worker fail as many new tasks and return why it gets no more."""
        for _ in range(times):
            self.registry.failed(WorkerInfo(name), a_task(width=next(self.widths)))
        return self.registry.exclusion(self.request(name))


def test_a_worker_of_another_host_is_named_after_it() -> None:
    sample = SampleRegistry()
    names = [sample.request("gpu0", host=host).name for host in ("here", "", "node7")]
    assert names == ["gpu0", "gpu0", "node7/gpu0"]
    assert [worker.name for worker, _ in sample.registry.all()] == ["gpu0", "node7/gpu0"]


def test_a_worker_with_other_code_is_told_once_per_commit(caplog: pytest.LogCaptureFixture) -> None:
    sample = SampleRegistry()
    ours, theirs = "a" * 40, "b" * 40
    asked = []
    here = sample.request("gpu3", 4, machine="boot/pid", nonce="n0nce", git_commit=theirs)
    sample.registry.compare_commits(lambda: asked.append("git") or ours)
    assert asked == [], "nobody is on another machine"
    same, old = sample.request("gpu0", git_commit=ours), sample.request("gpu1", 2)
    for _ in range(2):
        other = sample.request("gpu2", 3, host="box7", git_commit=theirs)
        sample.registry.compare_commits(lambda: ours)
    assert [sample.registry.has_other_commit(each) for each in (same, old, other)] == [False, False, True]
    assert [record.message for record in caplog.records] == [
        "Worker box7/gpu2 runs the code of git commit bbbbbbbbbb, the manager's folder is at aaaaaaaaaa; "
        "column git_commit of its rows says so"
    ]
    sample.request("gpu2", 3, host="box7", git_commit="c" * 40)
    sample.registry.compare_commits(lambda: ours)
    assert len(caplog.records) == 2
    assert not sample.registry.has_other_commit(here), "it reads the manager's own folder, a moment earlier"


def test_a_worker_that_only_fails_where_others_succeed_gets_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    sample.registry.completed(GPU1, TASK)
    assert sample.fails("gpu0", EXCLUDE_AFTER - 1) == ""
    assert sample.fails("gpu0", 1) == "3 failures in a row where other workers succeed"
    assert sample.registry.exclusion(sample.request("gpu1", 2)) == ""
    assert sample.registry.exclusion(sample.request("gpu0", instance="restarted")) == ""
    assert caplog.messages == ["Worker gpu0 is excluded: 3 failures in a row where other workers succeed"]


def test_a_success_in_between_ends_the_row_of_failures() -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    sample.registry.completed(GPU1, TASK)
    sample.fails("gpu0", EXCLUDE_AFTER - 1)
    sample.registry.completed(GPU0, TASK)
    assert sample.fails("gpu0", EXCLUDE_AFTER - 1) == ""
    worker, _ = sample.registry.all()[0]
    assert (worker.completed, worker.failed) == (1, 4)


@pytest.mark.parametrize("winner", [None, "gpu0"])
def test_nobody_is_excluded_where_no_other_worker_succeeds(winner: str | None) -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    if winner:
        sample.registry.completed(WorkerInfo(winner), TASK)
    assert sample.fails("gpu0", 10) == ""


def test_nobody_is_excluded_for_another_phase() -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    sample.registry.completed(GPU1, a_task(phase="exp2"))
    assert sample.fails("gpu0", 10) == ""


def test_tasks_that_fail_everywhere_exclude_nobody_for_long() -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    sample.registry.completed(GPU0, TASK), sample.registry.completed(GPU1, TASK)
    corner = [a_task(width=width) for width in (7, 8, 9)]
    for task in corner:
        sample.registry.failed(GPU0, task)
        sample.registry.failed(GPU0, task)
    assert (
        sample.registry.exclusion(sample.request("gpu0")) == "3 failures in a row where other workers succeed"
    )
    sample.registry.failed(GPU1, corner[0])
    assert sample.registry.exclusion(sample.request("gpu0")) == "", "it is the task"
    for task in corner[1:]:
        sample.registry.failed(GPU1, task)
    assert sample.fails("gpu1", EXCLUDE_AFTER - 1) == "", "none of the others counts against it"


def test_two_bad_machines_do_not_excuse_each_other_once_a_third_succeeds() -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2), sample.request("gpu2", 3)
    sample.registry.completed(WorkerInfo("gpu2"), TASK)
    tasks = [a_task(width=width) for width in (7, 8, 9)]
    for task in tasks:
        sample.registry.failed(GPU0, task), sample.registry.failed(GPU1, task)
    assert sample.registry.exclusion(sample.request("gpu0")) == ""
    for task in tasks:
        sample.registry.completed(WorkerInfo("gpu2"), task)
    assert all(sample.registry.exclusion(sample.request(name)) for name in ("gpu0", "gpu1"))


def test_the_last_worker_keeps_its_tasks() -> None:
    sample = SampleRegistry()
    sample.request("gpu0"), sample.request("gpu1", 2)
    sample.registry.completed(GPU1, TASK)
    assert sample.fails("gpu0") != ""
    sample.clock.advance(LIVE_S + 1)
    assert sample.registry.exclusion(sample.request("gpu0")) == "", "gpu1 has not been heard of for a minute"
    sample.request("gpu1", 2)
    assert sample.registry.exclude(sample.request("gpu2", 3).info, "cannot import it")
    sample.clock.advance(LIVE_S + 1)
    assert sample.registry.exclusion(sample.request("gpu0")) == "", "it is better than none"
    assert sample.registry.exclusion(sample.request("gpu2", 3)) == "cannot import it", "this one is not"


def test_there_is_no_fit_worker_left_when_all_live_ones_cannot_import() -> None:
    sample = SampleRegistry()
    assert not sample.registry.are_all_excluded(), "nobody is there yet"
    sample.request("gpu1", 2)
    assert sample.registry.exclude(sample.request("gpu0").info, "cannot import it")
    assert not sample.registry.are_all_excluded()
    sample.clock.advance(LIVE_S + 1)
    sample.request("gpu0")
    assert sample.registry.are_all_excluded()


def test_two_processes_of_one_name_are_two_workers() -> None:
    sample = SampleRegistry()
    one, _ = (sample.request("cpu0", number, instance=f"{number}") for number in (1, 2))
    sample.registry.completed(one.info, TASK)
    assert [worker.completed for worker, _ in sample.registry.all()] == [1, 0]
    assert sample.registry.drain("cpu0")
    assert all(sample.request("cpu0", number, instance=f"{number}").drained for number in (1, 2))
    sample.registry.disconnect(one.info.connection or 0)
    sample.clock.advance(LIVE_S + 1)
    sample.request("cpu0", 3, instance="3")
    assert [worker.instance for worker, _ in sample.registry.all()] == ["2", "3"], "the first is long gone"


def test_the_memory_of_live_workers_alone_counts() -> None:
    sample = SampleRegistry()
    sample.request("gpu0", memory_mib=8000), sample.request("gpu1", 2, memory_mib=16000)
    assert sample.registry.largest_mib() == 16000
    sample.registry.drain("gpu1")
    assert sample.registry.largest_mib() == 8000
    sample.clock.advance(LIVE_S + 1)
    sample.request("gpu0", memory_mib=8000)
    assert sample.registry.largest_mib() == 8000
    sample.registry.drain("gpu0")
    assert sample.registry.largest_mib() == 0
    sample.clock.advance(LIVE_S + 1)
    assert sample.registry.largest_mib() is None


def test_who_shares_the_folder_and_the_machine_writes_rows_itself() -> None:
    sample = SampleRegistry()
    assert sample.request("a", machine="boot/pid", nonce="n0nce").info.shares_folder
    assert not sample.request("b", machine="boot/pid", nonce="another").info.shares_folder
    assert not sample.request("c", machine="other", nonce="n0nce").info.shares_folder
    assert not sample.request("d").info.shares_folder
    without_nonce = WorkerRegistry(
        host="here", machine="boot/pid", nonce="", task_lock=Workdir(Path()).task_lock, clock=Clock()
    )
    request = wire.RequestTask(worker_id="a", machine="boot/pid")
    assert not without_nonce.register(request, 1).info.shares_folder


def test_a_worker_is_dead_when_its_connection_broke_and_its_process_is_gone() -> None:
    sample = SampleRegistry()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = {"machine": "boot/pid", "nonce": "n0nce", "pid": process.pid}
    gpu0 = sample.request("gpu0", **here).info
    far = sample.request("far", 2, **here | {"machine": "elsewhere"}).info
    copy = sample.request("copy", 3, **here | {"nonce": "another"}).info
    duplicate = sample.request("gpu0", 4, instance="duplicate", **here | {"pid": os.getpid()}).info
    for number in (1, 2, 3, 4):
        sample.registry.disconnect(number)
    assert not sample.registry.has_died(gpu0)
    process.kill()
    process.communicate()
    assert sample.registry.has_died(gpu0)
    assert not sample.registry.has_died(far), "its pid means nothing here"
    assert not sample.registry.has_died(copy), "it has not shown that it is on this host"
    assert not sample.registry.has_died(duplicate), "it has the same name, but is another process"
    assert not sample.registry.has_died(WorkerInfo("nobody"))
    sample.request("gpu0", 3, **here)
    assert not sample.registry.has_died(gpu0), "it asks, so it is alive"


def test_a_rung_leaves_the_progress_of_its_task_and_the_next_task_has_none() -> None:
    sample = SampleRegistry()
    progress = wire.Progress(step=3, total=12)
    gpu0 = sample.registry.register(wire.Heartbeat(worker_id="gpu0", progress=progress), 1)
    sample.registry.register(wire.Rung(worker_id="gpu0", lease_id="a", key="k", step=3, value=0.5), 1)
    assert gpu0.progress == progress
    sample.request()
    assert gpu0.progress is None


def test_a_worker_whose_connection_has_just_broken_may_return_unless_it_was_told_to_leave() -> None:
    sample = SampleRegistry()
    registry = sample.registry
    sample.request(heartbeat_s=15.0)
    assert not registry.may_return()
    registry.disconnect(1)
    assert registry.may_return()
    sample.clock.advance(RETURN_S)
    assert not registry.may_return()
    registry.dismiss(sample.request(heartbeat_s=15.0))
    registry.disconnect(1)
    assert not registry.may_return()
    sample.request("script of a user", connection=2)
    registry.disconnect(2)
    assert not registry.may_return()


def test_a_worker_has_died_once_nothing_of_its_task_is_left_and_after_a_minute_it_is_said_what_is(
    tmp_path: Path,
) -> None:
    clock, lock = Clock(), tmp_path / "task.lock"
    registry = WorkerRegistry(
        host="here", machine="boot/pid", nonce="n0nce", task_lock=lambda process: lock, clock=clock
    )
    process = subprocess.Popen([sys.executable, "-c", ""])
    about = {"machine": "boot/pid", "nonce": "n0nce", "pid": process.pid}
    gpu0 = registry.register(wire.RequestTask(worker_id="gpu0", **about), 1).info
    earlier = replace(gpu0, name="of an earlier manager", connection=None)
    process.wait()
    assert not registry.is_ending(gpu0), "it is connected"
    registry.disconnect(1)
    with locks.acquire(lock) as watcher:
        assert [registry.is_ending(info) for info in (gpu0, earlier)] == [True, True]
        assert [registry.has_died(info) for info in (gpu0, earlier)] == [False, False]
        assert registry.stuck(gpu0) == ""
        clock.now_s += 61
        assert registry.stuck(gpu0) == "a process of gpu0"
        watcher.note("pid 4711")
        assert registry.stuck(gpu0) == "pid 4711"
        clock.now_s += LIVE_S
        registry.register(wire.RequestTask(worker_id="gpu0", instance="the next one"), 2)
        assert registry.is_ending(gpu0), "another worker of its name changes nothing"
    assert [registry.has_died(info) for info in (gpu0, earlier)] == [True, True]
    assert (registry.is_ending(gpu0), registry.stuck(gpu0)) == (False, "")
    assert not registry.has_died(replace(earlier, machine="another boot")), "its pid may be anybody's"


@pytest.mark.parametrize(("is_proven", "is_alone"), [(True, False), (True, True), (False, False)])
def test_who_cannot_import_what_others_can_is_excluded_and_else_the_phase_is_held(
    tmp_path: Path, is_proven: bool, is_alone: bool
) -> None:
    sample = SampleRegistry()
    sample.request("gpu1", 2)
    sample.clock.advance(LIVE_S + 1 if is_alone else 0)
    worker = sample.request("gpu0")
    tasks = [a_task(phase=phase, width=width) for phase in ("exp1", "exp2") for width in (1, 2, 3)]
    journal = Journal(tmp_path / "journal")
    queue = TaskQueue(sample.clock, journal.record)
    queue.sync(tasks)
    store = ResultsStore(tmp_path, lambda scan: None)
    sweep = SweepState(Workdir(tmp_path), queue, store, sample.registry)
    completion = CompletionHandler(sweep, journal, KeptRows(tmp_path / "kept"), lambda phase: None)
    if is_proven:
        sample.registry.completed(GPU1, tasks[0])
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
            sample.registry.exclusion(sample.request("gpu0"))
            == f"{why}ModuleNotFoundError: No module named 'mine'"
        )
    else:
        assert states == [State.PENDING] * 6, "the task goes back without cost"
        assert list(queue.holds.explain()) == ["exp1"]
        assert sample.registry.exclusion(sample.request("gpu0")) == ""


def test_after_a_reboot_the_workers_of_this_host_are_gone_and_those_of_others_are_not() -> None:
    sample = SampleRegistry()
    before = WorkerInfo("gpu0", 15.0, host="here", machine="earlier/pid", process=ProcessMark.own())
    assert sample.registry.has_died(before)
    assert not sample.registry.has_died(replace(before, host="there")), "another host's boot says nothing"
    assert not sample.registry.has_died(replace(before, machine="boot/other")), "it cannot be seen from here"
    assert not sample.registry.has_died(replace(before, machine="boot/pid")), "it is there"


def test_a_connection_that_names_a_new_worker_in_each_request_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "KNOWN", 3)
    sample = SampleRegistry()
    for number in range(3):
        sample.request(instance=f"{number}")
    with pytest.raises(ProtocolError, match=r"^request_task: this connection has named 3 workers"):
        sample.request(instance="3")
    assert sample.request(instance="0"), "those it has named are served on"
    assert sample.request(connection=2, instance="3")


def test_of_workers_that_have_left_the_last_ones_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KNOWN", 3)
    sample = SampleRegistry()
    for number in range(10):
        sample.request(f"gpu{number}", connection=number)
        sample.clock.advance(1)
    for number in range(1, 10):
        sample.registry.disconnect(number)
    sample.clock.advance(LIVE_S)
    sample.request("new", connection=10)
    names = [worker.name for worker, _ in sample.registry.all()]
    assert names == ["gpu0", "gpu7", "gpu8", "gpu9", "new"], "one that is connected stays"
