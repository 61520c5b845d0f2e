"""Asking for a task, finishing it (row fsynced) and `status` cost the same with 1,000 and 1,000,000 tasks.

The managers of all sizes run beside each other and are asked in turns, so that a busy machine slows all.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.figures import Figure, times_at_most
from benchmarks.harness import ROUNDS, folder, manager
from benchmarks.million import config
from benchmarks.peer import Peer
from distexp.wire.client import Client
from distexp.wire.messages import Status, StatusReply
from distexp.workdir import Workdir

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TASKS = 100  # of each size and round
BAR = 1.5  # what the machine's own unrest may look like


def measure() -> list[Figure]:
    """Return the median cost of each request at each size, beside that at the smallest."""
    costs: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as opened:
        folders = {size: opened.enter_context(folder(config(size // 100, 100))) for size in SIZES}
        for workdir in folders.values():
            opened.enter_context(manager(workdir))
        for _ in range(ROUNDS):
            for size, workdir in folders.items():
                for request, median_ms in _costs_ms(workdir).items():
                    costs.setdefault((request, size), []).append(median_ms)
    return [
        Figure(
            f"{request}, {size:,} tasks queued",
            *("ms", runs, times_at_most(BAR), f"{SIZES[0]:,} tasks", costs[request, SIZES[0]]),
        )
        for (request, size), runs in costs.items()
        if size != SIZES[0]
    ]


def _costs_ms(workdir: Workdir) -> dict[str, float]:
    costs: dict[str, list[float]] = {"request a task": [], "complete a task": [], "status": []}
    peer = Peer(workdir, "gpu0")
    with peer.socket, Client(workdir) as client:
        for _ in range(TASKS):
            costs["request a task"].append(_ms(lambda: _request(peer)))
            costs["complete a task"].append(_ms(lambda: _complete(peer)))
            costs["status"].append(_ms(lambda: client.call(Status(), StatusReply)))
    return {request: statistics.median(found) for request, found in costs.items()}


def _request(peer: Peer) -> None:
    peer.request()
    peer.take_reply()


def _complete(peer: Peer) -> None:
    peer.complete(wants_next=False)
    peer.take_reply()


def _ms(step: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - began_s)
