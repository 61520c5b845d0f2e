"""No-op tasks per second through all that a user has: two workers, a pristine child per task, a row each.

The rate is taken from the moments in which the experiments ran, so that no start counts. RQ forks per job and
writes its log at each command, as ours writes rows; the other rivals start a process per task where they can.
"""

import csv
from pathlib import Path

from benchmarks.figures import Figure, at_least, times_at_least
from benchmarks.harness import ROUNDS, folder, manager, worker
from benchmarks.rivals import Rival
from distexp.results.results_file import RESULTS_FILE

TASKS, SKIPPED = 400, 40  # the first ones run while workers start
ROWS = 300_000  # that the file holds already, of other values of the same axis
NOOP = """
import time
def run(params, context):
    return {"began_ns": time.time_ns()}
"""
CONFIG = (
    "defaults: {{experiment: 'noop:run', output_dir: results}}\n"
    "grid: {{combinations: [{{a: {{range: [0, {tasks}]}}}}]}}\n"
)
RIVALS = (
    (Rival("RQ, a fork per job", "on_rq.py", package="rq", program="redis-server"), "200", True),
    (Rival("HyperQueue, Python tasks", "on_hyperqueue.py", package="hyperqueue"), "20", True),
    (Rival("Labtasker", "on_labtasker.py", package="labtasker"), "100", False),
    (Rival("Dask, no process per task", "on_dask.py", package="distributed"), "1000", False),
    (Rival("GNU parallel", "on_parallel.py", program="parallel"), "400", False),
)


def measure() -> list[Figure]:
    """Return our rate, beside each rival's from the same rounds."""
    ours, beside_rows = list[float](), list[float]()
    others: list[list[float]] = [[] for _ in RIVALS]
    for _ in range(ROUNDS):
        ours.append(_rate())
        beside_rows.append(_rate(ROWS))
        for (rival, tasks, _), rates in zip(RIVALS, others, strict=True):
            rates.extend(rival.run(tasks))
    name = "no-op tasks, 2 workers, a child each"
    return [
        Figure(name, "/s", ours, at_least(150)),
        Figure(
            f"{name}, {ROWS:,} rows are there", "/s", beside_rows, times_at_least(0.8), "none are there", ours
        ),
        *(
            Figure(name, "/s", ours, times_at_least(1) if is_bar else None, rival.name(), rates)
            for (rival, _, is_bar), rates in zip(RIVALS, others, strict=True)
        ),
    ]


def _rate(there: int = 0) -> float:
    """Return tasks per second in a folder whose file holds so many rows already."""
    with folder(CONFIG.format(tasks=there + TASKS)) as workdir:
        (workdir.root / "noop.py").write_text(NOOP, encoding="utf-8")
        if there:
            (workdir.root / "results").mkdir()
            lines = (f"grid,{number},42,0\n" for number in range(TASKS, TASKS + there))
            text = "phase,a,seed,began_ns\n" + "".join(lines)
            (workdir.root / "results" / RESULTS_FILE).write_text(text, encoding="utf-8")
        with manager(workdir), worker(workdir) as first, worker(workdir) as second:
            first.wait()
            second.wait()
        began_ns = sorted(int(row["began_ns"]) for row in rows(workdir.root / "results"))[there:]
    return 1e9 * (len(began_ns) - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


def rows(results: Path) -> list[dict[str, str]]:
    """Return the rows of a results folder, in the order of the file."""
    with open(results / RESULTS_FILE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
