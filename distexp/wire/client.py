"""A client of one manager over TLS: connects when needed, times out, tries again once.

Every request may be repeated: the manager gives the same lease again, acknowledges a report again.
"""

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import structs

from distexp import __version__
from distexp.errors import (
    DistexpError,
    ManagerUnreachable,
    OtherManager,
    ProtocolError,
    Refused,
    TokenIncomplete,
    Unauthorized,
    UserError,
)
from distexp.system import locks
from distexp.system.beside import Latest
from distexp.system.process import host_name
from distexp.wire.auth import TOKEN_VARIABLE, Token, client_context, read_token, secure
from distexp.wire.framing import MAX_MESSAGE_BYTES, decode_reply, encode
from distexp.wire.messages import DEFAULT_PORT, AnyReply, AnyRequest, ErrorReply
from distexp.workdir import MAX_PORT, Workdir

FOLDER_S = 2.0  # to read address and token of a folder whose disk may hang; then those of before count
CONNECT_S = 5.0  # a host that does not answer by then is down or firewalled
REPLY_S = 10.0  # a manager that does not answer by then is stuck; the request is repeated later
RECEIVE_BYTES = 64 * 1024
THIS_HOST = (None, "localhost", "127.0.0.1")  # where the folder says which port its manager serves

_NOT_KNOWN = re.compile(r"Object contains unknown field `(\w+)`|Invalid value '(\w+)' - at `\$\.type`")

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class _Folder:
    """What the working folder says of its manager."""

    info: Mapping[str, Any]
    token: Token | DistexpError | None  # or why there is none


class Client:
    """A connection to a manager, made when needed. For one thread."""

    def __init__(
        self,
        workdir: Workdir,
        host: str | None = None,
        port: int | None = None,
        *,
        token: Token | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            workdir: Where the token is found, and the address of the folder's manager. Both are looked up at
                each connection: the manager may start after its workers, or again on another port.
            host: Of the manager; None for that of the folder's manager, else this one.
            port: None for that of the folder's manager, else the default.
            token: None for that of the folder.

        Raises:
            UserError: There is no such port.
        """
        if port is not None and not 0 < port <= MAX_PORT:
            raise UserError(f"port: must be 1 to {MAX_PORT} (it is {port})")
        self._workdir = workdir
        self._wanted = (host, port)
        self._given = token
        self._folder = Latest(self._read_folder, None)
        self._secret = ""  # of the open connection
        self._context = client_context()
        self._socket: socket.socket | None = None
        self._reply = bytearray()  # as much as has come

    @property
    def address(self) -> str:
        """Where the manager is, for messages."""
        host, port = self._place(self._look())
        return f"{host}:{port}"

    def _read_folder(self) -> _Folder:
        try:
            return _Folder(self._workdir.read_info(), self._given or read_token(self._workdir))
        except TokenIncomplete as error:
            return _Folder(self._workdir.read_info(), ManagerUnreachable(str(error)))
        except UserError as error:  # not the end of a worker that has a task in hand
            return _Folder(self._workdir.read_info(), Unauthorized(str(error)))

    def _look(self) -> _Folder | None:
        """Return what the folder says; what it said before, or None, while its disk does not answer."""
        return self._folder.read(FOLDER_S)

    def _place(self, folder: _Folder | None) -> tuple[str, int]:
        host, port = self._wanted
        info = folder.info if folder and host in THIS_HOST else {}
        if host is None:
            known = str(info.get("host", ""))
            host = "localhost" if known in ("", "127.0.0.1") else known
            if "name" in info and info["name"] != host_name():  # a node of a cluster that shares the folder
                host = str(info["name"])
        return host, port or int(info.get("port") or DEFAULT_PORT)

    def _is_placed(self, folder: _Folder) -> bool:
        """Return whether the user said where the manager is, or one that runs for this folder."""
        host, port = self._wanted
        if host not in THIS_HOST or port is not None or self._given is not None:
            return True
        if folder.info.get("name", host_name()) != host_name():  # whose lock this host cannot see, perhaps
            return True
        try:
            return bool(folder.info) and locks.is_held(self._workdir.lock)
        except (OSError, UserError):
            return True

    @property
    def socket(self) -> socket.socket | None:
        """The open connection: readable between calls means that the manager has closed it."""
        return self._socket

    def last_end(self) -> str | None:
        """Return what tells the manager's last end, as nothing could run, from others; empty: there is none.

        None while the folder's disk does not answer.
        """
        folder = self._look()
        if folder is None:
            return None
        is_ours = self._wanted[0] in THIS_HOST and self._place(folder)[1] == folder.info.get("port")
        return str(folder.info.get("ended", "")) if is_ours else ""

    def call(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        """Send a request and return its reply.

        Raises:
            ManagerUnreachable: No manager answers, or another one or another program does, or it cannot do
                this now. Holds the cause.
            Refused: The manager does not grant the request.
            ProtocolError: It answers with something else than `expected`.
            Unauthorized: This folder has no token, or a damaged one; nothing was sent.
            UserError: The host is no name.
        """
        return self._decode(self._exchange(request), expected)

    def begin(self, request: AnyRequest) -> None:
        """Send a request whose reply may take long: `poll` returns it.

        Raises:
            ManagerUnreachable, ProtocolError, Unauthorized, UserError: As `call` does.
        """
        self._repeat_once(lambda: self._send(request))

    def poll(self, expected: type[Reply]) -> Reply | None:
        """Return the reply to what was begun, None while it has not come; never waits.

        Raises:
            ManagerUnreachable, Refused, ProtocolError: As `call` does.
        """
        if self._socket is None:
            raise self._unreachable(ConnectionResetError("the connection was closed"))
        try:
            self._socket.settimeout(0)
            self._receive()
            self._socket.settimeout(REPLY_S)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._socket.settimeout(REPLY_S)
            return None
        except OSError as error:
            self.close()
            raise self._unreachable(error) from None
        return self._decode(bytes(self._reply), expected)

    def _decode(self, line: bytes, expected: type[Reply]) -> Reply:
        try:
            reply = decode_reply(line)
        except ProtocolError as error:
            self.close()
            who = "another program answers there, not a manager"
            if line.startswith(b'{"type":'):
                who = (
                    f"a manager of another version answers than this distexp ({__version__}): use its version"
                )
            raise ProtocolError(f"{self.address}: {who} ({error})") from None
        if isinstance(reply, ErrorReply):
            raise ManagerUnreachable(reply.error) if reply.again else Refused(self._refusal(reply.error))
        if not isinstance(reply, expected):
            raise ProtocolError(f"{self.address}: the reply has the wrong type ({_type(reply)})")
        return reply

    def _refusal(self, error: str) -> str:
        """Return why the manager refuses; of one that does not know our messages, what to do about it."""
        if (found := _NOT_KNOWN.search(error)) is None:
            return error
        return (
            f"the manager at {self.address} is of an earlier version than this distexp ({__version__}): it "
            f"does not know `{found[1] or found[2]}`. Update distexp there and start the manager again, or "
            "use its version here"
        )

    def _exchange(self, request: AnyRequest) -> bytes:
        def exchange() -> None:
            self._send(request)
            self._receive()

        self._repeat_once(exchange)
        return bytes(self._reply)

    def _repeat_once(self, step: Callable[[], None]) -> None:
        """Take a step over the open connection; over a new one if that one had died while it was idle."""
        was_open = self._socket is not None
        try:
            return step()
        except OSError as error:
            self.close()
            if not was_open or isinstance(error, TimeoutError):
                raise self._unreachable(error) from None
        try:
            step()
        except OSError as error:
            self.close()
            raise self._unreachable(error) from None

    def _send(self, request: AnyRequest) -> None:
        if self._socket is None:
            self._socket = self._connect()
        self._reply.clear()
        self._socket.sendall(encode(structs.replace(request, token=self._secret, version=__version__)))

    def _receive(self) -> None:
        """Receive until the reply is whole."""
        while not self._reply.endswith(b"\n"):
            data = self._socket.recv(RECEIVE_BYTES) if self._socket else b""
            if not data:
                raise ConnectionResetError("the connection was closed before a whole reply came")
            self._reply += data
            if len(self._reply) > 2 * MAX_MESSAGE_BYTES:
                size = len(self._reply)
                self.close()
                raise ProtocolError(f"{self.address}: the reply is too long ({size} bytes)")

    def _connect(self) -> ssl.SSLSocket:
        folder = self._look()
        if folder is None:
            raise ManagerUnreachable(f"{self._workdir.token}: its disk does not answer")
        host, port = self._place(folder)
        try:
            plain = _connected(host, port)
        except UnicodeError as error:  # a name with empty or overlong parts
            raise UserError(f"host: {host!r} is no host name or address ({error})") from None
        with plain:  # closed, unless TLS takes it over
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(REPLY_S)
            try:
                token = self._token(folder)
                self._secret = token.secret
                return secure(plain, self._context, token, self.address)
            except (Unauthorized, OtherManager):
                if self._is_placed(folder):
                    raise
                raise ManagerUnreachable(
                    f"no manager answers for this folder, and that at {self.address} is another folder's; "
                    "start one here with `distexp manager`, or name the other folder with --workdir"
                ) from None

    def _token(self, folder: _Folder) -> Token:
        if isinstance(folder.token, DistexpError):
            raise folder.token
        if folder.token is None:
            raise Unauthorized(
                f"{self._workdir.token}: missing; copy it from the manager's folder, or put its text into "
                f"{TOKEN_VARIABLE}"
            )
        return folder.token

    def _unreachable(self, error: OSError) -> ManagerUnreachable:
        cause = error.strerror or str(error) or type(error).__name__
        return ManagerUnreachable(
            f"no manager answers at {self.address} ({cause}); start one there with `distexp manager`, "
            "or name another host and port"
        )

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connected(host: str, port: int) -> socket.socket:
    if host == "localhost":  # which may be `::1` alone, where no manager of ours listens
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), CONNECT_S)
    return socket.create_connection((host, port), CONNECT_S)


def _type(reply: AnyReply) -> str:
    return str(type(reply).__struct_config__.tag)
