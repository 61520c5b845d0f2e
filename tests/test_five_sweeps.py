"""Five sweeps from simple to advanced, as a user goes through them: plan, run, killed, run again."""

import csv
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support import ENVIRONMENT, poll

EXPERIMENT = """
import math, os, time
from pathlib import Path
EPOCHS = 9
def run(params, context):
    begun = Path("begun")
    begun.mkdir(exist_ok=True)
    while len(list(begun.iterdir())) >= 5 and not Path("gate").exists(): time.sleep(0.01)
    (begun / str(os.getpid())).touch()
    right = 1 - abs(math.log10(params.get("lr", 0.01)) + 2) / 4 + params.get("width", 1) / 100
    for epoch in range(1, EPOCHS + 1):
        time.sleep(0.02)
        val_acc = right * (1 - 0.5 ** epoch) + context.seed / 1000
        context.report(epoch, EPOCHS, val_acc=val_acc)
        if context.should_stop():
            raise context.Stopped
    return {"val_acc": val_acc}
"""
HEAD = """
defaults: {experiment: "experiment:run", output_dir: "./results_exp1"}
metric: {name: val_acc, goal: maximize}
"""
SIMPLE = """
exp1:
  search: {method: random, samples: 12}
  combinations:
    - lr: {distribution: log_uniform_values, min: 1e-4, max: 1}
    - width: [1, 2, 4]
"""
CASES_AND_ZIP = """
seeds: [1, 2]
exp1:
  combinations:
    - cases: [{}, {optimizer: sgd}, {optimizer: adam, weight_decay: 0.01}]
    - zip: {width: [4, 8], depth: [1, 2]}
"""
CONDITIONAL = """
tags: [project]
exp1:
  defaults: {project: five}
  exclude: [{model: mlp, lr: 0.1}]
  combinations:
    - model: [mlp, cnn]
    - kernel: [3, 5]
      when: {model: cnn}
    - lr: [0.1, 0.01, 0.001]
"""
SHUFFLED = """
exp1:
  order: shuffled
  early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 9}
  combinations:
    - lr: {geomspace: [1e-4, 1, 5]}
    - width: [1, 2, 4, 8]
"""
ADAPTIVE = """
seeds: [1, 2, 3]
exp1:
  search: {method: tpe, samples: 8}
  early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 9}
  combinations:
    - lr: {distribution: log_uniform_values, min: 1e-4, max: 1}
    - width: [1, 2, 4]
"""
SWEEPS = {
    "random": (SIMPLE, 12),
    "cases and zip": (CASES_AND_ZIP, 12),
    "conditional": (CONDITIONAL, 8),
    "shuffled, stopped early": (SHUFFLED, 20),
    "TPE, three seeds, stopped early": (ADAPTIVE, 24),
}


def distexp(root: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "distexp", *words],
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(root: Path) -> "subprocess.Popen[str]":
    return distexp(root, "run", "--workers", "2", "--device", "cpu", "--port", "0")


def rows(root: Path) -> list[dict[str, str]]:
    path = root / "results_exp1" / "final_results.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kill_all(process: "subprocess.Popen[str]") -> None:
    """End a run as a power cut does: its manager, its workers and their tasks at once."""
    family = psutil.Process(process.pid).children(recursive=True)
    for each in [psutil.Process(process.pid), *family]:
        with suppress(psutil.NoSuchProcess):  # a task that has just ended
            each.kill()
    process.communicate()
    psutil.wait_procs(family)


@pytest.mark.skipif(os.name == "nt", reason="kills a tree of processes")
@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_it_is_planned_run_killed_and_run_to_its_end_with_a_row_per_task(tmp_path: Path, name: str) -> None:
    text, tasks = SWEEPS[name]
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(HEAD + text)

    planned, _ = distexp(tmp_path, "plan").communicate()
    assert f"{tasks} tasks" in planned

    killed = start(tmp_path)
    poll(lambda: len(rows(tmp_path)) >= 3, "three rows", 60)
    kill_all(killed)
    (tmp_path / "gate").touch()
    before = rows(tmp_path)
    assert len(before) < tasks

    again = start(tmp_path)
    said, _ = again.communicate(timeout=100)
    assert again.returncode == 0, said
    after = rows(tmp_path)
    kept = [{column: row[column] for column in before[0]} for row in after[: len(before)]]
    assert kept == before  # a later row may have brought columns
    assert len(after) == tasks
    assert set(Counter(row["task_id"] for row in after).values()) == {1}
    pruned = [row for row in before if row.get("stopped_at")]
    log = (tmp_path / "experiment_manager.log").read_text()
    assert f"Marked {len(before) - len(pruned)} tasks as already completed" in log
    assert (" pruned earlier stay so" in log) == bool(pruned)
    assert any(row.get("stopped_at") for row in after) == ("early_terminate" in text)
    assert all(row["val_acc"] for row in after)
