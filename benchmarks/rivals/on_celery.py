"""`on_celery.py TASKS [socket]`: no-op tasks per second of two workers of Celery; Redis fsyncs each command.

Set to lose as little as it can: a task is acknowledged once its result is stored in Redis (`task_acks_late`),
each worker takes one at a time, and a worker's death gives its task back. Two gaps are left that no setting
closes: a worker that is killed between taking a message and noting that it has it loses the task, and another
one gets that of a dead worker after an hour. How they reach Redis: see `on_rq.py`.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from celery import Celery
from on_rq import await_true, start, start_redis  # beside this file

WORKERS = 2
SKIPPED = 10  # while the second worker starts
VARIABLE = "CELERY_REDIS"

app = Celery("on_celery")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


def connect(url: str) -> None:
    """Let broker and results be in that Redis."""
    address, _, options = url.partition("?")
    tls = dict(each.split("=") for each in options.split("&")) if options else None
    place = address.replace("unix://", "redis+socket://")
    app.conf.update(broker_url=place, result_backend=place, broker_use_ssl=tls, redis_backend_use_ssl=tls)


connect(os.environ.get(VARIABLE, "redis://"))


def nothing() -> int:
    """Be a task."""
    return time.time_ns()


task = app.task(nothing)


def main(tasks: int, words: Sequence[str] = ()) -> float:
    """Queue all, then let two workers take them, each a process that runs its tasks itself."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        url = start_redis(opened, folder, "socket" in words)
        os.environ.update({VARIABLE: url, "PYTHONPATH": str(Path(__file__).parent)})
        connect(url)
        results = [task.delay() for _ in range(tasks)]
        for number in range(WORKERS):
            celery = str(Path(sys.executable).with_name("celery"))
            options = ("--pool", "solo", "--loglevel", "ERROR", "--hostname", f"w{number}@local")
            start(opened, folder, celery, "--app", "on_celery", "worker", *options)
        await_true(lambda: results[-1].ready() and all(each.ready() for each in results))
        began_ns: list[int] = sorted(each.get() for each in results)
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


if __name__ == "__main__":
    from on_celery import main as named  # its tasks bear the module's name

    print(json.dumps({"value": named(int(sys.argv[1]), sys.argv[2:])}))
