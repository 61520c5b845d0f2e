"""`Context`: what an experiment gets beside its parameters (seed, device, folders, reporting, stopping)."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from distexp.errors import TaskStopped
from distexp.task import Number, Reportable

CHECKPOINT_FILE = "resume.pt"  # below `checkpoint_dir`: what `save_checkpoint` writes


def forget_checkpoints(folder: Path) -> None:
    """Remove what `save_checkpoint` wrote below `folder`: the row is there, a task run anew begins anew."""
    with suppress(OSError):
        for path in folder.rglob(CHECKPOINT_FILE):
            path.unlink()


def _ignore_report(step: Number | None, total: Number | None, metrics: Mapping[str, Reportable]) -> None:
    """Stand in for a worker when an experiment is called by hand."""


@dataclass(frozen=True)
class Context:
    """The second argument of an experiment: `run(params, context) -> result`, such as `{"test_acc": 0.9}`.

    An experiment may also be called by hand with `Context(seed=42)`.
    """

    seed: int
    device: str = "cpu"  # as torch spells it: "cpu" or "cuda:0", the first GPU that the task can see
    gpus: int = 0  # that it can see: "cuda:0", "cuda:1", ...; as many as its phase says, or one
    output_dir: Path = Path()  # of the phase, for what its tasks share
    run_dir: Path = Path()  # of this task alone, the same for every attempt; exists
    checkpoint_dir: Path = Path("checkpoint")  # the same folder for every attempt at this task; exists
    attempt: int = 1
    threads: int = 1  # compute threads this task may use on the CPU
    command: str | None = None  # the template of a `command:` task
    python: str | None = None  # what `python` in it is; None: this interpreter
    has_seeds: bool = False  # the sweep says which
    on_report: Callable[[Number | None, Number | None, Mapping[str, Reportable]], None] = field(
        default=_ignore_report, repr=False
    )
    stop_requested: Callable[[], bool] = field(default=lambda: False, repr=False)

    Stopped = TaskStopped  # `raise context.Stopped` after saving a checkpoint gives the task back

    def report(self, step: Number | None = None, total: Number | None = None, **metrics: Reportable) -> None:
        """Report how far the task is: `step` of `total` (epochs, say), with its latest metrics.

        Numbers of NumPy and torch may stand for those of Python. What cannot be carried is left out, with one
        warning in the task's log: all of a report without a step. No report ends a task.
        """
        self.on_report(step, total, metrics)

    def should_stop(self) -> bool:
        """Return whether the task ought to save a checkpoint and `raise context.Stopped` soon."""
        return self.stop_requested()
