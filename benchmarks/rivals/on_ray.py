"""`on_ray.py TRAININGS WORKERS EPOCHS`: seconds for trainings in warm actors, from the end of their first."""

import json
import logging
import os
import sys
import time

import ray

from benchmarks.trainings import span_s, train


class Trainer:
    """A persistent process: Ray's fastest way to many trainings."""

    def train(self, seed: int, epochs: int) -> float:
        """Train once and return the moment of the end."""
        train(seed, "cpu", epochs)
        return time.monotonic()


def main(trainings: int, workers: int, epochs: int) -> float:
    """Hand the next training to whichever actor is free."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        actor = ray.remote(num_cpus=1)(Trainer)
        pool = ray.util.ActorPool([actor.remote() for _ in range(workers)])
        seeds = range(workers + trainings)
        ends = list(pool.map_unordered(lambda actor, seed: actor.train.remote(seed, epochs), seeds))
    finally:
        ray.shutdown()
    return span_s(ends, workers)


if __name__ == "__main__":
    print(json.dumps({"value": main(*map(int, sys.argv[1:]))}))
