"""1,000,000 tasks, from the start of the manager until it serves, and what each of them keeps resident.

Both as a user sees them, from outside: the start of the interpreter counts, and memory is that of the
process, less that of a manager of one task. HyperQueue's tasks are one array job, for a server without
workers.
"""

import time

import psutil

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder, manager, status
from benchmarks.rivals import Rival

HYPERQUEUE = Rival("HyperQueue, 100,000 tasks", "on_hyperqueue_array.py", package="hyperqueue")
HYPERQUEUE_TASKS = 100_000
BAR_S, BAR_KB = 10.0, 0.5


def config(a: int, b: int) -> str:
    """Return a config of a x b tasks."""
    return (
        "defaults: {command: 'true {args}', output_dir: results}\n"
        f"grid: {{combinations: [{{a: {list(range(a))}}}, {{b: {list(range(b))}}}]}}\n"
    )


def measure() -> list[Figure]:
    """Return seconds and resident kB per task."""
    took_s, kb, hyperqueue = [], [], list[float]()
    for _ in range(ROUNDS):
        _, bare_kb = _start(1, 1)
        full_s, full_kb = _start(1000, 1000)
        took_s.append(full_s)
        kb.append((full_kb - bare_kb) / 1_000_000)
        hyperqueue += HYPERQUEUE.run(str(HYPERQUEUE_TASKS))
    name = "resident memory of a queued task, 1,000,000 tasks"
    return [
        Figure("1,000,000 tasks expanded and queued, from the manager's start", "s", took_s, at_most(BAR_S)),
        Figure(name, "kB", kb, at_most(BAR_KB)),
        Figure(name, "kB", kb, times_at_most(1), HYPERQUEUE.name(), hyperqueue),
    ]


def _start(a: int, b: int) -> tuple[float, float]:
    """Return the seconds until the manager serves, and its resident kB."""
    with folder(config(a, b)) as workdir:
        began_s = time.perf_counter()
        with manager(workdir) as process:
            took_s = time.perf_counter() - began_s
            if (found := status(workdir).total) != a * b:
                raise AssertionError(f"{found} tasks instead of {a * b}")
            return took_s, psutil.Process(process.pid).memory_info().rss / 1000
