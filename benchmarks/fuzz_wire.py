"""A live manager against mutated messages: it answers or closes, keeps its memory and threads, and its sweep.

`python -m benchmarks fuzz_wire --messages 1000000 --seed 1`; `--conversation N` replays one that failed.

Messages that hold the right token may assign, report, cancel and pause; that is their right. So the end is
judged by what must hold all the same: after `resume`, `cancel` of what is out and `requeue` of all that ended
without a row, a real worker finishes the sweep, each task has exactly one row that another program can read,
and a fresh manager counts every task as complete. Sound reports of completion name only a quarter of the
tasks, so that the others stay in play.
"""

import argparse
import csv
import itertools
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_most
from benchmarks.harness import folder, manager, pool, status, worker
from benchmarks.wire_cases import MEAN_MESSAGES, Target, conversation
from benchmarks.wire_peer import hold
from distexp.errors import DistexpError
from distexp.system.process import machine_id
from distexp.wire.client import Client
from distexp.wire.messages import (
    Ack,
    Cancel,
    RequestTask,
    Requeue,
    Resume,
    TaskReply,
    Tasks,
    TasksReply,
    TaskStatus,
)
from distexp.workdir import Workdir

TASKS = 200
CHUNK = 25  # conversations that a client process holds before it reports
GROWTH_MIB = 24.0  # of the manager over the second half: what its allocator may still spread
OWN_THREADS = 2  # of a manager that nobody is connected to: its turns, and the server
QUIET_S = 60.0  # for the threads of closed connections to end: a goodbye waits up to 10 s for its peer
FINISH_S = 600.0  # for the worker to run what is left, on a busy machine
LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")  # how each line of the log begins
BUG = re.compile(rb"Traceback|request failed|connection broken off|Exception")


@dataclass
class Findings:
    """What a run has seen of the manager."""

    messages: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)  # at the start, and after each chunk
    threads_before: int = 0
    threads_after: int = 0
    log_mib: float = 0.0

    def note(self, problem: str) -> None:
        """Keep a problem, and show it at once."""
        self.problems.append(problem)
        print(problem, flush=True)


def check(words: Sequence[str]) -> list[Figure]:
    """Run as the words say and return the figures; each problem is printed as it is found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz_wire", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4, help="processes that send (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks of the sweep (default: %(default)s)")
    parser.add_argument("--conversation", type=int, help="hold this one alone")
    settings = parser.parse_args(words)
    count = max(1, settings.messages // MEAN_MESSAGES)
    numbers = range(count) if settings.conversation is None else [settings.conversation]
    return figures(fuzz(settings.seed, numbers, clients=settings.clients, tasks=settings.tasks))


def figures(found: Findings) -> list[Figure]:
    """Return the findings beside their bars."""
    begin, middle, end = (found.rss_mib[at] for at in (0, len(found.rss_mib) // 2, -1))
    grown = f"manager's memory, growth from the middle ({middle:.1f} MiB; at the start {begin:.1f} MiB)"
    left = found.threads_after - found.threads_before
    return [
        Figure(f"{found.messages} mutated messages", "/s", [found.messages / found.seconds]),
        Figure("problems found", "", [len(found.problems)], at_most(0)),
        Figure(grown, "MiB", [end - middle], at_most(GROWTH_MIB)),
        Figure("manager's threads left over", "", [left], at_most(0)),
        Figure("manager's log", "MiB", [found.log_mib]),
    ]


def fuzz(seed: int, numbers: Sequence[int], *, clients: int, tasks: int) -> Findings:
    """Hold the conversations of these numbers with a manager of its own, then finish its sweep."""
    config = (
        "defaults: {command: 'echo ''{{\"x\": {a}}}''', output_dir: results}\n"
        f"fuzz: {{combinations: [{{a: {list(range(tasks))}}}]}}\n"
    )
    found = Findings()
    with folder(config) as workdir:
        with manager(workdir) as process:
            target = _target(workdir, process.pid)
            watched = psutil.Process(process.pid)
            found.threads_before = _threads(watched, OWN_THREADS)
            _barrage(target, seed=seed, numbers=numbers, clients=clients, process=watched, found=found)
            found.threads_after = _threads(watched, found.threads_before)
            status(workdir)
            _settle(workdir)
            _finish(workdir, found)
        _judge_log(workdir, found)
        _judge_rows(workdir, tasks, found)
        with manager(workdir):
            after = status(workdir)
            if after.complete != tasks:
                found.note(f"a fresh manager: not all {tasks} tasks are complete: {after}")
    return found


def _target(workdir: Workdir, pid: int) -> Target:
    with Client(workdir) as client:
        assigned = client.call(RequestTask(worker_id="first"), TaskReply)
        described = _tasks(client)
    ids = tuple(task.task_id for task in described)
    return Target(
        port=int(workdir.read_info()["port"]),
        token=json.loads(workdir.token.read_text(encoding="utf-8"))["secret"],
        sweep_id=assigned.sweep_id,
        task_ids=ids,
        keys=tuple(task.key for task in described),
        machine=machine_id(),
        nonce=workdir.read_nonce(),
        pid=pid,
        completable=max(1, len(ids) // 4),
    )


def _tasks(client: Client, state: str | None = None) -> list[TaskStatus]:
    found: list[TaskStatus] = []
    while True:
        page = client.call(Tasks(state=state, offset=len(found)), TasksReply)
        found += page.tasks
        if not page.tasks or len(found) >= page.total:
            return found


def _barrage(
    target: Target,
    *,
    seed: int,
    numbers: Sequence[int],
    clients: int,
    process: psutil.Process,
    found: Findings,
) -> None:
    found.rss_mib.append(_rss_mib(process))
    began_s = time.monotonic()
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with pool(clients) as executor:
        for done in as_completed([executor.submit(talk, target, seed, chunk) for chunk in chunks]):
            messages, problems = done.result()
            found.messages += messages
            found.rss_mib.append(_rss_mib(process))
            for problem in problems:
                found.note(problem)
    found.seconds = time.monotonic() - began_s


def _threads(process: psutil.Process, expected: int) -> int:
    """Return how many threads there are, once those of closed connections have had time to end."""
    until_s = time.monotonic() + QUIET_S
    while process.num_threads() > expected and time.monotonic() < until_s:
        time.sleep(0.05)
    return process.num_threads()


def _rss_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def talk(target: Target, seed: int, numbers: Sequence[int]) -> tuple[int, list[str]]:
    """Hold these conversations one after the other; return the messages sent and what went wrong."""
    messages, problems = 0, []
    for number in numbers:
        planned = conversation(target, seed, number)
        messages += planned.messages
        if problem := hold(planned, target.port):
            problems.append(f"--seed {seed} --conversation {number}: {problem}")
    return messages, problems


def _settle(workdir: Workdir) -> None:
    """Bring every task that has no row back to pending, as a person would."""
    with Client(workdir) as client:
        client.call(Resume(), Ack)
        client.call(Cancel(tasks=[task.task_id for task in _tasks(client, "assigned")]), Ack)
        ended = _tasks(client, "failed") + _tasks(client, "cancelled")
        client.call(Requeue(tasks=[task.task_id for task in ended]), Ack)


def _finish(workdir: Workdir, found: Findings) -> None:
    try:
        with worker(workdir) as process:
            process.wait(FINISH_S)
        after = status(workdir)
    except (subprocess.TimeoutExpired, DistexpError) as error:
        found.note(f"the sweep cannot be finished: {error}")
        return
    if after.complete != after.total:
        found.note(f"after the worker: not every task is complete: {after}")


def _judge_log(workdir: Workdir, found: Findings) -> None:
    for path in (workdir.log, workdir.root / "experiment_manager.py.out"):
        found.log_mib = max(found.log_mib, path.stat().st_size / 2**20)
        for line in itertools.islice(_strange_lines(path), 20):
            found.note(f"{path.name}: {line!r}")


def _strange_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            if BUG.search(line) or not LINE.match(line):
                yield line[:1000]


def _judge_rows(workdir: Workdir, tasks: int, found: Findings) -> None:
    with open(workdir.root / "results" / "final_results.csv", newline="", encoding="utf-8") as file:
        rows = Counter(row["a"] for row in csv.DictReader(file, strict=True))
    if rows != Counter(map(str, range(tasks))):
        found.note(f"final_results.csv: {rows} for {tasks} tasks, not one row each")
