"""`on_dask.py TASKS`: no-op tasks per second of two worker processes; nothing is kept on disk."""

import json
import sys
import time

from distributed import Client, LocalCluster, as_completed

SKIPPED = 20  # while connections are made


def main(tasks: int) -> float:
    """Submit all at once and note when each has ended."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        ended = []
        for _ in as_completed(client.map(int, range(tasks), pure=False)):
            ended.append(time.monotonic())
    return (len(ended) - 1 - SKIPPED) / (ended[-1] - ended[SKIPPED])


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
