"""`on_rq.py TASKS [simple]`: no-op jobs per second of two workers; Redis fsyncs each command.

They fork per job, or as `simple` run all jobs in their own process.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from rq import Queue

WORKERS = 2
PATIENCE_S = 100.0
SKIPPED = 10  # while the second worker starts


def main(tasks: int, worker_class: str = "") -> float:
    """Queue all, then let two workers of RQ's command line take them, as its pages say."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        path = start_redis(opened, folder)
        connection = Redis(unix_socket_path=str(path))
        queue = Queue(connection=connection)
        jobs = [queue.enqueue(time.time_ns) for _ in range(tasks)]
        for _ in range(WORKERS):
            rq = str(Path(sys.executable).with_name("rq"))
            kind = ["--worker-class", worker_class] if worker_class else []
            start(opened, folder, rq, "worker", "--burst", "--url", f"unix://{path}", "--quiet", *kind)
        await_true(lambda: queue.finished_job_registry.get_job_count(cleanup=False) == tasks)
        began_ns = sorted(int(job.return_value()) for job in jobs)
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


def start_redis(opened: contextlib.ExitStack, folder: str) -> Path:
    """Start a Redis that fsyncs each command; return its Unix socket."""
    path = Path(folder, "redis.sock")
    options = ("--port", "0", "--unixsocket", str(path), "--appendonly", "yes", "--appendfsync", "always")
    start(opened, folder, "redis-server", *options, "--dir", folder, "--save", "")
    await_true(path.exists)
    return path


def start(opened: contextlib.ExitStack, folder: str, *words: str) -> None:
    """Start a program that ends with `opened`."""
    with open(Path(folder, "log"), "ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    opened.callback(process.wait)
    opened.callback(process.terminate)


def await_true(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError("the jobs do not end")
        time.sleep(0.05)


if __name__ == "__main__":
    simple = "rq.worker.SimpleWorker" if "simple" in sys.argv[2:] else ""
    print(json.dumps({"value": main(int(sys.argv[1]), simple)}))
