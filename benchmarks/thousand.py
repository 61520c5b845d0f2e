"""1,000 connected workers that send a heartbeat every 15 s, or wait for a task: what they cost the manager.

They are one process of lean connections in TLS. The manager's share of a core is taken while nobody else
asks; then `status` is asked as a user's own client does, on a connection for each question.
"""

import json
import multiprocessing
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS, folder, manager, status
from benchmarks.million import config
from benchmarks.peer import HEARTBEAT_S, Peer
from distexp.wire.messages import MAX_WAIT_S
from distexp.workdir import Workdir

WORKERS = 1000
ASKED, ASK_EVERY_S = 300, 0.01
READY_S = 120.0
BAR_PCT, BAR_MS, BAR_MB, BAR_IDLE_PCT = 10.0, 20.0, 120.0, 2.5


def measure() -> list[Figure]:
    """Return share of a core, `status` at the 99th percentile and resident growth; what idle ones cost."""
    with folder(config(100, 100)) as workdir, manager(workdir) as process:
        port = int(workdir.read_info()["port"])
        watched = psutil.Process(process.pid)
        latencies_ms(port)  # the first requests import and allocate for every later one
        before = watched.memory_info().rss
        with crowd(workdir, heartbeat_until_told):
            shares = [_share_pct(watched, HEARTBEAT_S) for _ in range(ROUNDS)]
            latencies = [latencies_ms(port) for _ in range(ROUNDS)]
            grown_mb = (watched.memory_info().rss - before) / 1e6
    with folder(config(1, 1)) as workdir, manager(workdir) as process, crowd(workdir, wait_until_told):
        idle = [_share_pct(psutil.Process(process.pid), MAX_WAIT_S) for _ in range(ROUNDS)]
    p99 = [statistics.quantiles(found, n=100)[98] for found in latencies]
    title = f"{WORKERS:,} workers that send a heartbeat every {HEARTBEAT_S:g} s"
    waits = f"{WORKERS:,} idle workers that wait: the manager's share of a core"
    return [
        Figure(f"{title}: the manager's share of a core", "%", shares, at_most(BAR_PCT)),
        Figure(f"{title}: `status`, 99th percentile", "ms", p99, at_most(BAR_MS)),
        Figure(f"{title}: resident growth of the manager", "MB", [grown_mb], at_most(BAR_MB)),
        Figure(waits, "%", idle, at_most(BAR_IDLE_PCT)),
    ]


@contextmanager
def crowd(workdir: Workdir, behave: Callable[[Path, int, Connection], None]) -> Iterator[None]:
    """Keep that many workers connected, which are one process.

    Raises:
        TimeoutError: They did not come.
        AssertionError: Some have left by the end.
    """
    ours, theirs = multiprocessing.Pipe()
    arguments = (workdir.root, WORKERS, theirs)
    process = multiprocessing.get_context("spawn").Process(target=behave, args=arguments)
    process.start()
    theirs.close()
    try:
        if not ours.poll(READY_S) or ours.recv() != WORKERS:
            raise TimeoutError(f"fewer than {WORKERS} connections after {READY_S:g} s")
        yield
        if (alive := status(workdir).workers) < WORKERS:
            raise AssertionError(f"{alive} workers instead of {WORKERS}")
    finally:
        ours.close()  # tells them to leave
        process.join()


def _share_pct(watched: psutil.Process, seconds: float) -> float:
    """Return the share over the time in which each worker sends one request."""
    begin, began_s = watched.cpu_times(), time.monotonic()
    time.sleep(seconds)
    end, took_s = watched.cpu_times(), time.monotonic() - began_s
    return 100 * (end.user + end.system - begin.user - begin.system) / took_s


def latencies_ms(port: int, asked: int = ASKED) -> list[float]:
    """Ask for `status` so many times, as a user's own client does; return how long each took."""
    found = []
    for _ in range(asked):
        began_s = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(json.dumps({"type": "status"}).encode())
            json.loads(sock.recv(1024))
        found.append(1000 * (time.perf_counter() - began_s))
        time.sleep(ASK_EVERY_S)
    return found


def heartbeat_until_told(root: Path, count: int, told: Connection) -> None:
    """Hold a task on each connection, say how many there are, and beat until `told` closes."""
    workdir = Workdir(root)
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        peers = list[Peer]()
        for index in range(count):
            peer = Peer(workdir, f"gpu{index}")
            opened.enter_context(peer.socket)
            peer.request()
            peer.take_reply()
            selector.register(peer.socket, selectors.EVENT_READ, peer)
            peers.append(peer)
        told.send(len(peers))
        selector.register(told, selectors.EVENT_READ)
        turn, next_s = 0, time.monotonic()
        while True:
            for ready, _ in selector.select(max(0.0, next_s - time.monotonic())):
                if ready.fileobj is told:
                    return
                ready.data.take_reply()
            if time.monotonic() >= next_s:
                peers[turn % count].heartbeat()
                turn += 1
                next_s += HEARTBEAT_S / count


def wait_until_told(root: Path, count: int, told: Connection) -> None:
    """Wait for a task on each connection but the first, which holds the only one, until `told` closes."""
    workdir = Workdir(root)
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        peers = list[Peer]()
        for index in range(count):
            peer = Peer(workdir, f"gpu{index}")
            opened.enter_context(peer.socket)
            peer.request(MAX_WAIT_S)
            if not peers:
                peer.take_reply()  # before any other asks
            selector.register(peer.socket, selectors.EVENT_READ, peer)
            peers.append(peer)
        told.send(len(peers))
        selector.register(told, selectors.EVENT_READ)
        next_s = time.monotonic()
        while True:
            for ready, _ in selector.select(max(0.0, next_s - time.monotonic())):
                if ready.fileobj is told:
                    return
                ready.data.take_reply()
                if ready.data is not peers[0]:
                    ready.data.request(MAX_WAIT_S)
            if time.monotonic() >= next_s:
                peers[0].heartbeat()
                next_s += HEARTBEAT_S
