"""A callback for the Trainer of Transformers: reports its logs, leaves with a checkpoint when told to stop.

```python
arguments = TrainingArguments(context.checkpoint_dir, eval_strategy="epoch", save_strategy="epoch")
trainer = Trainer(model, arguments, callbacks=[DistexpCallback(context)], ...)
trainer.train(resume_from_checkpoint=DistexpCallback.checkpoint(context))
```
"""

from typing import Any, Literal

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from distexp.context import PROGRESS, Context


class DistexpCallback(TrainerCallback):  # type: ignore[misc]  # untyped where it is not installed
    """Connects a `Trainer` to the task that it runs in."""

    def __init__(self, context: Context, unit: Literal["epoch", "step"] = "epoch") -> None:
        """Report to `context`, counting epochs (or parts of them) or steps of the optimizer."""
        self._context, self._unit = context, unit
        self._is_leaving = False

    @staticmethod
    def checkpoint(context: Context) -> str | None:
        """Return where an earlier attempt has left, for `resume_from_checkpoint`; None at the first."""
        found: str | None = get_last_checkpoint(str(context.checkpoint_dir))
        return found

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Report what is logged: the loss, and the metrics of each evaluation (`eval_loss`, ...)."""
        if not state.is_world_process_zero or not logs:
            return
        metrics = {name: value for name, value in logs.items() if name not in PROGRESS | {"epoch"}}
        if self._unit == "epoch":
            self._context.report(state.epoch, state.num_train_epochs, **metrics)
        else:
            self._context.report(state.global_step, state.max_steps, **metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save and end the training if the task ought to stop."""
        self._end_if_told(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save and end the training if the task ought to stop."""
        self._end_if_told(control)

    def _end_if_told(self, control: Any) -> None:
        if self._context.should_stop():
            control.should_save = control.should_training_stop = self._is_leaving = True

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Leave, once the checkpoint is there."""
        if self._is_leaving:
            raise self._context.Stopped
