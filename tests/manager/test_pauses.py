"""A manager that was stopped or starved blames no worker for it."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from distexp.manager.manager import ExperimentManager
from distexp.manager.pauses import LATE_S, PauseWatch
from tests.live_manager import Folder, worker
from tests.support import ENVIRONMENT, poll


def test_a_clock_thread_that_is_late_reports_the_pause_before_it_says_that_it_is_awake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distexp.manager.pauses.TICK_S", 0.01)
    pauses = list[tuple[float, bool]]()

    def note(seconds: float) -> None:
        pauses.append((seconds, watch.is_awake()))

    stopped_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + stopped_s)
    monkeypatch.setattr("distexp.manager.pauses.time", clock)
    watch = PauseWatch(note)
    watch.start()
    assert watch.is_awake()
    stopped_s = LATE_S + 70  # as after a stop of the process
    poll(lambda: bool(pauses), "the pause")
    ((seconds, was_awake),) = pauses
    assert seconds > LATE_S + 60
    assert not was_awake
    poll(watch.is_awake, "awake again")
    watch.stop()


@pytest.mark.parametrize("moment", range(2, 7))
def test_a_pause_is_reported_at_whatever_moment_it_begins(
    monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 1000.0 if next(looks) < moment else 1075.0)
    monkeypatch.setattr("distexp.manager.pauses.time", clock)
    monkeypatch.setattr("distexp.manager.pauses.TICK_S", 0.01)
    pauses = list[float]()
    watch = PauseWatch(pauses.append)
    watch.start()  # after two looks at the clock
    poll(lambda: bool(pauses), "the pause")
    watch.stop()
    assert pauses == [75.0]


def test_no_lease_is_judged_before_a_pause_is_accounted_for_and_each_has_a_fresh_term_after(
    folder: Folder,
) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        talk.say("request_task")
        manager._pauses.stop()  # the clock thread has not run yet
        before = manager.queue.leases()[0]
        manager.queue.update_leases(lambda lease: lease.extended(0.0, manager.queue.now_s() - 75))
        manager._pauses._ticked_s -= 75
        manager.run_once()
        assert len(manager.queue.leases()) == 1
        manager._on_pause(75.0)
        manager._pauses._ticked_s = time.monotonic()
        manager.run_once()
        (after,) = manager.queue.leases()
        assert after.until_s >= before.until_s
    assert "The manager did not run for 75 s; every worker gets as long as usual" in folder.log()


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_manager_whose_state_is_gone_assigns_nothing_and_ends_with_a_line(
    folder: Folder, change: str
) -> None:
    manager = ExperimentManager(port=0, workdir=folder.root)
    manager.start()
    try:
        with worker(manager) as talk, worker(manager, "gpu1") as other:
            assert talk.say("request_task")["type"] == "task"
            manager.workdir.state.rename(folder.root / "moved")
            if change == "replaced":
                manager.workdir.state.mkdir()
                manager.workdir.lock.touch()
            assert other.say("request_task")["reason"] == "restarting"
            manager.run_once()
            assert manager._is_stopping
    finally:
        manager.stop()
    line = f"Stopping: {manager.workdir.state} was deleted or replaced while the manager ran; start it again"
    assert line in folder.log()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("name", "ignored"), [("SIGHUP", False), ("SIGTERM", False), ("SIGHUP", True)])
def test_a_closed_terminal_stops_a_manager_in_good_order_unless_nohup_was_used(
    folder: Folder, name: str, ignored: bool
) -> None:
    command = [sys.executable, "-m", "distexp", "manager", "--workdir", str(folder.root), "--port", "0"]
    process = subprocess.Popen(
        ["nohup", *command] if ignored else command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=Path(__file__).parents[2],
    )
    try:
        log = folder.root / "experiment_manager.log"
        poll(lambda: log.exists() and "Manager serves" in log.read_text(), "the manager")
        os.kill(process.pid, getattr(signal, name))
        if ignored:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert folder.log()[-1] == "Manager stopped at 0/3 (0.0%)"
