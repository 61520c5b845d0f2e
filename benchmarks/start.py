"""From the start of the manager to the first row: one worker, started in the same moment, a fresh folder."""

import time

from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS, folder, manager_at_once, worker
from distexp.results.results_file import RESULTS_FILE

LOOK_S = 0.005
PATIENCE_S = 120.0
COMMAND = """
defaults: {command: "printf '{{\\"x\\": {a}}}'", output_dir: results}
grid: {combinations: [a: [1]]}
"""
TORCH = """
defaults: {output_dir: results, dataset: digits, model: mlp, epochs: 1}
grid: {combinations: [width_factor: [1]]}
"""


def measure() -> list[Figure]:
    """Return the seconds to the first row of a no-op command and of a small training."""
    _first_row_s(TORCH)  # byte code and disk cache, as on the second start of a day
    return [
        Figure(f"manager start to first row of {what}", "s", runs, at_most(bar_s))
        for what, config, bar_s in (("a no-op command", COMMAND, 1), ("a training with torch", TORCH, 4))
        for runs in [[_first_row_s(config) for _ in range(ROUNDS)]]
    ]


def _first_row_s(config: str) -> float:
    with folder(config) as workdir:
        path = workdir.root / "results" / RESULTS_FILE
        began_s = time.perf_counter()
        with manager_at_once(workdir), worker(workdir):
            while not path.exists() or path.read_bytes().count(b"\n") < 2:
                if time.perf_counter() > began_s + PATIENCE_S:
                    raise TimeoutError(f"no row in {path} within {PATIENCE_S:g} s")
                time.sleep(LOOK_S)
            return time.perf_counter() - began_s
