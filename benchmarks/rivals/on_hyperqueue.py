"""`on_hyperqueue.py TASKS`: no-op Python tasks per second of one worker with two cores."""

import json
import sys
import tempfile
import time
from pathlib import Path

from hyperqueue import LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.job import Job

SKIPPED = 2  # one a core: while the worker starts


def note(folder: str) -> None:
    """Be a task: say when it ran."""
    Path(folder, str(time.time_ns())).touch()


def main(tasks: int) -> float:
    """Submit all, wait for all; the rate is taken from the moments in which the tasks ran."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as moments:
        with LocalCluster(server_dir=folder, worker_config=WorkerConfig(cores=2)) as cluster:
            client = cluster.client()
            job = Job(default_workdir=folder)
            for _ in range(tasks):
                job.function(note, args=(moments,))
            client.wait_for_jobs([client.submit(job)])
        began_ns = sorted(int(path.name) for path in Path(moments).iterdir())
    if len(began_ns) != tasks:
        raise AssertionError(f"{len(began_ns)} of {tasks} tasks")
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
