"""`on_celery.py TASKS`: no-op tasks per second of two workers of Celery; Redis fsyncs each command.

A result is stored in Redis, and a task acknowledged after it: what a kill of either side leaves is not lost.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery
from on_rq import await_true, start, start_redis  # beside this file

WORKERS = 2
SKIPPED = 10  # while the second worker starts
SOCKET = os.environ.get("CELERY_SOCKET", "")

app = Celery("on_celery", broker=f"redis+socket://{SOCKET}", backend=f"redis+socket://{SOCKET}")
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


def nothing() -> int:
    """Be a task."""
    return time.time_ns()


task = app.task(nothing)


def main(tasks: int) -> float:
    """Queue all, then let two workers take them, each a process that runs its tasks itself."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        path = start_redis(opened, folder)
        os.environ.update(CELERY_SOCKET=str(path), PYTHONPATH=str(Path(__file__).parent))
        app.conf.update(broker_url=f"redis+socket://{path}", result_backend=f"redis+socket://{path}")
        results = [task.delay() for _ in range(tasks)]
        for number in range(WORKERS):
            celery = str(Path(sys.executable).with_name("celery"))
            words = (
                "--app",
                "on_celery",
                "worker",
                "--pool",
                "solo",
                "--loglevel",
                "ERROR",
            )
            start(opened, folder, celery, *words, "--hostname", f"w{number}@local")
        await_true(lambda: results[-1].ready() and all(each.ready() for each in results))
        began_ns: list[int] = sorted(each.get() for each in results)
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


if __name__ == "__main__":
    from on_celery import main as named  # its tasks bear the module's name

    print(json.dumps({"value": named(int(sys.argv[1]))}))
