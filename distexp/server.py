"""socketserver glue: bytes -> message -> one answer -> bytes. Opens `protocol`.

One thread a connection; whatever arrives, the peer gets a reply or a closed connection, and serving goes on.
"""

import contextlib
import itertools
import logging
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from distexp.errors import (
    AlreadyRunning,
    DistexpError,
    JournalUnwritable,
    ProtocolError,
    ResultsUnwritable,
)
from distexp.protocol import (
    IDLE_S,
    MESSAGE_S,
    AnyReply,
    AnyRequest,
    ErrorReply,
    Framer,
    decode_request,
    encode,
)

BACKLOG = 1024  # 300 workers that start at once wait 71 s with the default of 5
RECEIVE_BYTES = 64 * 1024
POLL_S = 5.0  # between two looks at the stop flag while nothing arrives: each wakes an idle manager

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """One TCP connection; `number` is never used twice by a manager."""

    number: int
    peer: str  # address:port, for log lines


class Answerer(Protocol):
    """What the server needs of the room behind it.  Safe from any thread."""

    def handle(self, request: AnyRequest, connection: Connection) -> AnyReply:
        """Return the reply; a DistexpError becomes an error reply."""

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a silent connection must be kept open."""

    def closed(self, connection: Connection) -> None:
        """Learn that the connection is gone."""


class Server(socketserver.ThreadingTCPServer):
    """Serve `answerer` on an address until `stop`."""

    daemon_threads = True
    block_on_close = False  # `stop` closes the connections; threads end by themselves
    request_queue_size = BACKLOG
    allow_reuse_address = sys.platform != "win32"  # there it would let two managers share the port

    def __init__(self, host: str, port: int, answerer: Answerer) -> None:
        """Bind and listen; port 0 takes a free one.

        Raises:
            AlreadyRunning: The address cannot be bound.
        """
        self.answerer = answerer
        self._host = host
        self._numbers = itertools.count(1)
        self._open: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        try:
            super().__init__((host, port), _Conversation)
        except (OSError, OverflowError) as error:
            found = getattr(error, "strerror", "") or error
            raise AlreadyRunning(
                f"{host}:{port}: {found}, expected a free port: stop the program "
                "that holds it, or choose another one with --port"
            ) from None

    @property
    def port(self) -> int:
        """The port that is served."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind; on Windows so that no other program can bind the same port."""
        if sys.platform == "win32":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        super().server_bind()

    def start(self) -> None:
        """Serve from a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(POLL_S,), name="server", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and close every connection, so that workers notice at once."""
        stopping = threading.Thread(target=self.shutdown, name="stop")
        stopping.start()
        while stopping.is_alive():  # a connection makes `serve_forever` look at its flag at once
            with contextlib.suppress(OSError), socket.create_connection((self._host, self.port), POLL_S):
                stopping.join(0.02)
        self.server_close()
        with self._lock:
            sockets = list(self._open.values())
        for each in sockets:
            _shut(each, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Put the traceback of our bug into the log."""
        log.exception("%s: connection broken off", client_address)

    def enter(self, sock: socket.socket, address: tuple[str, int]) -> Connection:
        """Register a new connection."""
        connection = Connection(next(self._numbers), f"{address[0]}:{address[1]}")
        with self._lock:
            self._open[connection.number] = sock
        return connection

    def leave(self, connection: Connection) -> None:
        """Forget a connection and tell the answerer."""
        with self._lock:
            del self._open[connection.number]
        self.answerer.closed(connection)


class _Conversation(socketserver.BaseRequestHandler):
    """One connection from first byte to last."""

    server: Server
    request: socket.socket

    def handle(self) -> None:
        connection = self.server.enter(self.request, self.client_address)
        try:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reply is one small packet
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._converse(connection)
        except (OSError, ProtocolError) as error:
            log.debug("%s: connection ended: %s", connection.peer, error)
        finally:
            self.server.leave(connection)

    def _converse(self, connection: Connection) -> None:
        framer = Framer()
        begun_s = time.monotonic()  # when the message that is not complete began
        try:
            while data := self._receive(framer, connection, begun_s + MESSAGE_S):
                is_new = not framer.is_mid_message
                lines = framer.feed(data)
                if is_new or lines:
                    begun_s = time.monotonic()
                self.request.settimeout(MESSAGE_S)  # who does not read its replies is left
                for line in lines:
                    self.request.sendall(self._answer(line, connection))
        except ProtocolError as error:
            log.warning("%s: refused: %s", connection.peer, error)
            self._say_goodbye(error)

    def _receive(self, framer: Framer, connection: Connection, until_s: float) -> bytes:
        """Return more bytes; none when the peer has left or is silent without need.

        Raises:
            ProtocolError: A message has begun and did not go on.
        """
        is_mid_message = framer.is_mid_message
        while True:
            patience_s = max(until_s - time.monotonic(), 0.001) if is_mid_message else IDLE_S
            self.request.settimeout(patience_s)
            try:
                return self.request.recv(RECEIVE_BYTES)
            except TimeoutError:
                if is_mid_message:
                    raise ProtocolError(
                        f"message: found half of one, expected the rest within {MESSAGE_S:g} s"
                    ) from None
                if not self.server.answerer.has_lease(connection):
                    return b""

    def _answer(self, line: bytes, connection: Connection) -> bytes:
        try:
            return encode(self.server.answerer.handle(decode_request(line), connection))
        except DistexpError as error:
            log.warning("%s: refused: %s", connection.peer, error)
            again = isinstance(error, ResultsUnwritable | JournalUnwritable)
            return encode(ErrorReply(error=str(error), again=again))
        except Exception:  # whatever one request breaks, the manager serves on; our bug stands in the log
            log.exception("%s: request failed", connection.peer)  # without its text: it holds the secret
            return encode(ErrorReply(error="internal error; the manager's log has the traceback"))

    def _say_goodbye(self, error: ProtocolError) -> None:
        """Send the reason, then read on for a while: closing with unread bytes would destroy the reply."""
        self.request.settimeout(MESSAGE_S)
        self.request.sendall(encode(ErrorReply(error=str(error))))
        _shut(self.request, socket.SHUT_WR)
        until_s = time.monotonic() + MESSAGE_S
        while time.monotonic() < until_s and self.request.recv(RECEIVE_BYTES):
            pass


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        return  # it is closed already
