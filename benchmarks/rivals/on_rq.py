"""`on_rq.py TASKS`: no-op jobs per second of two workers that fork per job; Redis fsyncs each command."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redis import Redis
from rq import Queue

WORKERS = 2
PATIENCE_S = 100.0
SKIPPED = 10  # while the second worker starts


def main(tasks: int) -> float:
    """Queue all, then let two workers of RQ's command line take them, as its pages say."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        path = Path(folder, "redis.sock")
        options = ("--port", "0", "--unixsocket", str(path), "--appendonly", "yes", "--appendfsync", "always")
        _start(opened, folder, "redis-server", *options, "--dir", folder, "--save", "")
        connection = Redis(unix_socket_path=str(path))
        _await(path.exists)
        queue = Queue(connection=connection)
        jobs = [queue.enqueue(time.time_ns) for _ in range(tasks)]
        for _ in range(WORKERS):
            rq = str(Path(sys.executable).with_name("rq"))
            _start(opened, folder, rq, "worker", "--burst", "--url", f"unix://{path}", "--quiet")
        _await(lambda: queue.finished_job_registry.get_job_count(cleanup=False) == tasks)
        began_ns = sorted(int(job.return_value()) for job in jobs)
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


def _start(opened: contextlib.ExitStack, folder: str, *words: str) -> None:
    with open(Path(folder, "log"), "ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    opened.callback(process.wait)
    opened.callback(process.terminate)


def _await(condition) -> None:  # type: ignore[no-untyped-def]
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError("the jobs do not end")
        time.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
