"""Lets W&B and MLflow name a task's run as we do.  Runs in the task's child."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from distexp.task import Task

WANDB = "wandb"


def announce(
    task: Task, folder: Path, open_folder: Callable[[], None], *, wandb_run: str | None = None
) -> None:
    """Set the variables that W&B and MLflow read, but for those that the user has set.

    W&B writes to the task's folder, which is made when the task imports W&B.

    Args:
        task: The task that runs in this process.
        folder: Its run folder.
        open_folder: Makes that.
        wandb_run: The id of its W&B run; None: its key, so an attempt goes on with the run of the one before.
    """
    variables = {
        "WANDB_RUN_GROUP": task.phase,
        "WANDB_NAME": task.task_id,
        "WANDB_RUN_ID": task.key if wandb_run is None else wandb_run,
        "WANDB_RESUME": "allow",
        "WANDB_DIR": str(folder.absolute()),
        "MLFLOW_RUN_NAME": task.task_id,
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    if WANDB in sys.modules:
        open_folder()
    else:
        sys.meta_path.insert(0, _OpensFolder(open_folder))


class _OpensFolder(MetaPathFinder):
    """Makes the task's folder when W&B is imported, and finds no module."""

    def __init__(self, open_folder: Callable[[], None]) -> None:
        self._open = open_folder

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Let the next finder look."""
        if fullname == WANDB:
            sys.meta_path.remove(self)
            self._open()
