import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.manager.admin import Admin
from distexp.manager.manager import ExperimentManager
from distexp.text import MAX_LINE_CHARS
from distexp.wire import server
from distexp.wire.server import MAX_UNAUTHENTICATED, ConnectionLimits
from tests.live_manager import CONFIG, Folder, RawClient, worker
from tests.support import ENVIRONMENT, poll

STATUS = b'{"type": "status"}'


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


def serves(manager: ExperimentManager) -> bool:
    with RawClient(manager.port) as other:
        return bool(other.say("status")["status"]["total"] == 3)


# -- framing -------------------------------------------------------------------------------------------------


def test_the_status_client_of_a_user_works_as_it_stands_with_20000_tasks(folder: Folder) -> None:
    folder.configure(list(range(200)), CONFIG + "    - depth: [" + ", ".join(map(str, range(100))) + "]")
    with folder.serving() as manager:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.connect(("localhost", manager.port))
        sock.sendall(json.dumps({"type": "status"}).encode())
        response = json.loads(sock.recv(1024).decode())
        sock.close()
    assert response["status"]["total"] == response["status"]["pending"] == 20_000
    assert response["status"]["progress"] == "0/20000 (0.0%)"


def test_messages_in_one_packet_are_answered_in_order(manager: ExperimentManager) -> None:
    with RawClient(manager.port) as talk:
        talk.socket.sendall(STATUS + b"\n" + b'{"type": "workers"}\n\n' + STATUS)
        assert [talk.read()["type"] for _ in range(3)] == ["status", "error", "status"]


def test_a_message_in_single_bytes_is_answered(manager: ExperimentManager) -> None:
    with RawClient(manager.port) as talk:
        for byte in STATUS:
            talk.socket.sendall(bytes([byte]))
        assert talk.read()["type"] == "status"


def test_half_a_message_is_refused_after_its_time_and_a_message_after_a_whole_one_gets_its_own(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.3)
    with folder.serving() as manager, RawClient(manager.port) as talk:
        talk.socket.sendall(STATUS[:5])
        error = talk.read()["error"]
        assert error == "message: only a part of it came within 0.3 s"
        assert talk.is_ended()
        assert serves(manager)


def test_a_message_that_drips_is_refused_after_its_time_however_often_it_goes_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.5)
    with folder.serving() as manager:
        assert any(drip(manager) > 2 for _ in range(5)), "this process may not have run for half a second"
        assert serves(manager)


def drip(manager: ExperimentManager) -> int:
    """Send a message byte after byte until it is refused; return how many it took."""
    with RawClient(manager.port) as talk:
        talk.socket.settimeout(0.02)
        for dripped in range(10_000):
            talk.socket.send(b" " if dripped else b"{")
            with contextlib.suppress(TimeoutError):
                assert talk.read()["error"] == "message: only a part of it came within 0.5 s"
                return dripped + 1
    raise AssertionError("it is listened to for ever")


def test_what_a_peer_sends_is_quoted_on_one_line_of_reply_and_log(
    folder: Folder, manager: ExperimentManager
) -> None:
    forged = "no such\n2026-01-01 00:00:00 Task exp1_vary_width_0_42 completed by gpu0\x1b[2J"
    with RawClient(manager.port, token=folder.token) as talk:
        for message in (
            {"type_": forged},
            {"type_": "task_failed", "worker_id": "w", "error": "e", "key": forged},
            {"type_": "cancel", "tasks": ["x" * 500_000]},
        ):
            error = talk.say(**message)["error"]  # type: ignore[arg-type]
            assert error.isprintable()
            assert len(error) <= MAX_LINE_CHARS
    log = (folder.root / "experiment_manager.log").read_text(encoding="utf-8")
    assert not re.search("^2026-01-01 00:00:00", log, re.MULTILINE)
    assert "no such\\n2026-01-01" in log
    assert "\x1b" not in log
    assert len(log) < 10_000


def test_ten_megabytes_get_an_error_reply(manager: ExperimentManager) -> None:
    with RawClient(manager.port) as talk:
        talk.socket.sendall(b'{"type": "status", "token": "' + b"x" * 10_000_000)
        assert talk.read()["error"] == "message: too large (more than 1048576 bytes)"
    assert serves(manager)


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        bytes(range(256)).replace(b"\n", b""),
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"type": "status", "token": "\\ud800"',
        b"[1, 2]",
        b"GET / HTTP/1.1\r",
    ],
    ids=["text", "binary", "utf16", "deep", "cut", "array", "http"],
)
def test_garbage_gets_an_error_reply_and_the_connection_goes_on(
    manager: ExperimentManager, line: bytes
) -> None:
    with RawClient(manager.port) as talk:
        talk.socket.sendall(line + b"\n")
        assert talk.read()["error"].startswith("message: ")
        assert talk.say("status")["type"] == "status"


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"type": "steal_task"}, "Invalid value 'steal_task'"),
        ({}, "missing required field `type`"),
        ({"type": "status", "colour": "red"}, "unknown field `colour`"),
        ({"type": "request_task"}, "missing required field `worker_id`"),
        ({"type": "request_task", "worker_id": 7}, "Expected `str`, got `int`"),
        ({"type": "request_task", "worker_id": "two words"}, "$.worker_id"),
        ({"type": "request_task", "worker_id": "w", "heartbeat_s": 0}, "$.heartbeat_s"),
        ({"type": "task_failed", "worker_id": "w", "error": "e", "cause": "moon"}, "$.cause"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_protocol_does_not_know_is_refused_by_name(
    manager: ExperimentManager, message: dict[str, object], found: str
) -> None:
    with RawClient(manager.port) as talk:
        talk.socket.sendall(json.dumps(message).encode())
        reply = talk.read()
    assert reply["type"] == "error"
    assert found in reply["error"]


# -- connections ---------------------------------------------------------------------------------------------


def test_300_simultaneous_connections_are_all_answered(manager: ExperimentManager) -> None:
    talks = [RawClient(manager.port) for _ in range(300)]
    for talk in talks:
        talk.socket.sendall(STATUS)
    assert {talk.read()["type"] for talk in talks} == {"status"}
    for talk in talks:
        talk.socket.close()


def test_a_client_that_never_reads_blocks_nobody_and_is_left(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.3)
    with folder.serving() as manager, RawClient(manager.port) as deaf:
        caplog.set_level("DEBUG", server.__name__)
        deaf.socket.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionError)):  # no room for more; or it was left already
            while True:
                deaf.socket.send(1000 * (STATUS + b"\n"))
        assert serves(manager)
        poll(lambda: "connection ended: timed out" in caplog.text, "the end of the deaf connection")


def test_an_idle_connection_is_closed_unless_a_task_is_out_on_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.serving() as manager, worker(manager) as busy:
        assert busy.say("request_task")["type"] == "task"
        monkeypatch.setattr(server, "IDLE_S", 0.1)
        busy.say("status")  # its silence begins after this
        for _ in range(2):  # the second one began to be silent long after the first
            with RawClient(manager.port) as idle:
                assert idle.is_ended()
        assert busy.say("status")["type"] == "status"


def test_a_peer_that_leaves_in_the_middle_of_a_message_harms_nobody(manager: ExperimentManager) -> None:
    with RawClient(manager.port) as talk:
        talk.socket.sendall(STATUS[:7])
    reset = RawClient(manager.port)
    reset.socket.sendall(STATUS[:7])
    reset.reset()
    asked = RawClient(manager.port)
    asked.socket.sendall(STATUS)
    asked.reset()  # before the reply
    assert serves(manager)


def test_a_bug_becomes_an_error_reply_and_a_traceback_in_the_log(
    folder: Folder, manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawClient(manager.port, token=folder.token) as talk:
        with monkeypatch.context() as patch:
            patch.setattr(Admin, "status", lambda self: 1 // 0)
            error = talk.say("status")["error"]
        assert error == "internal error; the manager's log has the traceback"
        assert talk.say("status")["type"] == "status"
    log = "\n".join(folder.log())
    assert "request failed" in log
    assert "ZeroDivisionError" in log
    assert folder.token not in log


def test_a_stopped_manager_closes_its_connections(folder: Folder) -> None:
    with folder.serving() as manager:
        talk = RawClient(manager.port)
        talk.say("status")
    with talk:
        assert talk.is_ended()


@pytest.mark.parametrize(("port", "found"), [(None, "Address already in use"), (70000, "0-65535")])
def test_a_port_that_cannot_be_had_is_named(
    manager: ExperimentManager, tmp_path: Path, port: int | None, found: str
) -> None:
    other = Folder(tmp_path / "other")
    other.configure([1])
    wanted = ExperimentManager(port=port or manager.port, workdir=other.root)
    with pytest.raises(UserError, match=f"^127.0.0.1:{port or manager.port}: .*{found}.*--port$"):
        wanted.start()


def test_who_has_shown_the_secret_makes_room_for_another_unauthenticated() -> None:
    limits = ConnectionLimits()
    assert all(limits.admit("10.0.0.1") for _ in range(MAX_UNAUTHENTICATED))
    assert not limits.admit("10.0.0.1")
    assert limits.admit("10.0.0.2"), "each address has its own share"
    limits.authenticated("10.0.0.1")
    assert limits.admit("10.0.0.1")
    assert not limits.admit("10.0.0.1")
    limits.release("10.0.0.1", is_unauthenticated=True)
    assert limits.admit("10.0.0.1")


def test_a_flood_of_refusals_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "WARNINGS_PER_MINUTE", 5)
    limits = ConnectionLimits()
    for _ in range(100):
        limits.log_refusal("10.0.0.1:5", "nonsense")
    assert caplog.messages == ["10.0.0.1:5: refused: nonsense"] * 5
    clock = server.time.monotonic
    monkeypatch.setattr(server.time, "monotonic", lambda: clock() + 60)
    limits.log_refusal("10.0.0.1:5", "nonsense")
    assert caplog.messages[5:] == ["95 more refusals were not logged", "10.0.0.1:5: refused: nonsense"]
    for _ in range(6):
        limits.log_refusal("10.0.0.1:5", "nonsense")
    limits.close()
    assert caplog.messages[-1] == "2 more refusals were not logged"


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are no files there")
def test_a_low_limit_of_open_files_is_raised_and_leaves_some_for_the_sweep() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "from distexp.wire.server import SPARE_FILES, ConnectionLimits\n"
        "limits = ConnectionLimits()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), SPARE_FILES)\n"
        "print(sum(limits.admit(str(number)) for number in range(500)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout == "(200, 200) 64\n136\n"
