"""The worker's tie to a manager that refuses, stays away, comes back, or hangs up."""

import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from distexp.manager.manager import ExperimentManager
from distexp.wire.client import Client
from distexp.wire.messages import (
    Ack,
    Heartbeat,
    HeartbeatReply,
    RequestTask,
    Status,
    StatusReply,
    TaskComplete,
    TaskReply,
)
from distexp.workdir import Workdir
from distexp.worker.connection import HEARTBEAT_S, RETRY_MAX_S, ManagerConnection
from distexp.worker.signals import StopRequests
from tests.live_manager import Folder
from tests.support import Clock

WHAT = "Error requesting task"
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture
def stop() -> Iterator[StopRequests]:
    made = StopRequests()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure("[1]")
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connection(folder: Folder, stop: StopRequests, clock: Clock) -> Iterator[ManagerConnection]:
    """A link that looks for the manager of `folder`."""
    made = ManagerConnection(Client(Workdir(folder.root)), stop, clock, manager_wait_s=60)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("rows", "code"), [(b"width,seed,score\n1,42,0.5\n", 0), ("width\n".encode("utf-16"), 1)]
)
def test_a_worker_whose_manager_left_while_it_started_leaves_too_since_nothing_could_run(
    folder: Folder, stop: StopRequests, caplog: pytest.LogCaptureFixture, rows: bytes, code: int
) -> None:
    folder.csv.parent.mkdir()
    folder.csv.write_bytes(rows)
    clock = Clock()
    early = ManagerConnection(Client(Workdir(folder.root)), stop, clock, manager_wait_s=60)
    manager = ExperimentManager(port=0, workdir=folder.root, exit_when_done=True)
    assert manager.serve() == code
    late = ManagerConnection(Client(Workdir(folder.root)), stop, clock, manager_wait_s=60)
    caplog.set_level("INFO")
    assert early.try_request(RequestTask(worker_id="w"), TaskReply, WHAT) is None
    assert (early.has_given_up, early.exit_code) == (True, 0)
    assert "No task is left that can run: the manager has ended since this worker started" in caplog.text
    assert late.try_request(RequestTask(worker_id="w"), TaskReply, WHAT) is None
    assert not late.has_given_up, "who starts later waits for the next manager"


@pytest.fixture
def lonely(folder: Folder, stop: StopRequests, clock: Clock, nobody: int) -> Iterator[ManagerConnection]:
    """A link to a port at which nobody listens; its user is stopping, so that it never waits."""
    stop.interrupt()
    made = ManagerConnection(
        Client(Workdir(folder.root), "localhost", nobody), stop, clock, manager_wait_s=60
    )
    yield made
    made.close()


def test_it_gives_up_after_its_patience_and_not_before(
    lonely: ManagerConnection, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    request = RequestTask(worker_id="cpu0")
    assert lonely.try_request(request, TaskReply, WHAT) is None
    clock.advance(60)
    assert lonely.try_request(request, TaskReply, WHAT) is None
    assert not lonely.has_given_up
    clock.advance(1)
    assert lonely.try_request(request, TaskReply, WHAT) is None
    assert lonely.has_given_up
    assert caplog.messages[0].startswith(f"{WHAT}: no manager answers at localhost:")
    assert caplog.messages[0].endswith("or name another host and port. Trying again for 60 s")
    assert caplog.messages[-1].endswith(". Giving up after 60 s")
    assert len(caplog.messages) == 2


def test_patience_begins_anew_when_the_manager_was_back(
    folder: Folder,
    connection: ManagerConnection,
    clock: Clock,
    stop: StopRequests,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with folder.serving() as manager:
        connection.request(Status(), StatusReply)
        manager.stop()
        stop.interrupt()
        assert connection.try_request(Status(), StatusReply, WHAT) is None
    clock.advance(59)
    with folder.serving():
        assert connection.try_request(Status(), StatusReply, WHAT) is not None
    assert "The manager at localhost:" in caplog.text
    assert "is back" in caplog.text
    clock.advance(59)
    assert connection.try_request(Status(), StatusReply, WHAT) is None
    assert not connection.has_given_up


def test_tries_come_ever_more_slowly_and_never_in_step(connection: ManagerConnection) -> None:
    waits_s = [connection.back_off_s() for _ in range(20)]
    assert 0.1 <= waits_s[0] <= 0.2
    assert all(RETRY_MAX_S / 2 <= wait_s <= RETRY_MAX_S for wait_s in waits_s[6:])
    assert len(set(waits_s)) == 20


def test_a_refused_request_for_a_task_ends_the_worker_and_a_refused_report_does_not(
    folder: Folder, connection: ManagerConnection, caplog: pytest.LogCaptureFixture
) -> None:
    with folder.serving():
        report = TaskComplete(worker_id="cpu0", task_id="no_such_task")
        assert connection.report(report) is None
        assert not connection.has_given_up
        assert "Error reporting task: " in caplog.text
        assert "no_such_task" in caplog.text
        connection.close()
        (folder.root / ".experiment_manager" / "token").write_text("damaged", encoding="utf-8")
        assert connection.try_request(RequestTask(worker_id="cpu0"), TaskReply, WHAT) is None
        assert connection.has_given_up


def test_a_report_is_not_repeated_for_ever_when_the_worker_must_leave(
    lonely: ManagerConnection, stop: StopRequests
) -> None:
    stop.preempt()
    assert lonely.report(TaskComplete(worker_id="cpu0", task_id="task")) is None
    assert not lonely.has_given_up


def test_each_call_puts_off_the_next_heartbeat_also_when_it_is_refused(
    folder: Folder, connection: ManagerConnection, clock: Clock
) -> None:
    with folder.serving():
        for request, expected in (
            (Heartbeat(worker_id="cpu0"), HeartbeatReply),
            (TaskComplete(worker_id="cpu0", task_id="no_such_task"), Ack),
        ):
            clock.advance(5)
            connection.try_request(request, expected, WHAT)
            assert connection.next_heartbeat_s == clock.now_s + HEARTBEAT_S


def test_a_wait_ends_when_the_manager_hangs_up_and_a_heartbeat_is_due(
    folder: Folder, connection: ManagerConnection, clock: Clock
) -> None:
    with folder.serving() as manager:
        connection.request(Heartbeat(worker_id="cpu0"), HeartbeatReply)
        manager.stop()
        connection.wait(3600)
    assert connection.next_heartbeat_s == clock.now_s


@posix_only
def test_a_wait_ends_at_a_signal_and_the_next_one_does_not(
    connection: ManagerConnection, stop: StopRequests
) -> None:
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    }
    try:
        stop.install()
        os.kill(os.getpid(), signal.SIGINT)
        connection.wait(3600)
        os.kill(os.getpid(), signal.SIGUSR2)
        connection.wait(3600)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (stop.interrupts, stop.is_preempted) == (1, True)
    assert (stop.wants_leave, stop.wants_checkpoint, stop.wants_kill) == (True, True, False)
    assert not stop.is_warned, "the user wants it to leave"
    assert wait([stop.waitable], 0.0) == [], "acknowledged: the next one returns by its timeout alone"


@posix_only
@pytest.mark.parametrize(
    ("names", "is_warned"),
    [
        (["SIGUSR2"], True),
        (["SIGTERM"], False),
        (["SIGHUP"], False),
        (["SIGUSR2", "SIGTERM"], False),
        (["SIGTERM", "SIGUSR2"], False),
    ],
)
def test_only_a_warning_that_no_end_follows_is_one(
    stop: StopRequests, names: list[str], is_warned: bool
) -> None:
    for name in names:
        stop.preempt(getattr(signal, name))
    assert (stop.is_preempted, stop.is_warned) == (True, is_warned)


def test_three_interrupts_are_three_wishes(stop: StopRequests) -> None:
    wishes = []
    for _ in range(4):
        wishes.append((stop.wants_leave, stop.wants_checkpoint, stop.wants_kill))
        stop.interrupt()
    assert wishes == [(False,) * 3, (True, False, False), (True, True, False), (True,) * 3]
