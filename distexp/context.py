"""`Context`: what an experiment gets beside its parameters (seed, device, folders, reporting, stopping)."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distexp.errors import TaskStopped
from distexp.task import Number, Reportable

PROGRESS = frozenset(("step", "total"))  # of a report: no names of metrics
CHECKPOINT_FILE = "resume.pt"  # below `checkpoint_dir`: what `save_checkpoint` writes


def forget_checkpoints(folder: Path) -> None:
    """Remove what `save_checkpoint` wrote below `folder`: the task is complete, one run anew begins anew.

    A folder that is empty then goes too.
    """
    with suppress(OSError):
        for path in folder.rglob(CHECKPOINT_FILE):
            path.unlink()
        folder.rmdir()


def _ignore_report(step: Number | None, total: Number | None, metrics: Mapping[str, Reportable]) -> None:
    """Stand in for a worker when an experiment is called by hand."""


def _make(folder: Path) -> None:
    """Stand in for a worker when an experiment is called by hand."""
    folder.mkdir(parents=True, exist_ok=True)


class _MadeWhenRead:
    """A field of `Context`: a folder that is made when somebody asks where it is."""

    def __init__(self, default: Path) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, context: "Context | None", owner: type | None = None) -> Path:
        if context is None:  # `dataclass` asks for the default
            return self._default
        folder: Path = context.__dict__[self._name]
        with suppress(OSError):  # whoever writes there hears why; who only looks finds nothing
            context.make_folder(folder)
        return folder

    def __set__(self, context: "Context", folder: Path) -> None:
        context.__dict__[self._name] = folder


@dataclass(frozen=True, repr=False, eq=False)
class Context:
    """The second argument of an experiment: `run(params, context) -> result`, such as `{"test_acc": 0.9}`.

    An experiment may also be called by hand with `Context(seed=42)`.
    """

    seed: int
    device: str = "cpu"  # as torch spells it: "cpu", "mps" or "cuda:0", the first GPU it can see
    gpus: int = 0  # that it can see: "cuda:0", "cuda:1", ...; as many as its phase says, or one
    output_dir: Path = Path()  # of the phase, for what its tasks share
    run_dir: _MadeWhenRead = _MadeWhenRead(Path())  # of this task alone, the same for every attempt
    checkpoint_dir: _MadeWhenRead = _MadeWhenRead(Path("checkpoint"))  # the same for every attempt, too
    attempt: int = 1
    threads: int = 1  # compute threads this task may use on the CPU
    command: str | None = None  # the template of a `command:` task
    python: str | None = None  # what `python` in it is; None: this interpreter
    has_seeds: bool = False  # the sweep says which
    on_report: Callable[[Number | None, Number | None, Mapping[str, Reportable]], None] = _ignore_report
    stop_requested: Callable[[], bool] = lambda: False
    make_folder: Callable[[Path], None] = _make  # called with one of the two above, each time it is read

    Stopped = TaskStopped  # `raise context.Stopped` after saving a checkpoint gives the task back

    def report(
        self,
        /,
        step: Number | None = None,
        total: Number | None = None,
        *unnamed: Reportable,
        **metrics: Reportable,
    ) -> None:
        """Report how far the task is: `step` of `total` (epochs, say), with its latest metrics.

        Values without a name are called `value1`, `value2`, ...
        Numbers of NumPy and torch may stand for those of Python. What cannot be carried is left out, with one
        warning in the task's log: all of a report without a step. No report ends a task.
        """
        named = {f"value{number}": value for number, value in enumerate(unnamed, 1)}
        self.on_report(step, total, named | metrics)

    def should_stop(self) -> bool:
        """Return whether the task ought to save a checkpoint and `raise context.Stopped` soon."""
        return self.stop_requested()
