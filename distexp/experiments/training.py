"""The training loop: batches, validation, early stopping, checkpoints; no global random state."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distexp.context import Context
from distexp.experiments.checkpoint import load_checkpoint, save_checkpoint
from distexp.experiments.settings import Settings

CHECKPOINT_EVERY_S = 10.0  # what a kill may cost; who is asked to stop saves at once
SAVING_SHARE = 0.05  # of the time, at most, on a slow disk
EVALUATION_ROWS = 1024  # at once; bounds the memory of the activations
MOMENTUM = 0.9  # of sgd


@dataclass(frozen=True)
class Tensors:
    """Shapes: inputs (N, F) or (N, C, H, W), float32; labels (N,), int64; both on the training device."""

    inputs: Tensor
    labels: Tensor


@dataclass
class Progress:
    """Where a training stands; with model and optimizer, all that a checkpoint needs."""

    epoch: int = 1  # the one in progress
    step: int = 0  # batches of it that are done
    last_loss: float = 0.0  # val_loss of the epoch before
    best_epoch: int = 0  # 0: none yet
    best_loss: float = math.inf
    best_acc: float = 0.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """One training that can be interrupted and resumed after any batch.

    Args:
        identity: Equal for two trainings exactly when one may go on from the checkpoint of the other.
        shuffle: Gives the random generator of an epoch's order.
    """

    def __init__(
        self,
        settings: Settings,
        context: Context,
        model: nn.Module,
        identity: str,
        shuffle: Callable[[int], np.random.Generator],
    ) -> None:
        self.settings = settings
        self.context = context
        self.model = model
        self.identity = identity
        self.shuffle = shuffle
        self.optimizer = _optimizer(settings, model)
        self.progress = Progress()
        self._next_save_s = time.monotonic() + CHECKPOINT_EVERY_S

    def run(self, train: Tensors, val: Tensors) -> Progress:
        """Train to the end, load the best weights into the model, and return how it went.

        Raises:
            TaskStopped: The context said so; a checkpoint is saved.
            FloatingPointError: The first val_loss was not finite; later, that only ends the training.
        """
        self._resume()
        while not self._finished():
            self._train_epoch(train)
            loss, accuracy = evaluate(self.model, val)
            self._note(loss, accuracy)
            self.context.report(self.epochs_run, self.settings.epochs, val_acc=accuracy, val_loss=loss)
        self.model.load_state_dict(self.progress.best_weights)
        return self.progress

    @property
    def epochs_run(self) -> int:
        """Return the number of epochs that are complete, those before an interruption included."""
        return self.progress.epoch - 1

    def _train_epoch(self, train: Tensors) -> None:
        rows, size = len(train.labels), self.settings.batch_size
        order = torch.from_numpy(self.shuffle(self.progress.epoch).permutation(rows)).to(train.labels.device)
        for start in range(self.progress.step * size, rows, size):
            self._save_when_due()
            batch = order[start : start + size]
            loss = cross_entropy(self.model(train.inputs[batch]), train.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.progress.step += 1

    def _note(self, loss: float, accuracy: float) -> None:
        """Keep the weights when they are the best so far, and go on to the next epoch."""
        progress = self.progress
        if not math.isfinite(loss) and not progress.best_epoch:
            lr = self.settings.lr
            raise FloatingPointError(f"epoch {progress.epoch}: val_loss is {loss}; is lr {lr:g} too large?")
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss, progress.best_acc = progress.epoch, loss, accuracy
            progress.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        progress.epoch, progress.step, progress.last_loss = progress.epoch + 1, 0, loss

    def _finished(self) -> bool:
        progress, patience = self.progress, self.settings.patience
        impatient = patience is not None and self.epochs_run - progress.best_epoch >= patience
        return impatient or self.epochs_run >= self.settings.epochs or not math.isfinite(progress.last_loss)

    def _save_when_due(self) -> None:
        stop = self.context.should_stop()
        began_s = time.monotonic()
        if stop or began_s >= self._next_save_s:
            save_checkpoint(self.context.checkpoint_dir, self._state(), self.identity)
            saved_s = time.monotonic()
            self._next_save_s = saved_s + max(CHECKPOINT_EVERY_S, (saved_s - began_s) / SAVING_SHARE)
        if stop:
            raise self.context.Stopped(f"stopped in epoch {self.progress.epoch} of {self.settings.epochs}")

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }

    def _resume(self) -> None:
        state = load_checkpoint(self.context.checkpoint_dir, self.identity)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])


def evaluate(model: nn.Module, part: Tensors) -> tuple[float, float]:
    """Return the mean cross entropy in nats and the share of right answers."""
    loss_sum = 0.0
    right = 0
    with torch.inference_mode():
        for start in range(0, len(part.labels), EVALUATION_ROWS):
            labels = part.labels[start : start + EVALUATION_ROWS]
            logits = model(part.inputs[start : start + EVALUATION_ROWS])
            loss_sum += cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum().item())
    return loss_sum / len(part.labels), right / len(part.labels)


def _optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=MOMENTUM, **options)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), **options)
