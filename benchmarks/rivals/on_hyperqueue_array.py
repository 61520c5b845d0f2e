"""`on_hyperqueue_array.py TASKS`: resident kB of the server per task that waits in one job."""

import json
import multiprocessing
import sys
import tempfile
import time

import psutil
from hyperqueue import Client, LocalCluster
from hyperqueue.job import Job

SETTLED_S = 1.0  # after the server has taken the job in


def main(tasks: int) -> float:
    """Submit from a process of its own: what the client keeps is not counted."""
    with tempfile.TemporaryDirectory() as folder, LocalCluster(server_dir=folder) as cluster:
        server = psutil.Process()  # it runs in this process
        submit(cluster.cluster.server_dir, 1)
        before = server.memory_info().rss
        client = multiprocessing.get_context("spawn").Process(
            target=submit, args=(cluster.cluster.server_dir, tasks)
        )
        client.start()
        client.join()
        if client.exitcode:
            raise RuntimeError("the job was not submitted")
        time.sleep(SETTLED_S)
        return (server.memory_info().rss - before) / 1000 / tasks


def submit(server_dir: str, tasks: int) -> None:
    """Submit one job of so many runs of `true`."""
    job = Job()
    for _ in range(tasks):
        job.program(["true"], stdout=None, stderr=None)
    Client(server_dir).submit(job)


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
