"""Epochs until within one point of the best: random, halving and TPE beside Optuna and Ray Tune.

All search the same 144 combinations, two trainings at a time, and replay the same recorded trainings.
What the searches came to is kept for `python -m benchmarks.search.picture`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, await_true, folder, manager, worker
from benchmarks.search.ours import verdicts_ms
from benchmarks.search.strategies import (
    OPTUNA,
    RANDOM,
    RANDOM_HALVING,
    RAY,
    STRATEGIES,
    TPE_HALVING,
    Searches,
    search,
)
from benchmarks.thousand import latencies_ms
from distexp.results.results_file import RESULTS_FILE

KEPT = Path(__file__).with_name("searches.json")
VERDICT_BAR_MS, STATUS_BAR_MS = 20.0, 20.0
HISTORY = 10_000  # finished trials
BARS = (
    (RANDOM_HALVING, RANDOM, times_at_most(0.5)),
    (TPE_HALVING, RANDOM, times_at_most(0.4)),
    (TPE_HALVING, OPTUNA.title, times_at_most(1.1)),
    (TPE_HALVING, RAY.title, times_at_most(1)),
)
LONG_SEARCH = """
defaults: {{command: "printf '{{{{\\"test_acc\\": {{lr}}, \\"size\\": {{width}}}}}}'", output_dir: results}}
metric: {{name: test_acc, goal: maximize}}
search:
  search: {{method: tpe, samples: {samples}}}
  combinations:
    - lr: {{distribution: log_uniform_values, min: 1e-4, max: 1}}
    - width: {{min: 1, max: 1000}}
"""


def check(words: Sequence[str]) -> list[Figure]:
    """Run as the words say and return the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument(
        "--only", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES), metavar="NAME"
    )
    settings = parser.parse_args(words)
    found: dict[str, Searches] = {}
    figures = []
    for name in settings.only:
        print(f"searching by {name} ...", end=" ", flush=True)
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory() as logs:
            if (searches := search(name, settings.repeats, Path(logs))) is not None:
                found[name] = searches
                keep(list(found.values()))  # also when a later one breaks off
            if name == RANDOM_HALVING:
                took_ms = verdicts_ms(Path(logs))
                figures.append(
                    Figure("verdict of a rung, on loopback", "ms", took_ms, at_most(VERDICT_BAR_MS))
                )
        if name == TPE_HALVING:
            figures.append(_status())
        print(f"{time.monotonic() - began_s:.0f} s", flush=True)
    return [*_epochs(found), *figures]


def keep(searches: Sequence[Searches]) -> None:
    """Keep what the searches came to."""
    KEPT.write_text(json.dumps([asdict(each) for each in searches]), encoding="utf-8")


def kept() -> list[Searches]:
    """Return what the last run kept."""
    return [Searches(**each) for each in json.loads(KEPT.read_text(encoding="utf-8"))]


def _epochs(found: dict[str, Searches]) -> list[Figure]:
    reported = [Figure(_title(each), "", each.epochs) for each in found.values()]
    return reported + [
        Figure(f"epochs, {name}", "", found[name].epochs, bar, other, found[other].epochs)
        for name, other, bar in BARS
        if name in found and other in found
    ]


def _title(searches: Searches) -> str:
    low, _, high = searches.quartiles
    in_vain = f", {searches.in_vain} never" if searches.in_vain else ""
    return f"epochs, {searches.name} (quartiles {low:.0f}, {high:.0f}{in_vain})"


def _status() -> Figure:
    """Return how long `status` takes while a TPE search with a long history goes on."""
    samples = HISTORY + 1000
    with folder(LONG_SEARCH.format(samples=samples)) as workdir:
        results = workdir.root / "results"
        results.mkdir()
        rows = "".join(
            f"search,search_{number}_42,{0.0001 * 1.0009**number:.6g},{1 + number % 1000},42,{number % 97}\n"
            for number in range(HISTORY)
        )
        head = "phase,task_id,lr,width,seed,test_acc\n"
        (results / RESULTS_FILE).write_text(head + rows, encoding="utf-8")
        with manager(workdir), worker(workdir):
            await_true(lambda: len(_lines(results)) > HISTORY + 1, "row of the next trial")
            port, before = int(workdir.read_info()["port"]), len(_lines(results))
            took_ms = [statistics.median(latencies_ms(port)) for _ in range(ROUNDS)]
            if len(_lines(results)) == before:
                raise AssertionError("the search stood still meanwhile")
    return Figure(f"`status` of a TPE search with {HISTORY:,} trials", "ms", took_ms, at_most(STATUS_BAR_MS))


def _lines(results: Path) -> list[str]:
    return (results / RESULTS_FILE).read_text(encoding="utf-8").splitlines()
