"""What W&B and MLflow are told of a task: its name, its key, its folder."""

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from distexp.worker.task_main import Finished, Run
from distexp.worker.task_process import Children
from tests.live_child import Write, a_run, end_template, outcome_of
from tests.live_manager import Folder
from tests.live_worker import worker_process

NAMES = ("WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DIR", "MLFLOW_RUN_NAME")
TELLS = f"import os\ndef run(p, c): return {{name: os.environ.get(name) for name in {NAMES}}}"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "distexp-tests"
WANDB = "wandb==0.31.0"

# Says what W&B has made of its run.
TRAIN = """
import json, sys, wandb
run = wandb.init(project="digits", config={"lr": float(sys.argv[1])})
for step in range(3):
    run.log({"loss": float(sys.argv[1]) / (step + 1)})
found = {"id": run.id, "name": run.name, "group": run.group, "dir": run.dir}
run.finish()
print(json.dumps(found))
"""
CONFIG = """
defaults: {{output_dir: ./results_exp1, python: "PYTHON", command: "python train.py {{width}}"}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""


def told(children: Children, run: Run) -> dict[str, object]:
    outcome = outcome_of(children, run)
    assert isinstance(outcome, Finished), outcome
    return dict(outcome.result)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_task_tells_trackers_its_name_key_phase_and_folder(
    children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write(TELLS))
    assert told(children, run) == {
        "WANDB_RUN_GROUP": "exp1",
        "WANDB_NAME": "exp1_0_42",
        "WANDB_RUN_ID": run.task.key,
        "WANDB_RESUME": "allow",
        "WANDB_DIR": run.run_folder,
        "MLFLOW_RUN_NAME": "exp1_0_42",
    }


def test_what_the_user_has_set_stays(
    watcher: object, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os\nos.environ['WANDB_NAME'] = 'mine'\n" + TELLS
    monkeypatch.setenv("WANDB_DIR", "/somewhere")
    children = Children(method="spawn", device="cpu", threads=1, watcher=watcher)  # type: ignore[arg-type]
    found = told(children, a_run(tmp_path, write(source)))
    children.close()
    assert (found["WANDB_NAME"], found["WANDB_DIR"], found["WANDB_RESUME"]) == ("mine", "/somewhere", "allow")


@pytest.mark.parametrize(
    ("source", "is_made"),
    [
        ("import os\ndef run(p, c): return {'made': os.path.isdir(os.environ['WANDB_DIR'])}", False),
        ("import wandb, os\ndef run(p, c): return {'made': os.path.isdir(os.environ['WANDB_DIR'])}", True),
        (
            "def run(p, c):\n import wandb, os\n return {'made': os.path.isdir(os.environ['WANDB_DIR'])}",
            True,
        ),
    ],
)
def test_the_folder_is_there_for_a_task_that_imports_wandb(
    children: Children, write: Write, tmp_path: Path, source: str, is_made: bool
) -> None:
    end_template()
    (tmp_path / "wandb.py").touch()
    assert told(children, a_run(tmp_path, write(source)))["made"] is is_made


def python_with_wandb() -> str:
    """The Python of an environment with W&B, made once; the test is skipped where it cannot be."""
    home = CACHE / WANDB.replace("==", "-")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        words = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", WANDB]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            pytest.skip(f"{WANDB} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        (home / "complete").touch()
    return python.as_posix()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_wandb_offline_takes_name_key_and_folder_from_the_task(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.configure([1], CONFIG.replace("PYTHON", python_with_wandb()))
    (tmp_path / "train.py").write_text(TRAIN)
    with (
        folder.serving() as manager,
        worker_process(
            tmp_path, "localhost", manager.port, environment={"WANDB_MODE": "offline", "HOME": str(tmp_path)}
        ) as worker,
    ):
        assert worker.code() == 0, worker.output()
    (row,) = folder.rows()
    key = row["run_dir"].rpartition("_")[2]
    assert (row["id"], row["name"], row["group"]) == (key, row["task_id"], row["phase"])
    assert Path(row["dir"]).is_relative_to(tmp_path / row["run_dir"] / "wandb")
    assert list((tmp_path / row["run_dir"] / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb"))


# -- a command whose metrics are W&B's alone

LIKE_WANDB = """
import json, os
from pathlib import Path
run = Path(os.environ["WANDB_DIR"], "wandb", "run-20261130_081942-" + os.environ["WANDB_RUN_ID"])
(run / "files").mkdir(parents=True)
summary = {"loss": 0.25, "val": {"acc": 0.5}, "_step": 2, "_runtime": 1.5, "_wandb": {"runtime": 1}}
(run / "files" / "wandb-summary.json").write_text(json.dumps(summary))
(run.parent / "latest-run").symlink_to(run.name)
print("no JSON at the end")
"""


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege on Windows")
def test_a_command_without_a_result_has_the_metrics_of_wandbs_summary(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path)
    folder.configure([1], CONFIG.replace("PYTHON", shlex.quote(Path(sys.executable).as_posix())))
    (tmp_path / "train.py").write_text(LIKE_WANDB)
    with folder.serving() as manager, worker_process(tmp_path, "localhost", manager.port) as worker:
        assert worker.code() == 0, worker.output()
    (row,) = folder.rows()
    assert (row["loss"], row["val.acc"]) == ("0.25", "0.5")
    assert not [name for name in row if name.startswith("_")]
