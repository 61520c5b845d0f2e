"""Supervised classification: `run(params, context)` trains one network and returns one row.

The same parameters, seed and number of threads give the same row bit for bit on the CPU, also when the
training was interrupted and resumed. Every kind of random draw has a stream of its own, so that no global
state matters.
"""

from collections.abc import Mapping
from dataclasses import asdict
from enum import IntEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from distexp.context import Context
from distexp.experiments import data, models
from distexp.experiments.settings import IMAGE_SETS, TABLES, parse_settings
from distexp.experiments.training import Tensors, Training, evaluate
from distexp.task import Scalar


class Stream(IntEnum):
    """What a random draw is for."""

    SPLIT = 1
    NOISE = 2
    WEIGHTS = 3
    SHUFFLE = 4


def run(params: Mapping[str, Any], context: Context) -> dict[str, Scalar]:
    """Train as `params` says (see `Settings`) and return the metrics at the epoch with the lowest `val_loss`.

    Accuracies are shares from 0 to 1, losses are mean cross entropies in nats. `train_acc` is measured on the
    labels trained with, replaced ones included; validation and test labels are never replaced.

    Raises:
        ValueError: Parameters that cannot be used; one line each.
        TaskStopped: `context.should_stop()` said so; a checkpoint is saved.
        FloatingPointError: The first val_loss was not finite.
        torch.OutOfMemoryError: The GPU is too small.
    """
    settings = parse_settings(params)
    torch.set_num_threads(context.threads)
    torch.backends.cudnn.deterministic = True
    seed = context.seed % 2**64  # NumPy's seeds are not negative
    dataset = data.load(settings.dataset)
    train, val, test = _split(dataset, settings.label_noise, seed, context.device)
    weights = torch.Generator().manual_seed(int(_rng(seed, Stream.WEIGHTS).integers(2**63)))
    model = models.build(settings, dataset.inputs.shape[1:], dataset.classes, weights).to(context.device)
    identity = f"{asdict(settings)} seed {context.seed} torch {torch.__version__}"
    training = Training(settings, context, model, identity, partial(_rng, seed, Stream.SHUFFLE))
    progress = training.run(train, val)

    train_loss, train_acc = evaluate(model, train)
    test_loss, test_acc = evaluate(model, test)
    return {
        "test_acc": test_acc,
        "test_loss": test_loss,
        "val_acc": progress.best_acc,
        "val_loss": progress.best_loss,
        "train_acc": train_acc,
        "train_loss": train_loss,
        "num_parameters": sum(weight.numel() for weight in model.parameters()),
        "best_epoch": progress.best_epoch,
        "epochs_run": training.epochs_run,
    }


def warm_up(device: str = "cpu") -> None:
    """Pay the first-use costs of torch and of the embedded data sets, on one thread, before a process forks.

    It computes gradients, so no process forked after it may use CUDA.
    """
    for name in TABLES + IMAGE_SETS:
        data.load_embedded(name)
    with TemporaryDirectory() as folder:
        context = Context(seed=0, device=device, checkpoint_dir=Path(folder))
        for model, optimizer in (("mlp", "adam"), ("mlp", "adamw"), ("cnn", "sgd")):
            run({"model": model, "optimizer": optimizer, "epochs": 1, "batch_size": 512}, context)


def _split(
    dataset: data.Dataset, label_noise: float, seed: int, device: str
) -> tuple[Tensors, Tensors, Tensors]:
    """Return the data to train on, with labels replaced, to validate and to test on."""
    split = data.split(dataset, _rng(seed, Stream.SPLIT))
    noisy = data.replace_labels(split.train.labels, dataset.classes, label_noise, _rng(seed, Stream.NOISE))
    return (
        _tensors(split.train.inputs, noisy, device),
        _tensors(split.val.inputs, split.val.labels, device),
        _tensors(split.test.inputs, split.test.labels, device),
    )


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _tensors(inputs: data.Inputs, labels: data.Labels, device: str) -> Tensors:
    return Tensors(torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device))
