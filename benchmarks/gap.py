"""How long one worker computes nothing between two tasks.

Taken from the last line of an experiment to the first line of the next one, on the experiments' own
clock: that is more than the bar asks, for the row's way to the disk lies between them, too.
"""

import statistics
from itertools import pairwise

from benchmarks.figures import Figure, at_most
from benchmarks.fullpath import rows
from benchmarks.harness import ROUNDS, folder, manager, worker

TASKS = 60
SKIPPED = 5  # the first ones of a worker
SLEEPER = """
import time
def run(params, context):
    began_ns = time.time_ns()
    time.sleep(params["pause_s"])
    return {"began_ns": began_ns, "ended_ns": time.time_ns()}
"""
BAR_MS = 30.0


def measure() -> list[Figure]:
    """Return the median gap after tasks of 0.1 s (the next child is ready then), and after no-ops."""
    return [
        Figure(f"gap between two tasks of {pause_s:g} s on one worker", "ms", runs, at_most(BAR_MS))
        for pause_s in (0.1, 0)
        for runs in [[_gap_ms(pause_s) for _ in range(ROUNDS)]]
    ]


def _gap_ms(pause_s: float) -> float:
    config = (
        f"defaults: {{experiment: 'sleeper:run', output_dir: results, pause_s: {pause_s}}}\n"
        f"grid: {{combinations: [{{a: {list(range(TASKS))}}}]}}\n"
    )
    with folder(config) as workdir:
        (workdir.root / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
        with manager(workdir), worker(workdir) as only:
            only.wait()
        found = sorted((int(row["began_ns"]), int(row["ended_ns"])) for row in rows(workdir.root / "results"))
    gaps = [began - ended for (_, ended), (began, _) in pairwise(found)]
    return statistics.median(gaps[SKIPPED:]) / 1e6
