"""Whole sweeps with the real scripts: kills, restarts, a deleted row."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distexp.queue.holds import HOLD_AFTER
from tests.live_manager import Folder
from tests.live_worker import (
    CONFIG,
    DEADLINE_S,
    RUNNER,
    WorkerProcess,
    await_began,
    await_rows,
    gated_folder,
    open_gate,
    worker_process,
)
from tests.support import poll

MANAGER = RUNNER.with_name("experiment_manager.py")
WIDTHS = list(range(1, 9))

# Tasks of the widths GATED wait at the gate, the others take a moment.
EXPERIMENT = """
import time
from pathlib import Path
def run(params, context):
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while params["width"] in GATED and not Path("gate").exists(): time.sleep(0.01)
    return {"score": params["width"] ** 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return sweep(tmp_path, 1)


def sweep(root: Path, *gated: int) -> Folder:
    return gated_folder(root, str(WIDTHS), f"GATED = {gated}\n" + EXPERIMENT, CONFIG)


@contextmanager
def manager_process(folder: Folder, *words: str) -> Iterator[WorkerProcess]:
    """A manager on a free port, with the port in its folder when this begins."""
    info, log = folder.root / ".experiment_manager" / "manager.json", folder.root / "manager.out"
    before = info.read_text() if info.exists() else ""
    with open(log, "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, MANAGER, "--port", "0", "--rescan-s", "0.2", "--workdir", folder.root, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        poll(lambda: info.exists() and info.read_text() != before, "manager serving", DEADLINE_S)
        assert json.loads(info.read_text())["pid"] == process.pid
        yield WorkerProcess(process, log)
    finally:
        process.kill()
        process.wait()


def assert_each_once(folder: Folder) -> None:
    assert sorted((int(row["width"]), int(row["score"])) for row in folder.rows()) == [
        (width, width**2) for width in WIDTHS
    ]


def test_the_task_of_a_killed_worker_runs_elsewhere_at_once(folder: Folder) -> None:
    with (
        manager_process(folder, "--exit-when-done") as manager,
        worker_process(folder.root) as doomed,
    ):
        await_began(folder.root, 1)
        with worker_process(folder.root) as other:
            await_rows(folder, len(WIDTHS) - 1)
            doomed.signal(signal.SIGKILL)
            await_began(folder.root, 1, attempt=2)
            open_gate(folder.root)
            assert other.code() == 0
            assert manager.code() == 0
    assert_each_once(folder)
    log = folder.log()
    task = "exp1_vary_width_0_42"
    (lost,) = [line for line in log if line.startswith(f"Task {task} lost by cpu0: its process is gone")]
    assert log.index(f"Assigned task {task} to cpu0") < log.index(lost)
    assert log.index(lost) < log.index(f"Assigned task {task} to cpu1")
    assert f"Task {task} completed by cpu1" in log


@pytest.mark.slow
def test_a_killed_and_restarted_manager_costs_no_task_and_no_worker(tmp_path: Path) -> None:
    folder = sweep(tmp_path, 1, 5)
    with manager_process(folder) as first, worker_process(tmp_path) as one, worker_process(tmp_path) as two:
        for width in (1, 5):
            await_began(tmp_path, width)
        first.signal(signal.SIGKILL)
        first.code()
        assert len(folder.rows()) == 3
        open_gate(tmp_path)
        await_rows(folder, 5)
        with manager_process(folder, "--exit-when-done") as second:  # no task is left: it waits for the two
            assert (one.code(), two.code(), second.code()) == (0, 0, 0)
    assert_each_once(folder)
    assert "Marked 5 tasks as already completed" in folder.log()
    assert {row["attempt"] for row in folder.rows()} == {"1"}


def test_a_deleted_row_is_run_again_and_no_other(folder: Folder) -> None:
    open_gate(folder.root)
    for _ in range(2):
        with manager_process(folder, "--exit-when-done") as manager, worker_process(folder.root) as worker:
            assert (worker.code(), manager.code()) == (0, 0)
        assert_each_once(folder)
        kept = [line for line in folder.csv.read_text().splitlines(keepends=True) if ",3,42," not in line]
        assert len(kept) == len(WIDTHS)
        folder.csv.write_text("".join(kept))
        for began in folder.root.glob("began-*"):
            began.unlink()
    assert "Marked 7 tasks as already completed" in folder.log()
    assert [line for line in folder.log() if "_2_42 to " in line] == 2 * [
        "Assigned task exp1_vary_width_2_42 to cpu0"
    ]
    assert sum(line.startswith("Assigned task ") for line in folder.log()) == len(WIDTHS) + 1


@pytest.mark.parametrize(
    "broken", ["run = undefined_name\n", "def run(params, context): return undefined_name\n"]
)
def test_a_typo_costs_a_few_attempts_and_its_correction_alone_lets_the_sweep_go_on(
    tmp_path: Path, broken: str
) -> None:
    folder = gated_folder(tmp_path, str(list(range(16))), broken, CONFIG)
    with manager_process(folder), worker_process(tmp_path) as one, worker_process(tmp_path) as two:
        poll(lambda: any("is held" in line for line in folder.log()), "the hold", DEADLINE_S)
        one.await_words("Nothing that is left can run")
        two.await_words("Nothing that is left can run")
        last_trial = 1  # of a worker that came only when the phase was held
        assert sum("Assigned task" in line for line in folder.log()) <= HOLD_AFTER + last_trial
        (tmp_path / "experiment.py").write_text("def run(params, context): return {'score': 1}\n")
        assert [one.code(), two.code()] == [0, 0]
    assert {row["score"] for row in folder.rows()} == {"1"}
    assert len(folder.rows()) == 16
