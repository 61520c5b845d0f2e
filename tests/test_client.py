import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_manager import Folder

from distexp.client import Client
from distexp.errors import ManagerUnreachable, ProtocolError, UserError
from distexp.protocol import Drain, NoTask, RequestTask, Status, StatusReply, TaskReply
from distexp.workdir import Workdir


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 3])
    return folder


@contextmanager
def another_program(answer: bytes) -> Iterator[int]:
    """A port on which every connection gets `answer` to its first bytes, then its end."""

    def answer_all() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                if connection.recv(65536):
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_client_finds_port_and_secret_in_the_folder(folder: Folder) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root)) as client:
        assert client.address == f"localhost:{manager.port}"
        assert client.call(Status(), StatusReply).status["total"] == 3
        assert client.call(RequestTask(worker_id="gpu0"), TaskReply).task_id == "exp1_vary_width_0_42"


def test_a_client_follows_a_manager_that_restarts_on_another_port(folder: Folder) -> None:
    with Client(Workdir(folder.root)) as client:
        with folder.serving():
            client.call(Status(), StatusReply)
        with folder.serving():  # the old connection is found dead, and a new one made
            assert client.call(Status(), StatusReply).status["total"] == 3


def test_a_manager_that_is_not_there_is_named_with_cause_and_cure(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(Workdir(folder.root), port=port) as client, pytest.raises(ManagerUnreachable) as error:
        client.call(Status(), StatusReply)
    assert str(error.value) == (
        f"no manager answers at localhost:{port} (Connection refused); start one with "
        "`python experiment_manager.py` there, or name another host and port"
    )


def test_a_refusal_is_an_error_of_the_protocol(folder: Folder) -> None:
    with folder.serving(), Client(Workdir(folder.root)) as client:
        with pytest.raises(
            ProtocolError, match=r"^worker nobody: not known; `workers` lists those that are$"
        ):
            client.call(Drain(worker_id="nobody"), NoTask)
        with pytest.raises(ProtocolError, match="found a reply status, expected another"):
            client.call(Status(), NoTask)
        client.call(Status(), StatusReply)


def test_the_manager_of_another_folder_is_none_until_this_folder_has_had_its_own(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Folder(tmp_path_factory.mktemp("here"))
    here.configure([1])
    refusal = "request_task: found no token, expected the secret"
    with folder.serving() as other, Client(Workdir(here.root)) as client:
        monkeypatch.setattr("distexp.client.DEFAULT_PORT", other.port)
        with pytest.raises(ManagerUnreachable) as error:
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        assert str(error.value).startswith(
            f"no manager has started in this folder yet, and that at localhost:{other.port} "
            f"is another folder's ({refusal}"
        )
        with Client(Workdir(here.root), port=other.port) as sent, pytest.raises(ProtocolError, match=refusal):
            sent.call(RequestTask(worker_id="gpu0"), TaskReply)
        with here.serving():
            assert client.call(RequestTask(worker_id="gpu0"), TaskReply).attempt == 1


def test_what_may_succeed_later_is_a_manager_that_cannot_be_reached_now(folder: Folder) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root)) as client:
        manager.journal._database.execute("PRAGMA query_only=ON")
        with pytest.raises(ManagerUnreachable, match="the records are kept and tried again"):
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        manager.journal._database.execute("PRAGMA query_only=OFF")
        assert client.call(RequestTask(worker_id="gpu0"), TaskReply).attempt == 1


def test_another_program_on_the_port_is_told_apart(folder: Folder) -> None:
    with (
        another_program(b"HTTP/1.1 400 Bad Request\r\n") as port,
        Client(Workdir(folder.root), port=port) as client,
        pytest.raises(ProtocolError, match=f"^localhost:{port}: found an answer of another program"),
    ):
        client.call(Status(), StatusReply)


def test_a_connection_that_ends_in_the_middle_of_a_reply_is_no_manager(folder: Folder) -> None:
    with (
        another_program(b'{"type": "status"') as port,
        Client(Workdir(folder.root), port=port) as client,
        pytest.raises(ManagerUnreachable, match="closed before a whole reply came"),
    ):
        client.call(Status(), StatusReply)


@pytest.mark.parametrize("port", [0, -1, 70000])
def test_a_port_that_is_none_is_refused(folder: Folder, port: int) -> None:
    with pytest.raises(UserError, match=f"^port: found {port}, expected 1 to 65535$"):
        Client(Workdir(folder.root), port=port)


def test_a_host_that_is_none_is_refused(folder: Folder) -> None:
    with (
        Client(Workdir(folder.root), "a..b") as client,
        pytest.raises(UserError, match=r"^host: found 'a\.\.b'"),
    ):
        client.call(Status(), StatusReply)
