"""A long sweep of no-op tasks with four workers: memory, files and threads of every process stay level.

What is level is judged from the first tenth of the tasks on. A worker's child lives for one task: only the
processes that are there from then to the end are compared. The manager may grow by what its queue holds of a
task that is complete. Beside `status` stands a bare server that is asked in turn: four workers keep both
processors busy, and what that one takes is how long any process waits for its turn.
"""

import argparse
import contextlib
import multiprocessing
import socketserver
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_most
from benchmarks.harness import await_true, folder, manager, status, worker
from benchmarks.thousand import latencies_ms
from distexp.results.results_file import RESULTS_FILE
from distexp.workdir import Workdir

TASKS, WORKERS = 100_000, 4
LOOK_EVERY_S = 2.0
LOOKS, LOOK_PAUSE_S = 10, 0.1  # the least of so many looks counts: pipes and threads come and go with a task
NOOP = "def run(params, context):\n    return {'score': 1}\n"
CONFIG = (
    "defaults: {{experiment: 'noop:run', output_dir: results}}\n"
    "grid: {{combinations: [{{a: {a}}}, {{b: {b}}}]}}\n"
)
BAR_WORKER_MB = 5.0  # of one process: what an allocator keeps or gives back by chance
BAR_TASK_KB = 0.5  # as a task in the queue
BAR_FDS = 4  # pipes of steps that a worker has left to another thread
BAR_MS = 20.0
BAR_FILES = 60  # those of a sweep of one task, and five older logs of each process
BAR_DISK_MB = 360.0  # without rows: logs of 6 times 10 MB of the manager and each worker, and the journal


@dataclass(frozen=True)
class Look:
    """What a process had at one time."""

    rss_mb: float
    files: int
    threads: int


@dataclass
class Course:
    """What was seen of a sweep from outside."""

    first: dict[int, Look] = field(default_factory=dict)  # by pid, after a tenth of the tasks
    last: dict[int, Look] = field(default_factory=dict)  # of those that are still there at the end
    status_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)  # of a server that does nothing else
    took_s: float = 0.0
    files: int = 0
    disk_mb: float = 0.0

    def growth(self, name: str, pids: Sequence[int]) -> float:
        """Return by how much the largest growth of these processes is."""
        both = self.first.keys() & self.last.keys() & {*pids}
        return max(float(getattr(self.last[pid], name) - getattr(self.first[pid], name)) for pid in both)


def check(words: Sequence[str]) -> list[Figure]:
    """Run a sweep as the words say and return the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="rounded up to hundreds")
    tasks = -(-parser.parse_args(words).tasks // 100) * 100
    with folder(CONFIG.format(a=list(range(100)), b=list(range(tasks // 100)))) as workdir:
        (workdir.root / "noop.py").write_text(NOOP, encoding="utf-8")
        with manager(workdir) as served, ExitStack() as opened:
            workers = [opened.enter_context(worker(workdir)) for _ in range(WORKERS)]
            course = _follow(workdir, tasks, [served.pid, *(each.pid for each in workers)])
            others = [pid for pid in course.first if pid != served.pid]
            return _figures(course, tasks, served.pid, others)


def _follow(workdir: Workdir, tasks: int, pids: Sequence[int]) -> Course:
    """Look at the processes and their folder until 99 of 100 tasks are complete: then workers leave."""
    course, port = Course(), int(workdir.read_info()["port"])
    await_true(lambda: status(workdir).complete >= tasks // 10, "first tenth of the tasks", tasks)
    began_s, course.first = time.monotonic(), _look(pids)
    with bare_server() as bare_port:
        while status(workdir).complete < tasks * 0.98:
            course.status_ms += latencies_ms(port, 5)
            course.bare_ms += latencies_ms(bare_port, 5)
            time.sleep(LOOK_EVERY_S)
    course.last = _look(pids)
    course.took_s = time.monotonic() - began_s
    for pid in sorted(course.first.keys() & course.last.keys()):
        print(f"{psutil.Process(pid).name()} {pid}: {course.first[pid]} -> {course.last[pid]}")
    paths = [path for path in workdir.root.rglob("*") if path.is_file()]
    course.files = len(paths)
    course.disk_mb = sum(_size(path) for path in paths if path.name != RESULTS_FILE) / 1e6
    return course


@contextmanager
def bare_server() -> Iterator[int]:
    """Yield the port of a process with a thread for each connection, which answers one word."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_bare, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def serve_bare(told: Connection) -> None:
    """Answer until killed; say the port first."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"{}\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        told.send(server.server_address[1])
        server.serve_forever()


def _look(pids: Sequence[int]) -> dict[int, Look]:
    """Return what these processes and those below them have at least, of some looks."""
    looks: dict[int, list[Look]] = {}
    for _ in range(LOOKS):
        for pid in pids:
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a child that has just ended
                    look = Look(each.memory_info().rss / 1e6, each.num_fds(), each.num_threads())
                    looks.setdefault(each.pid, []).append(look)
        time.sleep(LOOK_PAUSE_S)
    return {
        pid: Look(
            min(each.rss_mb for each in found),
            min(each.files for each in found),
            min(each.threads for each in found),
        )
        for pid, found in looks.items()
        if len(found) == LOOKS  # else it is a task's
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the log of a task that has just ended
        return 0


def _figures(course: Course, tasks: int, served: int, others: Sequence[int]) -> list[Figure]:
    title = f"{tasks:,} no-op tasks, {WORKERS} workers: "
    seen, everyone = 0.88 * tasks, [served, *others]
    kb = 1000 * course.growth("rss_mb", [served]) / seen
    p99, bare = (
        statistics.quantiles(found, n=100)[98] if len(found) > 1 else 0.0
        for found in (course.status_ms, course.bare_ms)
    )
    return [
        Figure(title + "rate", "/s", [seen / course.took_s]),
        Figure(title + "growth of the manager, a task", "kB", [kb], at_most(BAR_TASK_KB)),
        Figure(
            title + "growth of any other process",
            "MB",
            [course.growth("rss_mb", others)],
            at_most(BAR_WORKER_MB),
        ),
        Figure(
            title + "more open files of a process", "", [course.growth("files", everyone)], at_most(BAR_FDS)
        ),
        Figure(title + "more threads of a process", "", [course.growth("threads", everyone)], at_most(2)),
        Figure(title + "`status`, 99th percentile", "ms", [p99], at_most(BAR_MS), "a bare server", [bare]),
        Figure(title + "files in its folder", "", [course.files], at_most(BAR_FILES)),
        Figure(title + "its folder without rows", "MB", [course.disk_mb], at_most(BAR_DISK_MB)),
    ]
