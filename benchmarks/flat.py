"""Handing out and finishing a task costs the same with 100 and with 1,000,000 tasks queued."""

import statistics
import time

from benchmarks.harness import Figure, folder, manager
from distexp.client import Client
from distexp.protocol import Ack, RequestTask, TaskComplete, TaskReply

TASKS = 100  # measured per sweep, each with its row on disk


def measure() -> list[Figure]:
    """Return the cost of a task in a large sweep beside that in a small one."""
    small_ms, large_ms = _cost_ms(10, 10), _cost_ms(1000, 1000)
    ratio = large_ms / small_ms
    name = "request + complete (row fsynced), 1,000,000 tasks queued : 100"
    return [Figure(name, f"{large_ms:.2f} ms", f"{small_ms:.2f} ms", ratio, "about 1", ratio < 1.5)]


def _cost_ms(a: int, b: int) -> float:
    config = (
        "defaults: {command: 'true', output_dir: results}\n"
        f"grid: {{combinations: [{{a: {list(range(a))}}}, {{b: {list(range(b))}}}]}}\n"
    )
    costs = []
    with folder(config) as workdir, manager(workdir), Client(workdir) as client:
        for _ in range(TASKS):
            began_s = time.perf_counter()
            task = client.call(RequestTask(worker_id="bench"), TaskReply)
            report = TaskComplete(worker_id="bench", lease_id=task.lease_id, key=task.key, result={"x": 1})
            client.call(report, Ack)
            costs.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(costs)
