"""Sweeps that are no plain grid: a million samples beside a grid as large, long lists, thousands of cases.

Each has a process of its own, so that its memory is its own, too; times are computing time.
"""

import gc
import time
from collections.abc import Callable, Iterable

import psutil

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder, manager, pool, status
from benchmarks.million import config
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

HEAD = "defaults: {command: 'true {args}', output_dir: results}\n"
TIMES, TIMES_MEMORY = 3.0, 1.2  # of a grid; the second is room for the drawn numbers themselves
CASES_S, AXIS_S = 2.0, 3.0
CASES, VALUES = 10_000, 100_000


def sampled(samples: int) -> str:
    """Return a config of so many samples of three axes."""
    return (
        f"{HEAD}random:\n  search: {{method: random, samples: {samples}}}\n  combinations:\n"
        "    - lr: {distribution: log_uniform_values, min: 1e-4, max: 1}\n"
        "    - dropout: {min: 0.0, max: 0.9}\n"
        "    - layers: {min: 1, max: 8}\n"
    )


def cases(count: int) -> str:
    """Return a config of so many explicit cases of three parameters."""
    return _items("cases", (f"{{a: {at}, b: {at / 7}, model: m{at % 7}}}" for at in range(count)))


def one_axis(count: int) -> str:
    """Return a config of one axis of so many values."""
    return _items("a", map(str, range(count)))


def _items(name: str, items: Iterable[str]) -> str:
    return f"{HEAD}p:\n  combinations:\n    - {name}:\n" + "".join(f"        - {item}\n" for item in items)


def measure() -> list[Figure]:
    """Return seconds and memory of each."""
    grid = [_start(config(1000, 1000)) for _ in range(ROUNDS)]
    drawn = [_start(sampled(1_000_000)) for _ in range(ROUNDS)]
    name = "1,000,000 samples of three axes, from the manager's start"
    seconds, megabytes = zip(*drawn, strict=True)
    grid_s, grid_mb = zip(*grid, strict=True)
    figures = [
        Figure(f"{name}, computing time", "s", seconds, times_at_most(TIMES), "a grid", grid_s),
        Figure(f"{name}, resident", "MB", megabytes, times_at_most(TIMES_MEMORY), "a grid", grid_mb),
    ]
    bounds: list[tuple[str, Callable[[int], str], int, float]] = [
        (f"{CASES:,} explicit cases expanded", cases, CASES, CASES_S),
        (f"one axis of {VALUES:,} values expanded", one_axis, VALUES, AXIS_S),
    ]
    with pool(1) as process:
        for name, make, count, bar_s in bounds:
            runs = [process.submit(expand_s, make(count), count).result() for _ in range(ROUNDS)]
            figures.append(Figure(name, "s", runs, at_most(bar_s)))
    return figures


def expand_s(text: str, count: int) -> float:
    """Return the seconds of computing time from the text to its tasks."""
    gc.disable()  # as a manager does while it reads configs
    began_s = time.process_time()
    tasks = expand(parse_config(text, "config_exp1.yaml"))
    took_s = time.process_time() - began_s
    if len(tasks) != count:
        raise AssertionError(f"{len(tasks)} tasks instead of {count}")
    return took_s


def _start(text: str) -> tuple[float, float]:
    """Return the seconds of computing time until a manager serves, and its resident MB."""
    with folder(text) as workdir, manager(workdir) as process:
        if (found := status(workdir).total) != 1_000_000:
            raise AssertionError(f"{found} tasks instead of 1,000,000")
        about = psutil.Process(process.pid)
        times = about.cpu_times()
        return times.user + times.system, about.memory_info().rss / 1e6
