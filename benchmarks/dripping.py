"""`status` is answered as fast beside 500 connections that drip a byte a second, and beside a deaf client.

Asked in turns with and without them, on one manager, so that a busy machine counts for both.
"""

import contextlib
import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

from benchmarks.figures import Figure, at_least, at_most
from benchmarks.harness import ROUNDS, folder, manager

DRIPPING = 500
ASKED = 200  # times, for each median
BOUND_MS = 50.0
STATUS = json.dumps({"type": "status"}).encode()
SLOW = json.dumps({"type": "status", "token": "x" * 1000}).encode()  # dripped, and never complete
DEFAULTS = "defaults: {command: 'true {args}', output_dir: r}"
CONFIG = f"{DEFAULTS}\ngrid: {{combinations: [{{a: {list(range(240))}}}]}}\n"


def measure() -> list[Figure]:
    """Return the median latency of `status` with and without each of the two nuisances."""
    alone_ms, dripped_ms, deaf_ms, threads = [], [], [], []
    with folder(CONFIG) as workdir, manager(workdir) as process:
        port = int(workdir.read_info()["port"])
        for _ in range(ROUNDS):
            alone_ms.append(_median_ms(port))
            with dripping(port, DRIPPING):
                dripped_ms.append(_median_ms(port))
                threads.append(psutil.Process(process.pid).num_threads())
            with deaf(port):
                deaf_ms.append(_median_ms(port))
    held = "half-open connections held by the manager (its threads)"
    drips = f"`status` beside {DRIPPING} dripping connections"
    return [
        Figure(held, "", threads, at_least(DRIPPING)),
        Figure(drips, "ms", dripped_ms, at_most(BOUND_MS), "alone", alone_ms),
        Figure(
            "`status` beside a client that never reads", "ms", deaf_ms, at_most(BOUND_MS), "alone", alone_ms
        ),
    ]


def _median_ms(port: int) -> float:
    """Ask as a user's client does: one connection for each question."""
    took = []
    for _ in range(ASKED):
        began_s = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(STATUS)
            json.loads(sock.recv(1024))
        took.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(took)


@contextmanager
def dripping(port: int, count: int) -> Iterator[None]:
    """Keep so many connections half open, each sending a byte a second; who is turned away comes again."""
    is_over = threading.Event()
    with ExitStack() as opened:
        drops = [_Drop(port) for _ in range(count)]
        for drop in drops:
            opened.callback(drop.close)
            drop.fall()

        def drip() -> None:
            while not is_over.is_set():
                for drop in drops:
                    drop.fall()
                    is_over.wait(1 / count)

        thread = threading.Thread(target=drip)
        thread.start()
        opened.callback(thread.join)  # before the sockets are closed
        opened.callback(is_over.set)
        yield


class _Drop:
    """One connection and how far its message is."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), 60)
        self._socket.setblocking(False)
        self._sent = 0

    def fall(self) -> None:
        """Send the next byte, of a new message when the manager has had enough of this one."""
        if self._is_turned_away():
            self.close()
            self._open()
        with contextlib.suppress(ConnectionError):
            self._sent += self._socket.send(SLOW[self._sent : self._sent + 1])

    def _is_turned_away(self) -> bool:
        try:
            self._socket.recv(1024)
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        """Leave, without a word."""
        self._socket.close()


@contextmanager
def deaf(port: int) -> Iterator[int]:
    """Keep a connection that has asked until there was no room for more, and reads no reply."""
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.setblocking(False)
        asked = 0
        while asked < 1_000_000:
            try:
                asked += sock.send(STATUS + b"\n")
            except BlockingIOError:
                break
        yield asked // len(STATUS)
