"""A TCP relay between workers elsewhere and their manager: it cuts, stalls, slows down and heals.

It passes bytes on and looks at none, so TLS goes through it. Cut: every connection is broken and no new one
is taken up. Stalled: connections stay open, new ones are taken up, and no byte arrives.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

BLOCK_BYTES = 64 * 1024


class Relay:
    """Listens on `port` of the loopback interface; passes on to the port that `target` names at that time."""

    def __init__(self, target: Callable[[], int], host: str = "127.0.0.1") -> None:
        """Listen, and pass on to `host` from threads."""
        self.delay_s = 0.0  # that each block is late, in either direction
        self._target, self._host = target, host
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = self._is_closed = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True, name="relay").start()

    def cut(self) -> None:
        """Break every connection, and those to come."""
        self._is_cut = True
        self._break_all()

    def stall(self) -> None:
        """Let nothing through any more, in either direction."""
        self._flows.clear()

    def heal(self) -> None:
        """Pass everything on again, what was held back first."""
        self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        """End it for good."""
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self._break_all()

    def _break_all(self) -> None:
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True, name="relay link").start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            if self._is_cut:
                return
            with socket.create_connection((self._host, self._target())) as far:
                with self._lock:
                    self._sockets |= {near, far}
                back = threading.Thread(target=self._pump, args=(far, near), daemon=True, name="relay back")
                try:
                    if self._is_cut or self._is_closed:
                        return
                    back.start()
                    self._pump(near, far)
                    back.join()
                finally:
                    with self._lock:
                        self._sockets -= {near, far}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(BLOCK_BYTES):
                time.sleep(self.delay_s)
                self._flows.wait()
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
