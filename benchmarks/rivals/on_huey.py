"""`on_huey.py TASKS`: no-op tasks per second of two workers; queue and results in SQLite with fsync."""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from huey import SqliteHuey
from huey.consumer import Consumer

WORKERS = 2  # threads: measured faster than processes, which wait for each other's lock on the file


def nothing() -> int:
    """Be a task."""
    return 1


def main(tasks: int) -> float:
    """Queue all, then let the consumer take them; each result is stored, as our rows are."""
    with tempfile.TemporaryDirectory() as folder:
        huey = SqliteHuey(filename=str(Path(folder, "huey.db")), fsync=True)
        ended: list[float] = []
        is_over = threading.Event()

        def note(signal: str, task: object) -> None:
            ended.append(time.monotonic())
            if len(ended) >= tasks:
                is_over.set()

        huey.signal("complete")(note)
        queue = huey.task()(nothing)
        for _ in range(tasks):
            queue()
        consumer = Consumer(huey, workers=WORKERS, periodic=False, initial_delay=0.01)
        consumer.start()
        if not is_over.wait(60):
            raise TimeoutError(f"{len(ended)} of {tasks} tasks")
        consumer.stop(graceful=True)
        return (len(ended) - 1) / (ended[-1] - ended[0])


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
