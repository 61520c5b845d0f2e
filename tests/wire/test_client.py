import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from distexp.errors import ManagerUnreachable, ProtocolError, Unauthorized, UserError
from distexp.system import locks
from distexp.wire.auth import load_or_make_identity, parse_token
from distexp.wire.client import Client
from distexp.wire.framing import encode
from distexp.wire.messages import Drain, NoTask, RequestTask, Status, StatusReply, TaskReply
from distexp.workdir import Workdir
from tests.live_manager import Folder
from tests.support import silent_port


@contextmanager
def another_program(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A port on which every connection gets `answer` to its first bytes, then its end; and what it heard."""
    heard: list[bytes] = []

    def answer_one(connection: socket.socket) -> None:
        with connection, tls.wrap_socket(connection, server_side=True) if tls else connection as talk:
            if said := talk.recv(65536):
                heard.append(said)
                talk.sendall(answer)

    def answer_all() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError):
                answer_one(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_client_finds_port_and_secret_in_the_folder(folder: Folder) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root)) as client:
        assert client.address == f"localhost:{manager.port}"
        assert client.call(Status(), StatusReply).status.total == 3
        assert client.call(RequestTask(worker_id="gpu0"), TaskReply).task_id == "exp1_vary_width_0_42"


def test_it_is_found_where_localhost_is_an_address_of_ipv6_alone(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more: look_up("::1" if host == "localhost" else host, *more)
    )
    with folder.serving(), Client(Workdir(folder.root)) as client:
        assert client.call(Status(), StatusReply).status.total == 3


def test_a_client_follows_a_manager_that_restarts_on_another_port(folder: Folder) -> None:
    with Client(Workdir(folder.root)) as client:
        with folder.serving():
            client.call(Status(), StatusReply)
        with folder.serving():  # the old connection is found dead, and a new one made
            assert client.call(Status(), StatusReply).status.total == 3


def test_a_manager_that_is_not_there_is_named_with_cause_and_remedy(folder: Folder) -> None:
    with (
        silent_port() as port,
        Client(Workdir(folder.root), port=port) as client,
        pytest.raises(ManagerUnreachable) as error,
    ):
        client.call(Status(), StatusReply)
    assert str(error.value) == (
        f"no manager answers at localhost:{port} (Connection refused); start one there "
        "with `distexp manager`, or name another host and port"
    )


def test_a_refusal_is_an_error_of_the_protocol(folder: Folder) -> None:
    with folder.serving(), Client(Workdir(folder.root)) as client:
        with pytest.raises(
            ProtocolError, match=r"^worker nobody: not known; `workers` lists those that are$"
        ):
            client.call(Drain(worker_id="nobody"), NoTask)
        with pytest.raises(ProtocolError, match=r"the reply has the wrong type .status"):
            client.call(Status(), NoTask)
        client.call(Status(), StatusReply)


def test_the_manager_of_another_folder_is_none_until_this_folder_has_had_its_own(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Folder(tmp_path_factory.mktemp("here"))
    here.configure([1])
    refusal = f"{here.root}/.experiment_manager/token: missing; copy it from the manager's folder"
    with folder.serving() as other, Client(Workdir(here.root)) as client:
        monkeypatch.setattr("distexp.wire.client.DEFAULT_PORT", other.port)
        with pytest.raises(ManagerUnreachable) as error:
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        assert str(error.value) == (
            f"no manager answers for this folder, and that at localhost:{other.port} is another folder's; "
            "start one here with `distexp manager`, or name the other folder with --workdir"
        )
        with Client(Workdir(here.root), port=other.port) as sent, pytest.raises(Unauthorized, match=refusal):
            sent.call(RequestTask(worker_id="gpu0"), TaskReply)
        with here.serving():
            assert client.call(RequestTask(worker_id="gpu0"), TaskReply).attempt == 1


@pytest.mark.parametrize("host", [None, "localhost", "127.0.0.1"])
def test_where_a_folders_manager_was_that_of_another_folder_is_none_of_its_own(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, host: str | None
) -> None:
    here = Folder(tmp_path_factory.mktemp("here"))
    here.configure([1])
    with here.serving():
        pass
    with folder.serving() as other:
        Workdir(here.root).announce("127.0.0.1", other.port)  # as if it had served that port
        with Client(Workdir(here.root), host) as client:
            with pytest.raises(ManagerUnreachable, match=r"^no manager answers for this folder, and that at"):
                client.call(Status(), StatusReply)
            with (
                locks.acquire(Workdir(here.root).lock, 0.0),
                pytest.raises(ManagerUnreachable, match="this manager's certificate is not the one"),
            ):
                client.call(Status(), StatusReply)
        with (
            Client(Workdir(here.root), port=other.port) as sent,
            pytest.raises(ManagerUnreachable, match="this manager's certificate is not the one"),
        ):
            sent.call(Status(), StatusReply)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_of_this_host_finds_the_port_of_the_folders_manager(folder: Folder, host: str) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root), host) as client:
        assert client.address == f"{host}:{manager.port}"
        assert client.call(Status(), StatusReply).status.total == 3


def test_what_may_succeed_later_is_a_manager_that_cannot_be_reached_now(folder: Folder) -> None:
    with folder.serving() as manager, Client(Workdir(folder.root)) as client:
        manager.journal._database.execute("PRAGMA query_only=ON")
        with pytest.raises(ManagerUnreachable, match="the records are kept and tried again"):
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        manager.journal._database.execute("PRAGMA query_only=OFF")
        assert client.call(RequestTask(worker_id="gpu0"), TaskReply).attempt == 1


TASK = encode(
    TaskReply(
        task_id="t", phase="p", config={}, seed=1, output_dir="d", lease_id="l", attempt=1, writes_row=False,
        sweep_id="s",
    )
)  # fmt: skip


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", TASK], ids=["http", "a task"])
def test_a_program_that_speaks_no_tls_hands_out_nothing(folder: Folder, answer: bytes) -> None:
    with (
        folder.serving(),
        another_program(answer) as (port, heard),
        Client(Workdir(folder.root), port=port) as client,
    ):
        words = f"^localhost:{port}: another program answers there"
        with pytest.raises(ManagerUnreachable, match=words):
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        assert folder.token.encode() not in b"".join(heard)


def test_a_program_with_a_certificate_of_its_own_hands_out_nothing_and_hears_no_secret(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    thief = Workdir(tmp_path_factory.mktemp("thief"))
    thief.hold().release()
    _, tls = load_or_make_identity(thief)
    with (
        folder.serving(),
        another_program(TASK, tls) as (port, heard),
        Client(Workdir(folder.root), port=port) as client,
    ):
        with pytest.raises(ManagerUnreachable) as error:
            client.call(RequestTask(worker_id="gpu0"), TaskReply)
        assert str(error.value) == (
            f"localhost:{port}: this manager's certificate is not the one that "
            f"{folder.root}/.experiment_manager/token names (no secret was sent): copy it again if "
            "it is of an earlier manager, or name another host and port"
        )
    assert heard == [], "the client has left before its first word"


def test_a_manager_with_a_new_certificate_is_believed_by_workers_of_its_folder_alone(folder: Folder) -> None:
    with folder.serving():
        old = parse_token(folder.token_text.encode(), "EXPERIMENT_TOKEN", "")
    (folder.root / ".experiment_manager" / "certificate.pem").unlink()
    with folder.serving():
        with Client(Workdir(folder.root)) as client:
            assert client.call(Status(), StatusReply).status.total == 3
        with (
            Client(Workdir(folder.root), token=old) as elsewhere,
            pytest.raises(
                ManagerUnreachable,
                match=r"the one that EXPERIMENT_TOKEN names.*: unset EXPERIMENT_TOKEN or set",
            ),
        ):
            elsewhere.call(Status(), StatusReply)


@pytest.mark.parametrize("answer", [b'{"type": "status"', b""], ids=["half a reply", "none"])
def test_a_connection_that_ends_before_a_whole_reply_may_be_tried_again(
    folder: Folder, answer: bytes
) -> None:
    with folder.serving():
        pass
    _, tls = load_or_make_identity(Workdir(folder.root))
    with (
        another_program(answer, tls) as (port, _),
        Client(Workdir(folder.root), port=port) as client,
        pytest.raises(ManagerUnreachable, match="closed before a whole reply came"),
    ):
        client.call(Status(), StatusReply)


def test_a_connection_that_ends_in_the_handshake_may_be_tried_again(folder: Folder) -> None:
    with folder.serving():
        pass
    with (
        another_program(b"") as (port, _),
        Client(Workdir(folder.root), port=port) as client,
        pytest.raises(ManagerUnreachable, match=r"closed in the handshake|reset by peer"),
    ):
        client.call(Status(), StatusReply)


def test_a_token_that_others_can_read_is_not_used(folder: Folder) -> None:
    with folder.serving(), Client(Workdir(folder.root)) as client:
        (folder.root / ".experiment_manager" / "token").chmod(0o644)
        with pytest.raises(Unauthorized, match=r"other users can read this secret .mode 0644"):
            client.call(Status(), StatusReply)


def test_on_another_machine_a_shared_folder_says_which_machine_its_manager_is_on(folder: Folder) -> None:
    with folder.serving(host="0.0.0.0") as manager:
        client = Client(manager.workdir)
        assert client.address == f"localhost:{manager.port}"
        told = json.loads(manager.workdir.info.read_text(encoding="utf-8"))
        manager.workdir.info.write_text(json.dumps(told | {"name": "login1"}), encoding="utf-8")
        assert client.address == f"login1:{manager.port}"
        assert Client(manager.workdir, "localhost").address == f"localhost:{manager.port}"


def test_workers_of_a_folder_find_its_manager_at_the_address_that_it_serves(folder: Folder) -> None:
    with folder.serving(host="127.0.0.7") as manager, Client(Workdir(folder.root)) as client:
        assert client.call(Status(), StatusReply).status.total == 3
        assert client.address == f"127.0.0.7:{manager.port}"


def test_while_a_folders_disk_hangs_what_it_said_before_counts_and_nobody_waits_for_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    answers.set()

    class NetworkDrive(Workdir):
        def read_info(self) -> Mapping[str, Any]:
            answers.wait()
            return super().read_info()

    with folder.serving(), Client(NetworkDrive(folder.root)) as client:
        try:
            assert client.call(Status(), StatusReply).status.total == 3
            client.close()
            answers.clear()
            monkeypatch.setattr("distexp.wire.client.FOLDER_S", 0.05)
            assert client.call(Status(), StatusReply).status.total == 3
            with pytest.raises(ManagerUnreachable, match="token: its disk does not answer"):
                Client(NetworkDrive(folder.root)).call(Status(), StatusReply)
        finally:
            answers.set()


@pytest.mark.parametrize("port", [0, -1, 70000])
def test_a_port_that_is_none_is_refused(folder: Folder, port: int) -> None:
    with pytest.raises(UserError, match=rf"^port: must be 1 to 65535 \(it is {port}\)$"):
        Client(Workdir(folder.root), port=port)


def test_a_host_that_is_none_is_refused(folder: Folder) -> None:
    with (
        Client(Workdir(folder.root), "a..b") as client,
        pytest.raises(UserError, match=r"^host: 'a\.\.b' is no host name"),
    ):
        client.call(Status(), StatusReply)


@pytest.mark.parametrize("length", [0, 5, 40, -3])
def test_a_token_that_is_half_copied_is_waited_for(folder: Folder, length: int) -> None:
    with folder.serving(), Client(Workdir(folder.root)) as client:
        token = Workdir(folder.root).token
        whole = token.read_text()
        token.write_text(whole[:length])
        token.chmod(0o644)  # a copy gets its mode at its end
        with pytest.raises(ManagerUnreachable, match="ends in the middle of the token"):
            client.call(Status(), StatusReply)
        token.chmod(0o600)
        token.write_text(whole)
        assert client.call(Status(), StatusReply).status.total == 3
