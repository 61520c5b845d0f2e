"""Workers that share a GPU by the memory of their tasks, on one whose processes take it over time."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.cli.main import main
from distexp.task import State
from tests.live_manager import Folder, RawClient
from tests.live_worker import CONFIG, WorkerProcess, gated_folder, open_gate, worker_process
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import poll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in reads /proc")

GIB = 1024
# Takes `gb` at once, `late_gb` once a file of its own is there; ends once there is a gate, after a second.
TAKES = """
import time
from pathlib import Path
from gpu_memory import take
def run(params, context):
    width = params["width"]
    take(1024 * params["gb"])
    Path(f"began-{width}-{context.attempt}").touch()
    until_s = time.monotonic() + 1  # to be measured
    while time.monotonic() < until_s or not (Path("gate").exists() or Path(f"gate-{width}").exists()):
        if Path(f"grow-{width}").exists(): take(1024 * params["late_gb"])
        time.sleep(0.01)
    return {"attempt_seen": context.attempt}
"""
GROWS = CONFIG.replace("defaults: {{", "defaults: {{gb: 10, late_gb: 30, ")
COMMAND = """
defaults: {{output_dir: ./results_exp1, command: "python program.py {{args}}", gb: 10, late_gb: 30}}
exp1_vary_width: {{combinations: [{{width: {widths}}}]}}
"""
PROGRAM = """
import os, sys
from types import SimpleNamespace
from experiment import run
given = {name.strip("-"): int(value) for name, value in (word.split("=") for word in sys.argv[1:])}
run(given, SimpleNamespace(attempt=int(os.environ["DISTEXP_ATTEMPT"])))
"""


@contextlib.contextmanager
def shared_gpu(folder: Folder, workers: int) -> Iterator[list[WorkerProcess]]:
    """Workers that share one GPU with 38 GB free."""
    scenario = folder.root / "machine.json"
    write_scenario(scenario, gpu(0, 38 * GIB))
    sees = environment(scenario, folder.root / "gpu-claims")
    with contextlib.ExitStack() as running:
        yield [
            running.enter_context(
                worker_process(folder.root, "--slots-per-gpu", "auto", device="gpu", environment=sees)
            )
            for _ in range(workers)
        ]


def began(folder: Folder) -> set[str]:
    return {path.name.removeprefix("began-") for path in folder.root.glob("began-*")}


def await_began(folder: Folder, count: int) -> set[str]:
    poll(lambda: len(began(folder)) >= count, f"{count} tasks began, not {began(folder)}", 60)
    return began(folder)


def await_idle(user: RawClient, workers: int) -> None:
    """Wait until so many workers are connected and have no task."""

    def idle() -> int:
        return sum(each["connected"] and each["task"] is None for each in user.say("workers")["workers"])

    poll(lambda: idle() == workers, f"{workers} workers wait", 60)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GROWS, COMMAND], ids=["a function", "a command"])
def test_the_first_task_runs_alone_and_then_as_many_as_have_room(tmp_path: Path, config: str) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3, 4, 5, 6]", TAKES, config)
    (tmp_path / "program.py").write_text(PROGRAM)
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        with shared_gpu(folder, workers=4) as workers:
            await_idle(user, 3)
            assert await_began(folder, 1) == {"1-1"}

            def why(width: int) -> str:
                return str(user.say("show", task=f"exp1_vary_width_{width - 1}_42")["why"])

            assert why(2) == (
                "it is next: the memory of its phase is not known: its first task waits until gpu0 is its own"
            )
            (tmp_path / "gate-1").touch()
            assert await_began(folder, 4) == {"1-1", "2-1", "3-1", "4-1"}
            await_idle(user, 1)
            assert why(5) == "it is next: it waits for room on gpu0: tasks of its phase are given 11.0 GB"
            open_gate(tmp_path)
            assert [worker.code() for worker in workers] == [0] * 4
        assert {entry.attempts for entry in manager.queue.entries()} == {1}
    assert len(folder.rows()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("config", [GROWS, COMMAND], ids=["a function", "a command"])
def test_a_task_that_runs_out_of_memory_beside_others_runs_again_alone_at_no_cost(
    tmp_path: Path, config: str
) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3]", TAKES, config)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "gate-1").touch()
    with folder.serving() as manager, shared_gpu(folder, workers=2) as workers:
        assert await_began(folder, 3) == {"1-1", "2-1", "3-1"}
        (tmp_path / "grow-2").touch()
        poll(lambda: "beside other tasks" in "\n".join(folder.log()), "want of memory is told", 60)
        assert "2-2" not in began(folder), "task 3 still runs"
        (tmp_path / "gate-3").touch()
        assert "2-2" in await_began(folder, 4)
        open_gate(tmp_path)
        assert [worker.code() for worker in workers] == [0, 0]
        states = [(each.state, each.failures, each.losses) for each in manager.queue.entries()]
        assert states == [(State.COMPLETE, 0, 0)] * 3
    rows = {row["width"]: row["attempt"] for row in folder.rows()}
    assert rows == {"1": "1", "2": "2", "3": "1"}


@pytest.mark.slow
def test_a_gpu_that_others_have_filled_is_not_shared_and_the_worker_says_who_holds_it(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", TAKES, GROWS)
    scenario = tmp_path / "machine.json"
    write_scenario(scenario, gpu(0, 3 * GIB))
    sees = environment(scenario, tmp_path / "gpu-claims")
    words = ("--slots-per-gpu", "auto")
    with folder.serving(), worker_process(tmp_path, *words, device="gpu", environment=sees) as worker:
        worker.await_words("gpu0 NVIDIA A100: 3.0/40.0 GB free")
        write_scenario(scenario, gpu(0, 38 * GIB))
        open_gate(tmp_path)
        assert worker.code() == 0


def test_several_gpus_are_not_shared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--gpus", "2", "--slots-per-gpu", "auto"]) == 2
    told = "--gpus 2 cannot be used together with --slots-per-gpu auto"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("given", ["two", "-1"])
def test_what_is_no_number_of_slots_is_told(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--slots-per-gpu", given]) == 2
    assert f"{given!r}: write a number from 1 to 128, or auto" in capsys.readouterr().err
