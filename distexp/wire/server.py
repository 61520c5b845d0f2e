"""socketserver glue: bytes -> message -> one answer -> bytes.

The first byte tells TLS from plain JSON, which is for peers on this host alone. One thread a connection;
whatever arrives, the peer gets a reply or a closed connection, and serving goes on.
"""

import contextlib
import ipaddress
import itertools
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from distexp.errors import AlreadyRunning, DistexpError, JournalUnwritable, ProtocolError, ResultsUnwritable
from distexp.text import one_line
from distexp.wire.auth import TLS_FIRST_BYTE
from distexp.wire.doorman import MAX_REFUSALS, ConnectionLimits
from distexp.wire.messages import (
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
    is_local: bool  # from this host


class Answerer(Protocol):
    """What the server needs of the room behind it.  Safe from any thread."""

    def handle(self, request: AnyRequest, connection: Connection) -> AnyReply:
        """Return the reply; a DistexpError becomes an error reply."""

    def knows(self, request: AnyRequest) -> bool:
        """Return whether the request shows the secret."""

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

    def __init__(self, host: str, port: int, answerer: Answerer, context: ssl.SSLContext) -> None:
        """Bind and listen; port 0 takes a free one. `context` holds the certificate to show.

        Raises:
            AlreadyRunning: The address cannot be bound.
        """
        self.answerer = answerer
        self.limits = ConnectionLimits()
        self._context = context
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
        host = str(self.server_address[0])
        if ipaddress.ip_address(host).is_unspecified:  # one to bind, and on Windows none to connect to
            host = "127.0.0.1"
        while stopping.is_alive():  # a connection makes `serve_forever` look at its flag at once
            with contextlib.suppress(OSError), socket.create_connection((host, self.port), POLL_S):
                pass
            stopping.join(0.02)
        self.server_close()
        self.limits.close()
        with self._lock:
            sockets = list(self._open.values())
        for each in sockets:
            _shut(each, socket.SHUT_RDWR)

    def secure(self, connection: Connection, sock: socket.socket) -> ssl.SSLSocket:
        """Return the connection's socket, ready for the handshake of TLS."""
        tls = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open[connection.number] = tls  # the old object is empty now
        return tls

    def verify_request(self, request: object, client_address: tuple[str, int]) -> bool:
        """Return whether there is room for one more peer; else its connection is closed."""
        is_welcome = self.limits.let_in(client_address[0])
        if not is_welcome:
            self.limits.complain(client_address[0], "found too many connections, of this address or in all")
        return is_welcome

    def process_request(self, request: Any, client_address: tuple[str, int]) -> None:
        """Serve a connection from a thread of its own; close it when no thread can be had."""
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            self.shutdown_request(request)
            self.limits.forget(client_address[0], is_unauthenticated=True)
            self.limits.complain(client_address[0], error)

    def handle_error(self, request: object, client_address: object) -> None:
        """Put the traceback of our bug into the log."""
        log.exception("%s: connection broken off", client_address)

    def enter(self, sock: socket.socket, address: tuple[str, int]) -> Connection:
        """Register a new connection."""
        is_local = ipaddress.ip_address(address[0]).is_loopback
        connection = Connection(next(self._numbers), f"{address[0]}:{address[1]}", is_local)
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
        self._socket = self.request
        self._is_unauthenticated = True
        self._refusals = 0
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reply is one small packet
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._choose_language(connection)
            self._converse(connection)
        except ssl.SSLError as error:
            self.server.limits.complain(connection.peer, error)
        except (OSError, ProtocolError) as error:
            log.debug("%s: connection ended: %s", connection.peer, error)
        finally:
            self.server.leave(connection)
            self._socket.close()
            self.server.limits.forget(self.client_address[0], is_unauthenticated=self._is_unauthenticated)

    def _choose_language(self, connection: Connection) -> None:
        """Speak TLS if the peer does.

        Raises:
            OSError: The peer says nothing, leaves, speaks no TLS 1.3 or does not end its handshake.
            ProtocolError: A peer on another machine speaks in the clear; it has been told.
        """
        self._socket.settimeout(IDLE_S if connection.is_local else MESSAGE_S)
        first = self._socket.recv(1, socket.MSG_PEEK)
        if first == TLS_FIRST_BYTE:
            self._socket = secured = self.server.secure(connection, self._socket)
            secured.settimeout(MESSAGE_S)  # of the whole handshake, not of each of its bytes
            secured.do_handshake()
        elif first and not connection.is_local:
            error = ProtocolError(
                "found a message in the clear, expected TLS from an address that is not loopback: run "
                "experiment_runner_gpu.py or experiment_manager.py there, with a copy of .experiment_token"
            )
            self.server.limits.complain(connection.peer, error)
            self._say_goodbye(error)
            raise error

    def _converse(self, connection: Connection) -> None:
        framer = Framer()
        begun_s = time.monotonic()  # when the message that is not complete began
        try:
            while data := self._receive(framer, connection, begun_s + MESSAGE_S):
                is_new = not framer.is_mid_message
                lines = framer.feed(data)
                if is_new or lines:
                    begun_s = time.monotonic()
                self._socket.settimeout(MESSAGE_S)  # who does not read its replies is left
                for line in lines:
                    self._socket.sendall(self._answer(line, connection))
                    if self._is_unauthenticated and self._refusals >= MAX_REFUSALS:
                        return self._read_on()
        except ProtocolError as error:
            self.server.limits.complain(connection.peer, error)
            self._say_goodbye(error)

    def _receive(self, framer: Framer, connection: Connection, until_s: float) -> bytes:
        """Return more bytes; none when the peer has left or is silent without need.

        Raises:
            ProtocolError: A message has begun and did not go on.
        """
        is_mid_message = framer.is_mid_message
        while True:
            idle_s = MESSAGE_S if self._is_unauthenticated and not connection.is_local else IDLE_S
            patience_s = max(until_s - time.monotonic(), 0.001) if is_mid_message else idle_s
            self._socket.settimeout(patience_s)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                if is_mid_message:
                    raise ProtocolError(
                        f"message: found half of one, expected the rest within {MESSAGE_S:g} s"
                    ) from None
                if not self.server.answerer.has_lease(connection):
                    return b""

    def _answer(self, line: bytes, connection: Connection) -> bytes:
        try:
            request = decode_request(line)
            if self._is_unauthenticated and self.server.answerer.knows(request):
                self._is_unauthenticated = False
                self.server.limits.recognise(self.client_address[0])
            return encode(self.server.answerer.handle(request, connection))
        except DistexpError as error:
            self.server.limits.complain(connection.peer, error)
            self._refusals += 1
            again = isinstance(error, ResultsUnwritable | JournalUnwritable)
            return encode(ErrorReply(error=one_line(str(error)), again=again))
        except Exception:  # whatever one request breaks, the manager serves on; our bug stands in the log
            log.exception("%s: request failed", connection.peer)  # without its text: it holds the secret
            return encode(ErrorReply(error="internal error; the manager's log has the traceback"))

    def _say_goodbye(self, error: ProtocolError) -> None:
        self._socket.settimeout(MESSAGE_S)
        self._socket.sendall(encode(ErrorReply(error=str(error))))
        self._read_on()

    def _read_on(self) -> None:
        """End the connection, but not at once: closing with unread bytes would destroy the last reply."""
        _shut(self._socket, socket.SHUT_WR)
        until_s = time.monotonic() + MESSAGE_S
        while time.monotonic() < until_s and self._socket.recv(RECEIVE_BYTES):
            pass


def _shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, how)  # that of SSLSocket would let other threads go on in the clear
