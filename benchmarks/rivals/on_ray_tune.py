"""`on_ray_tune.py REPEATS TRIALS FOLDER`: random searches with Ray's ASHA, one after the other.

Two warm actors take the trials of each. The epochs of each repeat are logged in FOLDER.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # nobody reads its CSV, JSON and TensorBoard files

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from benchmarks.search.replay import EPOCHS, replay, space

WORKERS = 2
FACTOR = 4  # its default


class Training(tune.Trainable):  # type: ignore[misc]  # untyped where Ray is not installed
    """A recorded training, an epoch a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin."""
        values = {name: config[name] for name in space()}
        self._epochs = replay(values, config["repeat"], Path(config["log"]))

    def step(self) -> dict[str, Any]:
        """Train for an epoch."""
        step, val_acc = next(self._epochs)
        return {"val_acc": val_acc, "done": step == EPOCHS}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another training in this process."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: no trial is resumed."""


def main(repeats: int, trials: int, folder: str) -> int:
    """Search so many times, with so many trials; return how often."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        for repeat in range(repeats):
            search(repeat, trials, Path(folder, f"{repeat}.log"))
    finally:
        ray.shutdown()
    return repeats


def search(repeat: int, trials: int, log: Path) -> None:
    """Search once."""
    axes = {name: tune.choice(axis) for name, axis in space().items()}
    with tempfile.TemporaryDirectory() as storage:
        found = tune.Tuner(
            Training,
            param_space={**axes, "repeat": repeat, "log": str(log)},
            tune_config=tune.TuneConfig(
                metric="val_acc",
                mode="max",
                num_samples=trials,
                search_alg=BasicVariantGenerator(random_state=repeat),
                scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=FACTOR),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        ).fit()
    if found.errors:
        raise found.errors[0]


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])}))
