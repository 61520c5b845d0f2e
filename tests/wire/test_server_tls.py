"""TLS and plain JSON on one port: what peers that mean no good, or no sense, can do."""

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from distexp.wire import server
from distexp.wire.auth import client_context, parse_token
from distexp.wire.client import Client
from distexp.wire.messages import RequestTask, Status, StatusReply, TaskReply
from distexp.workdir import Workdir
from tests.live_manager import Folder, RawClient
from tests.live_worker import await_file, gated_folder, open_gate
from tests.support import ENVIRONMENT, poll

HELLO = b"\x16\x03\x01"  # how a TLS handshake begins


@contextmanager
def tls(port: int) -> Iterator[RawClient]:
    """A connection in TLS that looks at no certificate."""
    with RawClient(port) as talk:
        talk.socket = client_context().wrap_socket(talk.socket)
        yield talk


def connection_threads() -> int:
    """Return how many connections have a thread; the manager has other threads, at any time."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_both_languages_are_spoken_on_one_port(folder: Folder) -> None:
    with folder.serving() as manager, RawClient(manager.port) as plain, tls(manager.port) as secret:
        assert plain.say("status") == secret.say("status")
        assert secret.say("request_task", worker_id="w", token=folder.token)["type"] == "task"
        assert plain.say("request_task", worker_id="v", token=folder.token)["type"] == "task"


def test_tls_needs_the_secret_all_the_same(folder: Folder) -> None:
    with folder.serving() as manager, tls(manager.port) as talk:
        assert "`token` is missing" in talk.say("request_task", worker_id="w")["error"]
        assert (
            "`token` holds a wrong secret" in talk.say("request_task", worker_id="w", token="guess")["error"]
        )


def test_old_tls_is_refused(folder: Folder) -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with folder.serving() as manager, RawClient(manager.port) as talk:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(talk.socket)
        with RawClient(manager.port) as other:
            assert other.say("status")["type"] == "status"


@pytest.mark.parametrize(
    "rubbish",
    [HELLO + b"\x00\x05hello", HELLO + b"\xff\xff" + bytes(70_000), b"\x16" * 1000],
    ids=["no hello", "too long", "one byte, often"],
)
def test_tls_rubbish_ends_its_connection_and_nothing_else(folder: Folder, rubbish: bytes) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root)) as first:
        first.call(Status(), StatusReply)
        before = connection_threads()
        assert before >= 1
        with RawClient(manager.port) as talk:
            talk.socket.sendall(rubbish)
            with pytest.raises((ConnectionError, AssertionError)):  # closed; perhaps after a TLS alert
                while True:
                    assert talk.socket.recv(1000)
        with Client(Workdir(folder.root)) as client:
            assert client.call(Status(), StatusReply).status.total == 3
        poll(lambda: connection_threads() <= before, "the end of the connections' threads")
    assert any(": refused: [SSL" in line for line in folder.log())


def test_a_handshake_that_never_ends_is_left_though_it_drips(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MESSAGE_S", 0.5)
    with folder.serving() as manager, RawClient(manager.port) as talk:
        caplog.set_level("DEBUG", server.__name__)
        talk.socket.sendall(HELLO + b"\x02\x00\x01\x00\x01\xfc\x03\x03")  # of a record of 512 bytes
        talk.socket.settimeout(0.02)
        with pytest.raises(ConnectionError):  # a byte may meet a closed connection before its end is read
            while True:
                talk.socket.sendall(b"\x00")
                try:
                    if not talk.socket.recv(1000):
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert "The handshake operation timed out" in caplog.text


def test_a_third_refusal_ends_the_connection_of_a_unauthenticated_and_of_nobody_else(folder: Folder) -> None:
    with folder.serving() as manager, RawClient(manager.port, token="guess", worker_id="w") as talk:
        for _ in range(3):
            assert "`token` holds a wrong secret" in talk.say("request_task")["error"]
        assert talk.is_ended()
        with RawClient(manager.port, token=folder.token) as known:
            assert known.say("workers")["type"] == "workers"
            for _ in range(5):
                assert known.say("nonsense")["type"] == "error"
    assert folder.token not in "\n".join(folder.log())


def test_a_right_secret_is_welcome_whatever_others_have_guessed(folder: Folder) -> None:
    with folder.serving() as manager:
        for _ in range(50):
            with RawClient(manager.port, token="guess", worker_id="w") as talk:
                talk.say("request_task")
        with Client(Workdir(folder.root)) as client:
            assert client.call(RequestTask(worker_id="w"), TaskReply).attempt == 1


def test_a_form_that_a_browser_sends_does_nothing_even_without_auth(folder: Folder) -> None:
    with folder.serving(auth=False) as manager, RawClient(manager.port) as browser:
        body = '{"type":"cancel","tasks":["exp1_vary_width_0_42"]}'
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nOrigin: http://x\r\n"
        browser.socket.sendall(f"{head}\r\n{body}".encode())
        assert [browser.read()["type"] for _ in range(3)] == ["error"] * 3
        assert browser.is_ended()
        assert manager.dispatcher.status().cancelled == 0


def test_where_places_run_short_the_longest_silent_without_the_secret_makes_room(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_UNAUTHENTICATED", 5)
    with folder.serving() as manager, Client(Workdir(folder.root)) as client:
        client.call(RequestTask(worker_id="w"), TaskReply)  # authenticated from now on
        silent = [RawClient(manager.port) for _ in range(5)]
        poll(lambda: len(manager._server.limits._silent) == 5, "the silent connections")
        for talk in silent[:4]:
            assert talk.say("status")["type"] == "status"
        with Client(Workdir(folder.root)) as late:
            assert late.call(RequestTask(worker_id="late"), TaskReply)
            assert silent[4].is_ended()
        assert client.call(Status(), StatusReply).status.total == 3
        for talk in silent:
            talk.socket.close()
        poll(lambda: not manager._server.limits._unauthenticated, "the end of the silent connections")
        with RawClient(manager.port) as talk:
            assert talk.say("status")["type"] == "status"


def test_a_stop_ends_connections_in_tls_too(folder: Folder) -> None:
    with folder.serving() as manager:
        token = parse_token(folder.token_text.encode(), "here", "")
        with Client(Workdir(folder.root), token=token) as client:
            client.call(Status(), StatusReply)
            manager.stop()
            assert client.socket is not None
            client.socket.settimeout(30)
            assert client.socket.recv(1) == b""


def test_the_end_of_a_connection_is_no_line_in_the_log_however_it_ends(folder: Folder) -> None:
    with folder.serving() as manager:
        with tls(manager.port) as left, tls(manager.port) as reset, RawClient(manager.port) as half:
            for talk in (left, reset):
                talk.say("status")
            left.socket.close()  # without TLS's farewell, as of a process that was killed
            reset.reset()
            half.socket.sendall(HELLO)
            half.socket.close()
            poll(lambda: not manager._server._open, "all have ended")
        with tls(manager.port) as stopped:
            stopped.say("status")
            manager.stop()
    assert [line for line in folder.log() if "refused" in line or "EOF" in line] == []


def test_many_requests_at_once_pass_through_tls(folder: Folder) -> None:
    with folder.serving() as manager, tls(manager.port) as talk:
        talk.socket.sendall(2000 * b'{"type": "status"}\n')
        assert {talk.read()["type"] for _ in range(2000)} == {"status"}


SHOWS = """
import os, time
from pathlib import Path
def run(params, context):
    Path("environment.new").write_text(repr(dict(os.environ)))
    os.rename("environment.new", "environment")
    while not Path("gate").exists(): time.sleep(0.01)
    return {"score": 1}
"""


def test_the_secret_is_in_no_process_list_and_in_no_environment_of_a_task(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", SHOWS)
    with folder.serving():
        given = {"EXPERIMENT_TOKEN": folder.token_text}
    run = [sys.executable, "-m", "distexp", "run", "--plain", "--port", "0", "--workers", "1"]
    with subprocess.Popen(
        run,
        cwd=tmp_path,
        env=ENVIRONMENT | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        await_file(tmp_path / "environment")
        lines = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
        open_gate(tmp_path)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert any("distexp" in line for line in lines)
    for text in (said, (tmp_path / "environment").read_text(), *lines):
        assert folder.token not in text


def test_the_secret_is_in_no_reply_and_in_no_line_of_the_log(folder: Folder) -> None:
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as talk:
        said = [
            talk.say("request_task", worker_id="w"),
            talk.say("workers"),
            talk.say("tasks"),
            talk.say("drain", worker_id="nobody"),
            talk.say("task_failed", worker_id="w", task_id="x", error="e"),
            talk.say("steal", worker_id="w"),
            talk.say("cancel", tasks=["nope"]),
        ]
    assert folder.token not in json.dumps(said)
    assert folder.token not in "\n".join(folder.log())
