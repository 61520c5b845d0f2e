"""Runs one task in this process, on this terminal: breakpoints work, and no row and no checkpoint is kept."""

import bdb
import functools
import os
import pdb
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from distexp.context import Context
from distexp.experiments import command
from distexp.run_folder import CHECKPOINT_FOLDER, PARAMETERS_FILE, write_parameters
from distexp.task import COMMAND_EXPERIMENT, Cause, Number, Reportable, Task, joined
from distexp.text import number_text
from distexp.worker.metrics import MetricsFile
from distexp.worker.reports import Reported, Reporter
from distexp.worker.task_main import (
    Experiment,
    Failed,
    Finished,
    Stopped,
    call,
    describe_error,
    import_experiment,
)


class Foreground:
    """One run of a task on this terminal, with a run folder of its own that is made when it is asked for."""

    def __init__(self, task: Task, root: Path, *, device: str, gpus: int, threads: int) -> None:
        """Run nothing yet.

        Args:
            task: What to run.
            root: Its working folder, which is the current one and on `sys.path`.
            device: As torch spells it.
            gpus: How many it sees.
            threads: Of the CPU, to compute with.
        """
        self._task, self._device, self._gpus, self._threads = task, device, gpus, threads
        self._output_dir = root / task.output_dir
        self.folder = Path(tempfile.mkdtemp(prefix="distexp_rerun_"), task.task_id or "task")

    def run(self, *, wants_debugger: bool = False) -> Finished | Failed | Stopped:
        """Return how it ended; with `wants_debugger` an exception opens one first."""
        metrics = MetricsFile(self.folder, 1, begin=self._make_folder)
        reporter = Reporter(record=metrics.add, send=_show)
        try:
            return call(self._experiment(), self._task, self._context(reporter))
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

    def _context(self, reporter: Reporter) -> Context:
        def make(path: Path) -> None:
            self._make_folder()
            path.mkdir(exist_ok=True)

        return Context(
            seed=self._task.seed,
            device=self._device,
            gpus=self._gpus,
            output_dir=self._output_dir,
            run_dir=self.folder,
            checkpoint_dir=self.folder / CHECKPOINT_FOLDER,
            threads=self._threads,
            command=self._task.command,
            python=self._task.python,
            has_seeds=self._task.has_seeds,
            on_report=reporter.report,
            make_folder=make,
        )

    def _make_folder(self) -> None:
        if not os.path.exists(self.folder):
            self.folder.mkdir(parents=True)
            write_parameters(self.folder, joined(self._task.config), self._task.seed)

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
