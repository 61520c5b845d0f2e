"""Our own searches: one sweep of many phases, a real manager, two real workers, a child for each training."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import folder, manager, worker
from benchmarks.search.replay import EPOCHS, recordings, replay, seed_of, space
from distexp.context import Context

WORKERS = 2
ETA = 3
RUNGS = (1, 3, 9)
VERDICTS = "verdicts.log"  # milliseconds that each report at a rung has taken
HALVING = f"early_terminate: {{type: asha, min_iter: 1, eta: {ETA}, max_iter: {EPOCHS}}}\n"
HEAD = """
defaults: {{experiment: "benchmarks.search.ours:run", output_dir: "./results_{{repeat}}", log_folder: {logs}}}
tags: [log_folder]
metric: {{name: val_acc, goal: maximize}}
"""
PHASE = """
search_{repeat}:
  search: {{method: {method}, samples: {samples}, seed: {repeat}}}
  defaults: {{repeat: {repeat}}}
  combinations:
"""


def run(params: Mapping[str, Any], context: Context) -> dict[str, float]:
    """Be an experiment: replay one training."""
    folder = Path(params["log_folder"])
    val_acc = 0.0
    for step, val_acc in replay(params, params["repeat"], folder / f"{params['repeat']}.log"):
        began_s = time.perf_counter()
        context.report(step, EPOCHS, val_acc=val_acc)
        if step in RUNGS:
            took_ms = 1000 * (time.perf_counter() - began_s)
            with open(folder / VERDICTS, "a", encoding="utf-8") as file:
                file.write(f"{took_ms:.3f}\n")
        if context.should_stop():
            raise context.Stopped
    return {"val_acc": val_acc}


def warm_up(device: str) -> None:
    """Read the table before a process forks."""
    for repeat in (0, 1):
        recordings(seed_of(repeat))


def config(method: str, repeats: int, samples: int, logs: Path, *, halves: bool) -> str:
    """Return a sweep with a phase for each repeat."""
    axes = "".join(f"    - {name}: {values}\n" for name, values in space().items())
    phases = "".join(
        PHASE.format(repeat=repeat, method=method, samples=samples) + axes for repeat in range(repeats)
    )
    return HEAD.format(logs=logs) + (HALVING if halves else "") + phases


def search(method: str, repeats: int, samples: int, logs: Path, *, halves: bool) -> None:
    """Search so many times, one after the other; the epochs of each repeat are logged in `logs`."""
    text = config(method, repeats, samples, logs, halves=halves)
    with folder(text) as workdir, manager(workdir, "--exit-when-done") as process, ExitStack() as opened:
        for _ in range(WORKERS):
            opened.enter_context(worker(workdir))
        if process.wait():
            said = (workdir.root / "experiment_manager.log").read_text(encoding="utf-8")
            raise RuntimeError(f"the sweep has failed:\n{said[-2000:]}")


def verdicts_ms(logs: Path) -> Sequence[float]:
    """Return how long each report at a rung took, with its way there and back and the verdict's fsync."""
    return [float(line) for line in (logs / VERDICTS).read_text(encoding="utf-8").split()]
