"""Results reach their file: from another folder, through the spool, past disks that refuse."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from distexp.errors import ResultsUnwritable
from distexp.manager.manager import ExperimentManager
from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.results.spool import Spool
from distexp.task import Bookmark, Provenance, State
from distexp.wire.client import Client
from distexp.wire.messages import TaskReply
from distexp.workdir import Workdir
from distexp.worker import connection, delivery, worker
from distexp.worker.connection import ManagerConnection
from distexp.worker.delivery import Delivery, ResultDelivery
from distexp.worker.signals import StopRequests
from tests.live_manager import Folder, RawClient
from tests.live_manager import worker as raw_worker
from tests.live_worker import (
    CONFIG,
    GATED,
    await_began,
    gated_folder,
    open_gate,
    threaded_worker,
    worker_process,
)
from tests.row_cases import tasks_of
from tests.support import poll

Capture = pytest.LogCaptureFixture
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "home").mkdir()
    return gated_folder(tmp_path / "home", "[1]")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder that holds the experiment, and no manager."""
    (tmp_path / "other").mkdir()
    return gated_folder(tmp_path / "other", "[1]").root


@contextmanager
def serving_at(folder: Folder, port: int, **settings: bool) -> Iterator[ExperimentManager]:
    manager = ExperimentManager(port=port, workdir=folder.root, **settings)
    manager.start()
    try:
        yield manager
    finally:
        manager.stop()


def stopped(manager: ExperimentManager) -> int:
    """Return the port at which a manager was, which is still kept for another."""
    manager.stop()
    return manager.port


def spooled(root: Path) -> list[Path]:
    return list((root / ".experiment_spool").glob("*.result"))


# -- workers of another folder


def test_a_worker_of_another_folder_sends_its_result_and_the_manager_writes_the_row(
    folder: Folder, other: Path
) -> None:
    open_gate(other)
    with folder.serving() as manager:
        environment = {"EXPERIMENT_TOKEN": folder.token_text}
        with worker_process(other, "localhost", manager.port, environment=environment) as process:
            assert process.code() == 0
    (row,) = folder.rows()
    assert (row["width"], row["score"], row["worker"]) == ("1", "10", "cpu0")
    assert not (other / "results_exp1" / "final_results.csv").exists()
    assert spooled(other) == []


@pytest.mark.parametrize("restarts", [False, True], ids=["by itself", "after its own restart"])
def test_a_result_of_another_folder_outlives_a_manager_that_is_away(
    folder: Folder, other: Path, restarts: bool
) -> None:
    with folder.serving() as manager:
        words, environment = ("localhost", manager.port), {"EXPERIMENT_TOKEN": folder.token_text}
        with worker_process(other, *words, environment=environment) as process:
            await_began(other)
            manager.stop()
            open_gate(other)
            process.await_words("Error reporting task: no manager answers")
            assert len(spooled(other)) == 1
            if restarts:
                process.signal(signal.SIGKILL)
                process.code()
            with serving_at(folder, int(words[1])) as restarted:
                if not restarts:
                    assert process.code() == 0
                else:
                    with worker_process(other, *words, environment=environment) as later:
                        assert later.code() == 0
                        assert "Delivering a spooled result of task exp1_vary_width_0_42" in later.output()
                assert [entry.state for entry in restarted.queue.entries()] == [State.COMPLETE]
    (row,) = folder.rows()
    assert (row["score"], row["attempt"]) == ("10", "1")
    assert spooled(other) == []


@posix_only
def test_the_first_ctrl_c_leaves_a_result_that_is_kept_to_a_manager_that_is_away(
    folder: Folder, other: Path
) -> None:
    with folder.serving() as manager:
        words, environment = ("localhost", manager.port), {"EXPERIMENT_TOKEN": folder.token_text}
        with worker_process(other, *words, environment=environment) as process:
            await_began(other)
            manager.stop()
            open_gate(other)
            process.await_words("Error reporting task: no manager answers")
            process.signal(signal.SIGINT)
            assert process.code() == 0
        (result,) = spooled(other)
        kept = f"its result is in {result}, and the next worker here delivers it"
        assert f"Leaving without the manager. Task exp1_vary_width_0_42: {kept}" in process.output()
        with worker_process(other, *words, environment=environment) as later:
            later.await_words("Error reporting task: no manager answers")
            later.signal(signal.SIGINT)
            assert later.code() == 0
    assert spooled(other) == [result]


@posix_only
def test_the_first_ctrl_c_leaves_a_row_that_is_written_to_a_manager_that_is_away(folder: Folder) -> None:
    with folder.serving() as manager, worker_process(folder.root) as process:
        await_began(folder.root)
        manager.stop()
        open_gate(folder.root)
        process.await_words("Error reporting task: no manager answers")
        process.signal(signal.SIGINT)
        assert process.code() == 0
        assert "its row is in results_exp1, and counts when the manager is back" in process.output()
    with folder.serving() as restarted:
        assert [entry.state for entry in restarted.queue.entries()] == [State.COMPLETE]


@posix_only
def test_a_failure_that_is_kept_nowhere_waits_for_the_manager_until_the_second_ctrl_c(folder: Folder) -> None:
    fails = GATED.replace('return {"score": 10 * params["width"]}', "raise ValueError('no such width')")
    (folder.root / "experiment.py").write_text(fails)
    with folder.serving() as manager, worker_process(folder.root) as process:
        await_began(folder.root)
        manager.stop()
        open_gate(folder.root)
        process.await_words("Error reporting task: no manager answers")
        process.signal(signal.SIGINT)
        process.await_words("Waiting for the manager to take the result; Ctrl+C again leaves")
        process.signal(signal.SIGINT)
        assert process.code() == 0


# -- in this process, where waits can be short


@pytest.fixture
def quick(folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: Capture) -> Folder:
    """The folder, for workers of this process: frequent heartbeats and retries, a module of its own."""
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.05)
    for module in (delivery, worker):
        monkeypatch.setattr(module, "DISK_RETRY_S", 0.05)
    monkeypatch.chdir(folder.root)
    monkeypatch.syspath_prepend(str(folder.root))
    name = f"experiment_{time.monotonic_ns()}"  # the template of an earlier test does not know it
    (folder.root / "experiment.py").rename(folder.root / f"{name}.py")
    config = folder.root / "configs" / "config_exp1.yaml"
    config.write_text(config.read_text().replace('"experiment:run"', f'"{name}:run"'))
    caplog.set_level("INFO")
    return folder


def await_said(caplog: Capture, words: str) -> None:
    poll(lambda: words in caplog.text, f"{words!r} logged", 60)


def test_a_results_file_that_cannot_be_written_costs_no_attempt(quick: Folder, caplog: Capture) -> None:
    open_gate(quick.root)
    quick.csv.mkdir(parents=True)
    with quick.serving() as manager, threaded_worker(quick.root, manager.port) as threaded:
        await_said(caplog, "the manager gets the result and keeps it until then")
        assert f"{quick.csv}: cannot be written now" in caplog.text
        await_said(caplog, "its row is kept")
        quick.csv.rmdir()
        manager.rescan()
        threaded.await_end()
        (entry,) = manager.queue.entries()
        assert (entry.state, entry.attempts, entry.failures, entry.losses) == (State.COMPLETE, 1, 0, 0)
    assert [row["score"] for row in quick.rows()] == ["10"]
    assert spooled(quick.root) == []


@pytest.mark.parametrize("obstacle", ["file", "dangling link"])
def test_a_folder_that_cannot_be_made_is_a_failed_attempt_with_its_text(quick: Folder, obstacle: str) -> None:
    if obstacle == "file":
        quick.csv.parent.write_text("")
    else:
        quick.csv.parent.symlink_to(quick.root / "absent" / "folder")
    with quick.serving() as manager, threaded_worker(quick.root, manager.port) as threaded:
        threaded.await_end()
        (entry,) = manager.queue.entries()
        assert (entry.state, entry.failures, entry.losses) == (State.FAILED, 3, 0)
        assert "the task's folder cannot be made (" in entry.error


@pytest.fixture
def kept(quick: Folder, caplog: Capture) -> Folder:
    """The folder, with a result that its manager has kept: the file could not be written, and now can."""
    open_gate(quick.root)
    quick.csv.mkdir(parents=True)
    with quick.serving() as manager, threaded_worker(quick.root, manager.port) as threaded:
        await_said(caplog, "its row is kept")
        threaded.stop.preempt()
        threaded.await_end()
    quick.csv.rmdir()
    return quick


def test_a_result_that_cannot_be_written_gets_its_row_at_the_managers_next_start(kept: Folder) -> None:
    with kept.serving() as manager, threaded_worker(kept.root, manager.port) as threaded:
        threaded.await_end()
    assert [(row["score"], row["attempt"]) for row in kept.rows()] == [("10", "1")]
    assert spooled(kept.root) == []


def test_a_spooled_result_whose_task_has_left_the_configs_gets_its_row(kept: Folder) -> None:
    shutil.rmtree(kept.root / ".experiment_manager")  # with the journal, which knows it
    config = kept.root / "configs" / "config_exp1.yaml"
    config.write_text(config.read_text().replace("[1]", "[7]"))
    with kept.serving() as manager, threaded_worker(kept.root, manager.port) as threaded:
        threaded.await_end()
    assert [(row["width"], row["score"]) for row in kept.rows()] == [("1", "10"), ("7", "70")]
    assert spooled(kept.root) == []


def test_a_task_that_has_left_the_configs_while_it_ran_has_its_row_and_has_not_failed(
    quick: Folder, caplog: Capture
) -> None:
    with quick.serving() as manager, threaded_worker(quick.root, manager.port) as threaded:
        await_began(quick.root)
        manager.stop()
        config = quick.root / "configs" / "config_exp1.yaml"
        config.write_text(config.read_text().replace("[1]", "[7]"))
        with serving_at(quick, manager.port):
            open_gate(quick.root)
            threaded.await_end()
    assert [(row["width"], row["score"]) for row in quick.rows()] == [("1", "10"), ("7", "70")]
    assert "Task exp1_vary_width_0_42: its row is in results_exp1, though" in caplog.text
    assert "failed" not in caplog.text


def test_a_result_that_is_refused_for_good_is_charged_and_kept(
    quick: Folder, other: Path, caplog: Capture
) -> None:
    (quick.root / "experiment.py").write_text("", encoding="utf-8")
    for path in quick.root.glob("experiment_*.py"):
        shutil.copy(path, other)
    with quick.serving() as manager:
        port, token = manager.port, quick.token_text
        (other / ".experiment_token").write_text(token)
        (other / ".experiment_token").chmod(0o600)
        with threaded_worker(other, port) as threaded:
            poll(lambda: bool(list(quick.root.glob("began-1-*"))), "the task began", 60)
            manager.stop()
            (manager.workdir.sweep_id).write_text("0123")
            with serving_at(quick, port) as later:
                open_gate(quick.root)
                await_said(caplog, "Task exp1_vary_width_0_42: its result stays in ")
                threaded.await_end()
                assert [entry.state for entry in later.queue.entries()] == [State.COMPLETE]
    assert len(spooled(other)) == 1
    assert [row["score"] for row in quick.rows()] == ["10"]
    assert "failed on cpu0 (error, failure 1 of 3, now pending): its result was refused: " in caplog.text
    assert caplog.text.count("failed") == 1


def test_a_cancelled_task_is_ended_and_leaves_no_row(quick: Folder, caplog: Capture) -> None:
    with quick.serving() as manager, threaded_worker(quick.root, manager.port) as threaded:
        await_began(quick.root)
        with RawClient(manager.port, token=quick.token) as talk:
            assert talk.say("cancel", tasks=["exp1_vary_width_0_42"])["count"] == 1
        await_said(caplog, "Task exp1_vary_width_0_42 was cancelled or completed by another worker")
        threaded.await_end()
        open_gate(quick.root)
        assert [entry.state for entry in manager.queue.entries()] == [State.CANCELLED]
    assert not quick.csv.exists()


def test_a_manager_that_refuses_the_heartbeats_is_not_asked_faster_and_the_task_goes_on(
    quick: Folder, caplog: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick.serving() as manager:
        port = manager.port
        with threaded_worker(quick.root, port) as threaded:
            await_began(quick.root)
            manager.stop()
            monkeypatch.setattr(connection, "HEARTBEAT_S", 3600.0)
            config = quick.root / "configs" / "config_exp1.yaml"
            config.write_text(config.read_text().replace("[1]", "[7]"))
            with serving_at(quick, port):
                await_said(caplog, "Heartbeat refused")
                open_gate(quick.root)
                threaded.await_end()
    assert caplog.text.count("Heartbeat refused") == 1
    assert {row["width"] for row in quick.rows()} == {"1", "7"}


# -- the file of results, and the spool


def a_delivery(*, lease: str = "lease1", score: float = 0.5, seen: Bookmark | None = None) -> Delivery:
    task = tasks_of(1)[0]
    reply = TaskReply(
        **{name: getattr(task, name) for name in task.__struct_fields__},
        **{"lease_id": lease, "attempt": 1, "writes_row": True, "sweep_id": "sweep1", "seen": seen},
    )
    return Delivery(task=reply, result={"score": score}, run=Provenance(worker="cpu0"))


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[ResultDelivery]:
    """A delivery whose manager never answers."""
    workdir = Workdir(tmp_path)
    with contextlib.closing(StopRequests()) as stop:
        manager = ManagerConnection(Client(workdir, "localhost", 1), stop, time.monotonic, 0.0)
        yield ResultDelivery(connection=manager, workdir=workdir, stop=stop, identity=dict)


def lines_of(root: Path, delivery: Delivery) -> list[str]:
    return (root / delivery.task.output_dir / "final_results.csv").read_text().splitlines()


def test_the_first_of_two_results_for_a_task_is_its_row(offline: ResultDelivery, tmp_path: Path) -> None:
    offline.write_row(a_delivery(score=0.5))
    offline.write_row(a_delivery(lease="lease2", score=0.75))
    header, *rows = lines_of(tmp_path, a_delivery())
    assert len(rows) == 1
    assert dict(zip(header.split(","), rows[0].split(","), strict=True))["score"] == "0.5"


def test_a_row_written_after_the_managers_scan_is_seen(offline: ResultDelivery, tmp_path: Path) -> None:
    first = a_delivery()
    path = tmp_path / first.task.output_dir / "final_results.csv"
    path.parent.mkdir()
    path.write_text("task_id,seed\na,1\n")
    file = ResultsFile(path.parent, ".", TaskIndex([first.task]))
    file.scan()
    seen = file.bookmark
    offline.write_row(a_delivery())
    offline.write_row(a_delivery(lease="lease2", seen=seen))
    assert len(lines_of(tmp_path, first)) == 3


def test_a_row_that_cannot_be_written_says_so(offline: ResultDelivery, tmp_path: Path) -> None:
    delivery = a_delivery()
    (tmp_path / delivery.task.output_dir / "final_results.csv").mkdir(parents=True)
    with pytest.raises(
        ResultsUnwritable, match=r"final_results\.csv: cannot be written now \(Is a directory"
    ):
        offline.write_row(delivery)


def test_a_spooled_result_comes_back_whole_until_it_is_unspooled(offline: ResultDelivery) -> None:
    first, second = a_delivery(), a_delivery(lease="lease2", score=float(2**60 + 1))
    offline.spool(first)
    offline.spool(second)
    assert offline.spooled() == [first, second]
    offline.unspool(first)
    offline.unspool(first)
    assert offline.spooled() == [second]


def test_a_spooled_result_of_another_version_is_left_alone_and_named(
    offline: ResultDelivery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Spool(tmp_path / ".experiment_spool").put("old", b'{"result": 1}')
    assert offline.spooled() == []
    (said,) = caplog.messages
    assert said.startswith("spooled result old: not of this version (Expected `object`, got `int`")
    assert said.endswith("; left alone")
    assert (tmp_path / ".experiment_spool" / "old.result").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system sets the limits of another process")
def test_a_full_disk_costs_nothing_and_the_worker_waits_until_there_is_room(
    folder: Folder,
) -> None:
    infinity = psutil.RLIM_INFINITY
    open_gate(folder.root)
    with folder.serving() as early, worker_process(folder.root, "localhost", stopped(early)) as process:
        process.await_words("Trying again")
        full, free = (1000, infinity), (infinity, infinity)
        psutil.Process(process.process.pid).rlimit(psutil.RLIMIT_FSIZE, full)
        with serving_at(folder, early.port) as manager:
            process.await_words("disk full or read-only")
            psutil.Process(process.process.pid).rlimit(psutil.RLIMIT_FSIZE, free)
            assert process.code() == 0
            (entry,) = manager.queue.entries()
    assert (entry.state, entry.failures, entry.losses) == (State.COMPLETE, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system sets the limits of another process")
def test_a_worker_that_waits_for_room_on_its_disk_leaves_when_nothing_that_is_left_can_run(
    folder: Folder,
) -> None:
    open_gate(folder.root)
    with folder.serving() as early, worker_process(folder.root, "localhost", stopped(early)) as process:
        process.await_words("Trying again")
        psutil.Process(process.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1000, psutil.RLIM_INFINITY))
        with serving_at(folder, early.port, exit_when_done=True) as manager, raw_worker(manager) as other:
            process.await_words("disk full or read-only")
            task = other.say("request_task", wait_s=30)
            named = {name: task[name] for name in ("lease_id", "key", "task_id")}
            other.say("task_failed", **named, cause="import", error="No module")
            for _ in range(2):
                manager.run_once()
            assert process.code() == 0


NEEDS_ROOM = """
import errno, os, sys
def run(params, context):
    if context.attempt < 3:
        try:
            save()
        except OSError as error:
            raise RuntimeError("the checkpoint cannot be saved") from error
    return {"score": 1}
def save():  # a checkpoint larger than what is left
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
if __name__ == "__main__" and int(os.environ["DISTEXP_ATTEMPT"]) < 3:
    save()
"""
PROGRAM = CONFIG.replace('experiment: "experiment:run"', 'command: "python experiment.py {{width}}"')


@pytest.mark.parametrize("config", [CONFIG, PROGRAM])
def test_what_did_not_fit_where_there_is_room_for_less_is_twice_no_fault_of_the_task(
    tmp_path: Path, config: str
) -> None:
    folder = gated_folder(tmp_path, "[1]", NEEDS_ROOM, config)
    with folder.serving() as manager, worker_process(tmp_path) as process:
        assert process.code() == 0
        (entry,) = manager.queue.entries()
    assert (entry.state, entry.attempts, entry.failures) == (State.COMPLETE, 3, 0)
