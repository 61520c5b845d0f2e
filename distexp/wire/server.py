"""The manager's threaded TCP server: one thread per connection, limits on connections, one reply per request.

The first byte tells TLS from plain JSON, which is for clients on this host alone. Whatever arrives, the
client gets a reply or a closed connection, and serving goes on.
"""

import contextlib
import errno
import ipaddress
import itertools
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distexp.errors import (
    AlreadyRunning,
    DistexpError,
    JournalUnwritable,
    ProtocolError,
    ResultsUnwritable,
    UserError,
)
from distexp.text import one_line
from distexp.wire.auth import TLS_FIRST_BYTE
from distexp.wire.framing import IDLE_S, MESSAGE_S, MessageReader, decode_request, encode
from distexp.wire.messages import AnyReply, AnyRequest, ErrorReply

BACKLOG = 1024  # 300 workers that start at once wait 71 s with the default of 5
RECEIVE_BYTES = 64 * 1024
POLL_S = 5.0  # between two looks at the stop flag while nothing arrives: each wakes an idle manager
MAX_UNAUTHENTICATED = 1000  # from one address: all workers of a large host, at once
MAX_REFUSALS = 3  # unauthenticated: a typing error, not a search, and not a browser that sends a form
WARNINGS_PER_MINUTE = 60  # about refusals: a flood of them must not fill the disk
WANTED_FILES = 65536  # one a connection
SPARE_FILES = 64  # for configs, results, journal and log, however many connections there are
MAX_CLOSING = 32  # connections beyond a limit whose ends were begun: they are counted until they end
ANSWER_S = 1.0  # for answers that are under way to leave when the manager stops
CLOSING_S = 1.0  # for one of them to end, while new connections wait: a flood of them refuses nobody

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """One TCP connection; `number` is never used twice by a manager."""

    number: int
    peer: str  # address:port, for log lines
    is_local: bool  # from this host
    descriptor: int = -1  # of its socket, to see whether it stands


class RequestHandler(Protocol):
    """What the server asks to answer requests, the manager's dispatch.  Safe from any thread."""

    def handle(self, request: AnyRequest, connection: Connection) -> AnyReply:
        """Return the reply; a DistexpError becomes an error reply."""

    def knows(self, request: AnyRequest) -> bool:
        """Return whether the request shows the secret."""

    def has_lease(self, connection: Connection) -> bool:
        """Return whether a silent connection must be kept open."""

    def closed(self, connection: Connection) -> None:
        """Learn that the connection is gone."""


class ConnectionLimits:
    """Counts open and unauthenticated connections, and logged refusals.  Safe from any thread."""

    def __init__(self, close: Callable[[int], None] = lambda number: None) -> None:
        """Let `close` end the connection of this number, to make room."""
        self._lock = threading.Lock()
        self._has_ended = threading.Condition(self._lock)  # a connection
        self._close = close
        self._silent: dict[int, str] = {}  # address by number: unauthenticated, the longest silent first
        self._closing: set[int] = set()
        self._max_open = _allow_many_files() - SPARE_FILES
        self._open_count = 0
        self._unauthenticated: Counter[str] = Counter()  # by address
        self._minute_began_s = time.monotonic()
        self._logged = self._unlogged = 0

    def admit(self, address: str) -> bool:
        """Return whether one more connection is allowed; if so, it counts as unauthenticated.

        Where there is no place, the unauthenticated one that has been silent for longest makes room.
        """
        with self._lock:
            is_full = self._open_count >= self._max_open
            if is_full or self._unauthenticated[address] >= MAX_UNAUTHENTICATED:
                silent = (each for each, whose in self._silent.items() if is_full or whose == address)
                longest = next(silent, None)
                if longest is None or not self._has_ended.wait_for(self._may_close, CLOSING_S):
                    return False
                if self._silent.pop(longest, None) is not None:
                    self._closing.add(longest)
                    self._close(longest)
            self._open_count += 1
            self._unauthenticated[address] += 1
            return True

    def _may_close(self) -> bool:
        return len(self._closing) < MAX_CLOSING

    def watch(self, number: int, address: str) -> None:
        """Learn that an admitted connection begins to be served."""
        with self._lock:
            self._silent[number] = address

    def heard(self, number: int) -> None:
        """Learn that an unauthenticated connection is not silent."""
        with self._lock:
            if (address := self._silent.pop(number, None)) is not None:
                self._silent[number] = address

    def authenticated(self, address: str, number: int = 0) -> None:
        """Count one connection of this address as authenticated: it has shown the secret."""
        with self._lock:
            self._silent.pop(number, None)
            self._drop_unauthenticated(address)

    def release(self, address: str, *, is_unauthenticated: bool, number: int = 0) -> None:
        """Count one admitted connection less: it has ended."""
        with self._lock:
            self._silent.pop(number, None)
            self._closing.discard(number)
            self._has_ended.notify_all()
            self._open_count -= 1
            if is_unauthenticated:
                self._drop_unauthenticated(address)

    def _drop_unauthenticated(self, address: str) -> None:
        self._unauthenticated[address] -= 1
        if not self._unauthenticated[address]:
            del self._unauthenticated[address]

    def log_refusal(self, peer: str, problem: object) -> None:
        """Log a refusal; only count it when there were too many in the last minute."""
        with self._lock:
            if time.monotonic() >= self._minute_began_s + 60:
                self._log_unlogged()
            is_logged = self._logged < WARNINGS_PER_MINUTE
            self._logged += is_logged
            self._unlogged += not is_logged
        if is_logged:
            log.warning("%s: refused: %s", peer, problem)

    def close(self) -> None:
        """Log how many refusals were not logged."""
        with self._lock:
            self._log_unlogged()

    def _log_unlogged(self) -> None:
        if self._unlogged:
            log.warning("%d more refusals were not logged", self._unlogged)
        self._minute_began_s, self._logged, self._unlogged = time.monotonic(), 0, 0


def _is_taken(error: Exception) -> bool:
    """Return whether another program has the port; Windows refuses one that is held exclusively."""
    taken = (errno.EADDRINUSE, errno.EACCES) if sys.platform == "win32" else (errno.EADDRINUSE,)
    return getattr(error, "errno", None) in taken


def _unbound(host: str, port: int, error: Exception) -> UserError:
    """Return why an address cannot be served, and what to do."""
    found = getattr(error, "strerror", "") or str(error).rstrip(".")
    if _is_taken(error):
        return AlreadyRunning(
            f"{host}:{port}: {found}. Stop the program that uses this port, or choose another with --port"
        )
    if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return UserError(
            f"--host {host}: no address of this machine; give one of its own, or 0.0.0.0 for all"
        )
    return UserError(f"{host}:{port}: {found}. Choose another port with --port")


class Server(socketserver.ThreadingTCPServer):
    """Serve `handler` on an address until `stop`."""

    daemon_threads = True
    block_on_close = False  # `stop` closes the connections; threads end by themselves
    request_queue_size = BACKLOG
    allow_reuse_address = sys.platform != "win32"  # there it would let two managers share the port

    def __init__(
        self, host: str, ports: Sequence[int], handler: RequestHandler, context: ssl.SSLContext
    ) -> None:
        """Bind and listen at the first of these ports that is free; 0 takes any.

        Args:
            host: The address.
            ports: See there; one or more.
            handler: What answers requests.
            context: Holds the certificate to show.

        Raises:
            AlreadyRunning: None is free.
            UserError: The address is none of this host, or cannot be bound.
        """
        self.handler = handler
        self.limits = ConnectionLimits(self._end)
        self._context = context
        self._numbers = itertools.count(1)
        self._open: dict[int, socket.socket] = {}  # by number
        self._lock = threading.Lock()
        self.answering: set[int] = set()  # numbers of connections that are being answered
        for at, port in enumerate(ports):
            try:
                super().__init__((host, port), _ConnectionHandler)
                break
            except (OSError, OverflowError) as error:
                if not _is_taken(error) or at == len(ports) - 1:
                    raise _unbound(host, port, error) from None

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
        """Stop listening and close every connection, so that workers notice at once; answers leave first."""
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
        until_s = time.monotonic() + ANSWER_S
        while self.answering and time.monotonic() < until_s:
            time.sleep(0.005)
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
        """Return whether one more connection is allowed; else it is closed."""
        is_admitted = self.limits.admit(client_address[0])
        if not is_admitted:
            self.limits.log_refusal(client_address[0], "too many connections from this address, or in all")
        return is_admitted

    def process_request(self, request: Any, client_address: tuple[str, int]) -> None:
        """Serve a connection from a thread of its own; close it when no thread can be had."""
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            self.shutdown_request(request)
            self.limits.release(client_address[0], is_unauthenticated=True)
            self.limits.log_refusal(client_address[0], error)

    def handle_error(self, request: object, client_address: object) -> None:
        """Put the traceback of our bug into the log."""
        log.exception("%s: connection broken off", client_address)

    def register(self, sock: socket.socket, address: tuple[str, int]) -> Connection:
        """Register a new connection."""
        is_local = ipaddress.ip_address(address[0]).is_loopback
        peer = f"{address[0]}:{address[1]}"
        connection = Connection(next(self._numbers), peer, is_local, sock.fileno())
        with self._lock:
            self._open[connection.number] = sock
        self.limits.watch(connection.number, address[0])
        return connection

    def _end(self, number: int) -> None:
        """Let the thread of a connection find that it is closed."""
        with self._lock:
            if sock := self._open.get(number):
                _shut(sock, socket.SHUT_RDWR)

    def unregister(self, connection: Connection) -> None:
        """Remove a connection that has ended, and tell the handler."""
        self.answering.discard(connection.number)
        with self._lock:
            del self._open[connection.number]
        self.handler.closed(connection)


class _ConnectionHandler(socketserver.BaseRequestHandler):
    """One connection from first byte to last."""

    server: Server
    request: socket.socket

    def handle(self) -> None:
        connection = self.server.register(self.request, self.client_address)
        self._socket = self.request
        self._is_unauthenticated = True
        self._refusals = 0
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reply is one small packet
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._accept_tls(connection)
            self._serve_requests(connection)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            log.debug("%s: connection ended: %s", connection.peer, error)
        except ssl.SSLError as error:
            self.server.limits.log_refusal(connection.peer, error)
        except (OSError, ProtocolError) as error:
            log.debug("%s: connection ended: %s", connection.peer, error)
        finally:
            self.server.unregister(connection)
            self.server.limits.release(
                self.client_address[0],
                is_unauthenticated=self._is_unauthenticated,
                number=connection.number,
            )
            self._socket.close()

    def _accept_tls(self, connection: Connection) -> None:
        """Set up TLS if the client speaks it.

        Raises:
            OSError: The client sends nothing, leaves, speaks no TLS 1.3 or does not end its handshake.
            ProtocolError: A client on another machine sends plain JSON; it got an error reply.
        """
        self._socket.settimeout(IDLE_S if connection.is_local else MESSAGE_S)
        first = self._socket.recv(1, socket.MSG_PEEK)
        if first == TLS_FIRST_BYTE:
            self._socket = secured = self.server.secure(connection, self._socket)
            secured.settimeout(MESSAGE_S)  # of the whole handshake, not of each of its bytes
            secured.do_handshake()
            self.server.limits.heard(connection.number)
        elif first and not connection.is_local:
            error = ProtocolError(
                "connection refused: clients on other machines must use TLS: run `distexp` there, with a "
                "copy of the manager's token (see docs/security.md)"
            )
            self.server.limits.log_refusal(connection.peer, error)
            self._send_error(error)
            raise error

    def _serve_requests(self, connection: Connection) -> None:
        reader = MessageReader()
        begun_s = time.monotonic()  # when the message that is not complete began
        try:
            while data := self._receive(reader, connection, begun_s + MESSAGE_S):
                if self._is_unauthenticated:
                    self.server.limits.heard(connection.number)
                is_new = not reader.is_mid_message
                lines = reader.feed(data)
                if is_new or lines:
                    begun_s = time.monotonic()
                self._socket.settimeout(MESSAGE_S)  # who does not read its replies is left
                for line in lines:
                    self.server.answering.add(connection.number)
                    self._socket.sendall(self._answer(line, connection))
                    self.server.answering.discard(connection.number)
                    if self._is_unauthenticated and self._refusals >= MAX_REFUSALS:
                        return self._read_until_closed()
        except ProtocolError as error:
            self.server.limits.log_refusal(connection.peer, error)
            self._send_error(error)

    def _receive(self, reader: MessageReader, connection: Connection, until_s: float) -> bytes:
        """Return more bytes; none when the peer has left or is silent without need.

        Raises:
            ProtocolError: A message has begun and did not go on.
        """
        is_mid_message = reader.is_mid_message
        while True:
            idle_s = MESSAGE_S if self._is_unauthenticated and not connection.is_local else IDLE_S
            patience_s = max(until_s - time.monotonic(), 0.001) if is_mid_message else idle_s
            self._socket.settimeout(patience_s)
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                if is_mid_message:
                    raise ProtocolError(f"message: only a part of it came within {MESSAGE_S:g} s") from None
                if not self.server.handler.has_lease(connection):
                    return b""

    def _answer(self, line: bytes, connection: Connection) -> bytes:
        try:
            request = decode_request(line)
            if self._is_unauthenticated and self.server.handler.knows(request):
                self._is_unauthenticated = False
                self.server.limits.authenticated(self.client_address[0], connection.number)
            return encode(self.server.handler.handle(request, connection))
        except DistexpError as error:
            self.server.limits.log_refusal(connection.peer, error)
            self._refusals += 1
            again = isinstance(error, ResultsUnwritable | JournalUnwritable)
            return encode(ErrorReply(error=one_line(str(error)), again=again))
        except Exception:  # whatever one request breaks, the manager serves on; our bug stands in the log
            log.exception("%s: request failed", connection.peer)  # without its text: it holds the secret
            return encode(ErrorReply(error="internal error; the manager's log has the traceback"))

    def _send_error(self, error: ProtocolError) -> None:
        self._socket.settimeout(MESSAGE_S)
        self._socket.sendall(encode(ErrorReply(error=str(error))))
        self._read_until_closed()

    def _read_until_closed(self) -> None:
        """End the connection, but not at once: closing with unread bytes would destroy the last reply."""
        _shut(self._socket, socket.SHUT_WR)
        until_s = time.monotonic() + MESSAGE_S
        while time.monotonic() < until_s and self._socket.recv(RECEIVE_BYTES):
            pass


def _shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, how)  # that of SSLSocket would let other threads go on unencrypted


def _allow_many_files() -> int:
    """Return how many files this process may open, after asking for as many as the system grants."""
    if sys.platform == "win32":
        return WANTED_FILES  # sockets are no files there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
