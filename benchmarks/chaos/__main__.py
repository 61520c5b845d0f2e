"""Run sweeps under faults: `python -m benchmarks.chaos --runs N --seed S`. Exit code 1 when a run fails.

A failing run prints its seed and what did not hold, and keeps its folder. `--runs 1 --seed <that>` runs the
same plan again; the processes are real, so their timing, and with it what an event hits, may differ.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.checks import Evidence, violations
from benchmarks.chaos.plan import Kind, make_plan
from benchmarks.chaos.trial import run_plan

SPEED = 8.0
SIGHTS = {  # what is counted -> words of the product's lines
    "leases lost": " lost by ",
    "attempts told to stop": "completed by another worker",
    "failures": ", failure ",
    "tasks given back": " given back by ",
    "reconnections": " is back",
    "writes refused": "cannot be written now",
    "journal writes refused": "the records are kept and tried again",
    "torn lines met": "a torn last line",
    "kept results handed over": "Delivering a spooled result",
    "configs refused": "The sweep goes on as it was",
}


@dataclass(frozen=True)
class Verdict:
    """How one run ended."""

    problems: list[str]
    tasks: int
    attempts: int
    kinds: list[Kind]
    met: list[Kind]  # those that hit a running task
    sights: Counter[str]


def main(words: Sequence[str]) -> int:
    """Run the plans and print a line for each, then a summary."""
    settings = _parse(words)
    began_s = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it has processes to end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a script
    seeds = range(settings.seed, settings.seed + settings.runs)
    verdicts = [_run(seed, settings.speed, settings.keep) for seed in seeds]
    failures = sum(bool(verdict.problems) for verdict in verdicts)
    kinds = Counter(kind.value for verdict in verdicts for kind in verdict.kinds)
    print(
        f"\n{len(verdicts)} runs, {failures} failed; {sum(each.tasks for each in verdicts)} tasks in "
        f"{sum(each.attempts for each in verdicts)} attempts; {time.monotonic() - began_s:.0f} s"
    )
    sights = sum((verdict.sights for verdict in verdicts), Counter[str]())
    print("seen: " + ", ".join(f"{number} {sight}" for sight, number in sights.most_common()))
    met = Counter(kind.value for verdict in verdicts for kind in verdict.met)
    print("events: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()))
    print(
        "of these, while a task ran: " + ", ".join(f"{met[kind]} {kind}" for kind, _ in kinds.most_common())
    )
    return int(failures > 0)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="Sweeps under faults.")
    parser.add_argument("--runs", type=int, default=10, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next has the next (1)")
    parser.add_argument("--speed", type=float, default=SPEED, help="of the product's time (%(default)g)")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all runs")
    return parser.parse_args(words)


def _run(seed: int, speed: float, keep: bool) -> Verdict:
    root = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    began_s = time.monotonic()
    evidence, faults = run_plan(make_plan(seed), root, speed)
    problems = violations(evidence)
    attempts = len({(mark.work, mark.pid) for mark in evidence.marks})
    words = f"{len(evidence.wanted)} tasks, {attempts} attempts, {len(faults.done)} events"
    text = f"seed {seed}: {words}, {time.monotonic() - began_s:.1f} s"
    if problems or keep:
        (root / "output.txt").write_text(
            "".join(f"{line.at_s:.3f} {line.who}: {line.text}\n" for line in evidence.lines), encoding="utf-8"
        )
        text += f"; kept in {root}"
    else:
        shutil.rmtree(root)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    print(f"{text}: FAILED {problems[0]}{more}" if problems else f"{text}: ok", flush=True)
    if problems:
        (root / "problems.txt").write_text("\n".join(problems) + "\n", encoding="utf-8")
    return Verdict(problems, len(evidence.wanted), attempts, faults.done, faults.met, _sights(evidence))


def _sights(evidence: Evidence) -> Counter[str]:
    """Return how often the product met what the plan is there for."""
    texts = [line.text for line in evidence.lines]
    return Counter({name: sum(words in text for text in texts) for name, words in SIGHTS.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
