"""Runs one task in this process, on this terminal: breakpoints work, and no row and no checkpoint is kept."""

import bdb
import functools
import os
import pdb
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from distexp.context import Context
from distexp.experiments import command
from distexp.run_folder import PARAMETERS_FILE, RunFolder
from distexp.task import COMMAND_EXPERIMENT, Cause, Number, Reportable, Task
from distexp.text import number_text
from distexp.worker.metrics import MetricsFile
from distexp.worker.reports import Reported, Reporter
from distexp.worker.task_main import (
    Experiment,
    Failed,
    Finished,
    Run,
    Setup,
    Stopped,
    call,
    describe_error,
    import_experiment,
    make_context,
)
from distexp.worker.trackers import announce


class Foreground:
    """One run of a task on this terminal, with a run folder of its own that is made when it is asked for."""

    def __init__(self, task: Task, root: Path, setup: Setup) -> None:
        """Run nothing yet. `root` is the working folder, which is the current one and on `sys.path`."""
        self._task, self._setup, self._output_dir = task, setup, str(root / task.output_dir)
        self.folder = Path(tempfile.mkdtemp(prefix="distexp_rerun_"), task.task_id or "task")

    def run(self, *, wants_debugger: bool = False) -> Finished | Failed | Stopped:
        """Return how it ended; with `wants_debugger` an exception opens one first."""
        folder = RunFolder.of(self.folder, self._task)
        own_run = f"{self._task.key}-{secrets.token_hex(4)}"  # the run of the task itself stays as it is
        announce(self._task, self.folder, folder.open, wandb_run=own_run)
        metrics = MetricsFile(self.folder, 1, begin=folder.open)
        reporter = Reporter(record=metrics.add, send=_show)
        try:
            return call(self._experiment(), self._task, self._context(folder, reporter))
        except (KeyboardInterrupt, bdb.BdbQuit):
            return Stopped()
        except BaseException as error:  # noqa: BLE001 - around the experiment: whatever it raises is told
            text = describe_error(error)
            print(text, file=sys.stderr, flush=True)
            if wants_debugger:
                pdb.post_mortem(error.__traceback__)
            return Failed(Cause.ERROR, text)
        finally:
            metrics.close()

    def _experiment(self) -> Experiment:
        if self._task.experiment == COMMAND_EXPERIMENT:  # it may have breakpoints, too
            return functools.partial(command.run, stdin=None)
        return import_experiment(self._task.experiment)

    def _context(self, folder: RunFolder, reporter: Reporter) -> Context:
        run = Run(
            task=self._task,
            attempt=1,
            output_dir=self._output_dir,
            run_folder=str(self.folder),
            log="",  # it prints on this terminal
        )
        return make_context(run, folder, self._setup, threading.Event(), reporter.report)

    def close(self) -> bool:
        """Return whether the task has left files in its folder; else remove that."""
        others = (path for path in self.folder.rglob("*") if path.name != PARAMETERS_FILE)
        has_files = any(map(os.path.isfile, others))
        if not has_files:
            shutil.rmtree(self.folder.parent)
        return has_files


def _show(reported: Reported) -> None:
    print(progress_text(reported.step, reported.total, reported.metrics), file=sys.stderr, flush=True)


def progress_text(step: Number, total: Number | None, metrics: Mapping[str, Reportable]) -> str:
    """Return a report as a line, such as `step 3/30  loss=0.1235`."""
    shown = "".join(f"  {name}={number_text(value)}" for name, value in metrics.items())
    return f"step {step}{f'/{total}' if total is not None else ''}{shown}"
