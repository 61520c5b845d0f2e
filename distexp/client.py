"""One manager, asked: connect, time out, ask again. Opens `protocol`, `workdir`.

Every request may be repeated: the manager gives the same lease again, acknowledges a report again.
"""

import socket
from types import TracebackType
from typing import Self, TypeVar

from msgspec import structs

from distexp.errors import ManagerUnreachable, ProtocolError, UserError
from distexp.protocol import (
    DEFAULT_PORT,
    MAX_MESSAGE_BYTES,
    SECRET_WANTED,
    AnyReply,
    AnyRequest,
    ErrorReply,
    decode_reply,
    encode,
)
from distexp.workdir import Workdir

CONNECT_S = 5.0  # a host that does not answer by then is down or firewalled
REPLY_S = 10.0  # a manager that does not answer by then is stuck; the request is repeated later
RECEIVE_BYTES = 64 * 1024
MAX_PORT = 65535

Reply = TypeVar("Reply")


class Client:
    """A connection to a manager, made when needed. For one thread."""

    def __init__(self, workdir: Workdir, host: str | None = None, port: int | None = None) -> None:
        """Connect to nothing yet.

        Args:
            workdir: Where the secret is found, and the port of the folder's manager. Both are looked up at
                each connection: the manager may start after its workers, or again on another port.
            host: Of the manager; None for this one.
            port: None for that of the folder's manager, else the default.

        Raises:
            UserError: There is no such port.
        """
        if port is not None and not 0 < port <= MAX_PORT:
            raise UserError(f"port: found {port}, expected 1 to {MAX_PORT}")
        self._workdir = workdir
        self._host, self._wanted_port = host or "localhost", port
        self._is_placed = host is not None or port is not None
        self._token: str | None = None
        self._socket: socket.socket | None = None

    @property
    def address(self) -> str:
        """Where the manager is, for messages."""
        return f"{self._host}:{self._port()}"

    def _port(self) -> int:
        if self._wanted_port is not None:
            return self._wanted_port
        known = self._workdir.read_info().get("port") if self._host == "localhost" else None
        return int(known or DEFAULT_PORT)

    @property
    def socket(self) -> socket.socket | None:
        """The open connection: readable between calls means that the manager has closed it."""
        return self._socket

    def call(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        """Send a request and return its reply.

        Raises:
            ManagerUnreachable: No manager answers, or it cannot do this now. Or nobody named one, this folder
                has had none yet, and that at the default port wants another secret. Holds the cause.
            ProtocolError: The manager refuses the request, or answers with something else than `expected`.
        """
        line = self._exchange(request)
        try:
            reply = decode_reply(line)
        except ProtocolError as error:
            self.close()
            raise ProtocolError(
                f"{self.address}: found an answer of another program ({error}), expected one of a manager"
            ) from None
        if isinstance(reply, ErrorReply):
            raise self._refusal(reply)
        if not isinstance(reply, expected):
            raise ProtocolError(f"{self.address}: found a reply {_type(reply)}, expected another")
        return reply

    def _refusal(self, reply: ErrorReply) -> ManagerUnreachable | ProtocolError:
        if reply.again:
            return ManagerUnreachable(reply.error)
        if reply.error.endswith(SECRET_WANTED) and not self._is_placed and not self._workdir.read_info():
            self.close()  # the next call looks again where this folder's own is
            return ManagerUnreachable(
                f"no manager has started in this folder yet, and that at {self.address} is another folder's "
                f"({reply.error}); start one with `python experiment_manager.py` here"
            )
        return ProtocolError(reply.error)

    def _exchange(self, request: AnyRequest) -> bytes:
        was_open = self._socket is not None
        try:
            return self._try(request)
        except OSError as error:
            self.close()
            if not was_open or isinstance(error, TimeoutError):
                raise self._unreachable(error) from None
        try:
            return self._try(request)  # the old connection had died while it was idle
        except OSError as error:
            self.close()
            raise self._unreachable(error) from None

    def _try(self, request: AnyRequest) -> bytes:
        if self._socket is None:
            try:
                self._socket = socket.create_connection((self._host, self._port()), CONNECT_S)
            except UnicodeError as error:  # a name with empty or overlong parts
                raise UserError(f"host: found {self._host!r} ({error}), expected a name or address") from None
            self._token = self._workdir.find_secret()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(REPLY_S)
        self._socket.sendall(encode(structs.replace(request, token=self._token)))
        reply = bytearray()
        while not reply.endswith(b"\n"):
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the connection was closed before a whole reply came")
            reply += data
            if len(reply) > 2 * MAX_MESSAGE_BYTES:
                self.close()
                raise ProtocolError(f"{self.address}: found a reply of {len(reply)} bytes, expected a line")
        return bytes(reply)

    def _unreachable(self, error: OSError) -> ManagerUnreachable:
        cause = error.strerror or str(error) or type(error).__name__
        return ManagerUnreachable(
            f"no manager answers at {self.address} ({cause}); start one with `python experiment_manager.py` "
            "there, or name another host and port"
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


def _type(reply: AnyReply) -> str:
    return str(type(reply).__struct_config__.tag)
