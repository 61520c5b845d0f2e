"""Checkpoints: whole or not at all, and a training that goes on from them ends as if nothing had been."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from distexp.context import Context, forget_checkpoints
from distexp.experiments.checkpoint import load_checkpoint, save_checkpoint
from distexp.task import make_task
from distexp.worker.task_main import Finished, Stopped
from distexp.worker.task_process import Children
from tests.live_child import Write, a_run, await_end, outcome_of
from tests.support import ENVIRONMENT, TESTS, poll

STATE: dict[str, Any] = {"step": 3, "weights": torch.arange(4.0), "history": [0.5, None, "best"]}
FILE = "resume.pt"


def test_what_is_saved_is_loaded_and_there_is_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert load_checkpoint(folder) is None
    assert save_checkpoint(folder, {"step": 1}) and save_checkpoint(folder, STATE)
    loaded = load_checkpoint(folder)
    assert loaded is not None
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert loaded == {"step": 3, "history": [0.5, None, "best"]}
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_what_was_saved_below_a_folder_is_forgotten_and_other_files_stay(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "fold1"):
        assert save_checkpoint(folder, {"epoch": 1})
        (folder / "mine.pt").touch()
    forget_checkpoints(tmp_path)
    forget_checkpoints(tmp_path / "absent")
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pt"))
    assert left == ["fold1/mine.pt", "mine.pt"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
@pytest.mark.parametrize("call", ["os:fsync", "os:replace"])
def test_a_kill_in_the_middle_of_a_save_leaves_the_older_checkpoint(call: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"step": 1})
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from distexp.experiments.checkpoint import save_checkpoint\n"
        "save_checkpoint(Path(sys.argv[1]), {'step': 2})\n"
    )
    command = [sys.executable, TESTS / "kill_at_call.py", call, "before", script, folder]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == -9
    assert len(list(folder.iterdir())) == 2, "half a file was left"
    assert load_checkpoint(folder) == {"step": 1}
    assert save_checkpoint(folder, {"step": 3})
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_checkpoint_of_other_parameters_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path, {"step": 1}, identity="lr 0.1")
    assert load_checkpoint(tmp_path, identity="lr 0.2") is None
    assert capsys.readouterr().out == (
        f"warning: {tmp_path / FILE}: the checkpoint of another training; "
        "the task starts from the beginning\n"
    )
    assert load_checkpoint(tmp_path, identity="lr 0.1") == {"step": 1}


@pytest.mark.parametrize("foreign", [[1, 2], {"weight": torch.zeros(1)}, torch.zeros(2)])
def test_a_checkpoint_of_another_program_does_not_count(
    foreign: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(foreign, tmp_path / FILE)
    assert load_checkpoint(tmp_path) is None
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {tmp_path / FILE}: not readable as a checkpoint (")
    assert said.count("\n") == 1


def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 1})
    with pytest.raises(TypeError, match=r"^checkpoint: pathlib\S* in the state cannot be read again; save t"):
        save_checkpoint(tmp_path, {"step": 2, "where": tmp_path})
    assert load_checkpoint(tmp_path) == {"step": 1}


def test_torch_is_imported_by_the_first_call() -> None:
    program = "import sys, distexp.experiments.checkpoint; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=ENVIRONMENT)
    assert child.stdout == b"False\n"


# Epoch 3 of the first attempt ends when the stop has been asked for, whatever the machine has to do besides.
STOPPED_IN_EPOCH_4 = """
import time
from dataclasses import replace
from distexp.experiments import classification
def run(params, context):
    def report(step, total, metrics):
        context.on_report(step, total, metrics)
        if step == 3: (context.output_dir / "epoch3").touch()
        while step == 3 and context.attempt == 1 and not context.should_stop():
            time.sleep(0.01)
    return classification.run(params, replace(context, on_report=report))
"""


@pytest.mark.slow
def test_a_training_that_is_stopped_and_resumed_gives_the_row_of_an_undisturbed_one(
    children: Children, write: Write, tmp_path: Path
) -> None:
    from distexp.experiments import classification

    config = {"dataset": "wine", "epochs": 6, "batch_size": 16, "optimizer": "adamw", "label_noise": 0.1}
    first_run = a_run(tmp_path, write(STOPPED_IN_EPOCH_4))
    first_run = msgspec.structs.replace(
        first_run, task=msgspec.structs.replace(first_run.task, config=config)
    )
    first = children.start(first_run)
    poll((tmp_path / "epoch3").exists, "the end of epoch 3", 100.0)
    first.ask_stop()
    assert await_end(first) == Stopped()
    first.kill()
    resumed = outcome_of(children, msgspec.structs.replace(first_run, attempt=2))
    assert isinstance(resumed, Finished)
    undisturbed = classification.run(config, Context(seed=42, checkpoint_dir=tmp_path / "none"))
    assert resumed.result == undisturbed
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = [(row["attempt"], row["step"]) for row in csv.DictReader(file)]
    assert rows == [("1", "1"), ("1", "2"), ("1", "3"), ("2", "4"), ("2", "5"), ("2", "6")]


PROGRAM = """
import json, os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["DISTEXP_CHECKPOINT_DIR"], "step.json")
step = json.loads(place.read_text()) if place.exists() else 0
began = step
def save(*_):
    half = place.with_suffix(".tmp")
    half.write_text(json.dumps(step))
    os.replace(half, place)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
while step < 10:
    step += 1
    if step == 4 and os.environ["DISTEXP_ATTEMPT"] == "1":
        pathlib.Path(sys.argv[1]).touch()
        while True: time.sleep(0.1)  # a signal just before a sleep is heard after it
print(json.dumps({"began": began, "step": step}))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM to a program")
def test_a_command_that_gets_sigterm_saves_and_resumes(children: Children, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    task = make_task(
        task_id="exp1_0_42",
        phase="exp1",
        config={},
        seed=42,
        output_dir=".",
        axes=(),
        experiment="distexp.experiments.command:run",
        command=f"python {tmp_path / 'train.py'} {tmp_path / 'waits'}",
    )
    run = a_run(tmp_path, "unused")
    first = children.start(msgspec.structs.replace(run, task=task))
    poll((tmp_path / "waits").exists, "the program waiting")
    first.ask_stop()
    assert isinstance(await_end(first), Stopped)
    first.kill()
    second = outcome_of(children, msgspec.structs.replace(run, task=task, attempt=2))
    assert isinstance(second, Finished)
    assert second.result == {"began": 4, "step": 10}
