"""Mutated config files, from disk to tasks, or to lines to mend, in bounded time and memory.

`python -m benchmarks fuzz_yaml --configs 100000 --seed 1`; `--config N` replays one that failed.
"""

import argparse
import faulthandler
import os
import re
import resource
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import Figure, at_most
from benchmarks.harness import pool
from benchmarks.yaml_cases import config
from distexp.errors import ConfigError
from distexp.sweep.source import Sweep
from distexp.task import Task

NAME = "configs/config_exp1.yaml"
CHUNK = 200  # configs that a process reads before it reports
LIMIT_S = 10.0  # of one config, in computing time: the fuzzed ones are small
HANG_S = 120.0  # then a process is ended, and shows where it stood
GROWTH_MIB = 16.0  # of a process over the second half
PEAK_MIB = 1024.0  # of a process at its largest config
PROBLEM = re.compile(rf"{re.escape(NAME)}:(\d+): .{{10,}}|{re.escape(NAME)}: and \d+ problems more")


@dataclass
class Findings:
    """What the processes have seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_mib: float = 0.0
    seconds: float = 0.0
    rss_mib: dict[int, list[float]] = field(default_factory=dict)  # pid -> after each chunk

    def note(self, problem: str) -> None:
        """Keep a problem, and show it at once."""
        self.problems.append(problem)
        print(problem, flush=True)

    def add(self, other: "Findings") -> None:
        """Take over what one chunk has seen."""
        self.outcomes += other.outcomes
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.peak_mib = max(self.peak_mib, other.peak_mib)
        for pid, sizes in other.rss_mib.items():
            self.rss_mib.setdefault(pid, []).extend(sizes)
        for problem in other.problems:
            self.note(problem)


def check(words: Sequence[str]) -> list[Figure]:
    """Run as the words say and return the figures; each problem is printed as it is found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz_yaml", description=__doc__)
    parser.add_argument("--configs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--config", type=int, help="read this one alone")
    settings = parser.parse_args(words)
    numbers = range(settings.configs) if settings.config is None else [settings.config]
    return figures(fuzz(settings.seed, numbers, processes=settings.processes))


def figures(found: Findings) -> list[Figure]:
    """Return the findings beside their bars."""
    total = sum(found.outcomes.values())
    growth = max(sizes[-1] - sizes[len(sizes) // 2] for sizes in found.rss_mib.values())
    said = ", ".join(f"{number} {name}" for name, number in found.outcomes.most_common())
    return [
        Figure(f"{total} mutated configs: {said}", "/s", [total / found.seconds]),
        Figure("problems found", "", [len(found.problems)], at_most(0)),
        Figure("computing time of the slowest config", "s", [found.slowest_s], at_most(LIMIT_S)),
        Figure("memory of a reading process, growth from the middle", "MiB", [growth], at_most(GROWTH_MIB)),
        Figure(
            "memory of a reading process at its largest config", "MiB", [found.peak_mib], at_most(PEAK_MIB)
        ),
    ]


def fuzz(seed: int, numbers: Sequence[int], *, processes: int) -> Findings:
    """Read the configs of these numbers in processes of their own."""
    found = Findings()
    began_s = time.monotonic()
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with pool(processes) as executor:
        futures = {executor.submit(read, seed, chunk): chunk for chunk in chunks}
        for done in as_completed(futures):
            try:
                found.add(done.result())
            except BrokenProcessPool as error:
                found.note(f"--seed {seed}, one of {futures[done]}: the process ended ({error})")
    found.seconds = time.monotonic() - began_s
    return found


def read(seed: int, numbers: Sequence[int]) -> Findings:
    """Read these configs one after the other, as a manager that starts does."""
    found = Findings()
    with TemporaryDirectory() as root:
        path = Path(root, NAME)
        path.parent.mkdir()
        for number in numbers:
            content = config(seed, number)
            path.write_bytes(content)
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            began_s = time.process_time()
            try:
                outcome, fault = judge(Sweep(Path(root), "configs/config_exp*.yaml"), content)
            except BaseException as error:
                error.add_note(f"--seed {seed} --config {number}")
                raise
            found.slowest_s = max(found.slowest_s, used_s := time.process_time() - began_s)
            found.outcomes[outcome] += 1
            if used_s > LIMIT_S:
                fault = fault or f"took {used_s:.1f} s, more than {LIMIT_S:g} s"
            if fault:
                found.problems.append(f"--seed {seed} --config {number}: {fault}")
    faulthandler.cancel_dump_traceback_later()
    found.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found.rss_mib[os.getpid()] = [psutil.Process().memory_info().rss / 2**20]
    return found


def judge(sweep: Sweep, content: bytes) -> tuple[str, str]:
    """Return what came out, and what is wrong with it; the latter is empty when nothing is."""
    try:
        tasks = [point.task for point in sweep.load()]
    except ConfigError as error:
        lines = len(content.decode(errors="replace").splitlines()) + 1
        return "refused", "; ".join(filter(None, (_fault(problem, lines) for problem in error.problems)))
    return "accepted", _task_fault(tasks)


def _fault(problem: str, lines: int) -> str:
    match = PROBLEM.fullmatch(problem)
    if not problem.isprintable() or not match or not (1 <= int(match[1] or 1) <= lines):
        return f"the problem {problem!r} is not one line that names the file and one of its {lines} lines"
    return ""


def _task_fault(tasks: Sequence[Task]) -> str:
    if not tasks:
        return "neither a task nor a ConfigError"
    for what, count in (("ids", len({t.task_id for t in tasks})), ("keys", len({t.key for t in tasks}))):
        if count != len(tasks):
            return f"{count} {what} for {len(tasks)} tasks"
    return ""
