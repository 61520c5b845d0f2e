"""Children of the product, started from this process."""

import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from distexp.run_folder import RunFolder
from distexp.system.process import ProcessMark
from distexp.task import Process, make_task
from distexp.worker.task_main import Outcome, Run
from distexp.worker.task_process import Attempt, Children, StartMethod
from tests.support import poll

Write = Callable[[str], str]  # source of an experiment -> "module:function"
METHODS: list[StartMethod] = ["forkserver", "spawn"] if sys.platform == "linux" else ["spawn"]
DEADLINE_S = 60.0


def end_template() -> None:
    """End the template of forked children that an earlier test has left: it may have imported anything."""
    if sys.platform == "linux":
        from multiprocessing import forkserver  # a class of systems with fork

        forkserver._forkserver._stop()  # type: ignore[attr-defined]


def a_run(folder: Path, experiment: str, *, attempt: int = 1, process: Process = "forked") -> Run:
    task = make_task(
        task_id="exp1_0_42",
        phase="exp1",
        config={"width": 1},
        seed=42,
        output_dir="results",
        axes=("width",),
        experiment=experiment,
        process=process,
    )
    run = RunFolder.of(folder / "run", task)
    log, start = run.begin_log("# a header\n")
    return Run(
        task=task,
        attempt=attempt,
        output_dir=str(folder),
        run_folder=str(run.path),
        log=str(log),
        log_start=start,
    )


def await_end(attempt: Attempt) -> Outcome:
    while (outcome := attempt.outcome()) is None:
        assert wait(attempt.waitables, DEADLINE_S), "the child said nothing"
    return outcome


def outcome_of(children: Children, run: Run) -> Outcome:
    attempt = children.start(run)
    try:
        return await_end(attempt)
    finally:
        attempt.kill()


def await_gone(pid: int) -> None:
    mark = ProcessMark.of(pid)
    poll(lambda: mark is None or mark.is_gone(), f"process {pid} gone")
