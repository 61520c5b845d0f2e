"""A callback for Lightning: reports each epoch, leaves with a checkpoint when the task ought to stop.

```python
trainer = lightning.Trainer(max_epochs=30, callbacks=[DistexpCallback(context)])
trainer.fit(model, ckpt_path=DistexpCallback.checkpoint(context))
```
"""

from pathlib import Path
from typing import Any

from distexp.context import CHECKPOINT_FILE, PROGRESS, Context

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:  # the same under its other name
    from pytorch_lightning import Callback


class DistexpCallback(Callback):  # type: ignore[misc]  # untyped where Lightning is not installed
    """Connects a `Trainer` to the task that it runs in."""

    def __init__(self, context: Context) -> None:
        """Report to `context`, and heed it."""
        self._context = context

    @staticmethod
    def checkpoint(context: Context) -> Path | None:
        """Return where an earlier attempt has left, for `ckpt_path`; None at the first."""
        path = context.checkpoint_dir / CHECKPOINT_FILE
        return path if path.exists() else None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave if the task ought to stop."""
        self._leave_if_told(trainer)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Report all metrics of the epoch, those of its validation too."""
        if trainer.is_global_zero:
            total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
            logged = trainer.callback_metrics.items()  # `step` among them: Lightning's way to set the x axis
            metrics = {name: value.item() for name, value in logged if name not in PROGRESS}
            self._context.report(trainer.current_epoch + 1, total, **metrics)
        self._leave_if_told(trainer)

    def _leave_if_told(self, trainer: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(self._context.should_stop(), all=False):
            trainer.save_checkpoint(self._context.checkpoint_dir / CHECKPOINT_FILE)
            raise self._context.Stopped
