"""Durable no-op tasks per second through the manager: each row is fsynced before it is acknowledged.

A connection has one task in flight: it hands a result over and gets the next task in the same round trip, in
TLS with the token. What is promised: a result is on disk before it is acknowledged, and a lease before its
task starts, so that a kill or a power cut loses neither; a task of a killed worker is assigned again at once;
a task has one row, however often it ran.

The rivals are those that others can connect to, with two workers, set to promise as much of that as they can:
Redis syncs each command before it answers (`appendfsync always`) and is reached by TCP, in TLS, with a
password. Celery acknowledges a task once its result is stored, and takes one at a time. It promises less in
any setting: a worker that is killed between taking a message and noting that loses the task, and tasks of
killed workers wait for an hour. Both are reported as well on a Unix socket, without TLS or password, which no
other machine can reach. huey's two workers take theirs out of SQLite with fsync; nobody else can reach them.
"""

from benchmarks.figures import Figure, times_at_least
from benchmarks.harness import ROUNDS, folder, manager
from benchmarks.peer import rate
from benchmarks.rivals import Rival

BAR = times_at_least(1.2)
RIVALS = (  # with the words of its script
    (Rival("RQ's SimpleWorker, Redis with fsync", "on_rq.py", "rq", "redis-server"), "400 simple", BAR),
    (Rival("Celery, Redis with fsync", "on_celery.py", "celery", "redis-server"), "800", BAR),
    (Rival("Labtasker", "on_labtasker.py", "labtasker"), "100", BAR),
    (Rival("RQ, on a Unix socket", "on_rq.py", "rq", "redis-server"), "400 simple socket", None),
    (Rival("Celery, on a Unix socket", "on_celery.py", "celery", "redis-server"), "800 socket", None),
)
HUEY = Rival("huey, SQLite with fsync", "on_huey.py", package="huey")
SECONDS = 3.0  # of each round
TASKS = 1000  # of huey, in each round
CONFIG = (
    "defaults: {command: 'true {args}', output_dir: results}\n"
    f"grid: {{combinations: [{{a: {list(range(300))}}}, {{b: {list(range(1000))}}}]}}\n"
)


def measure() -> list[Figure]:
    """Return the rates with 2 and with 16 connections, in alternating rounds with those of the rivals."""
    two, sixteen, huey = [], [], list[float]()
    others: list[list[float]] = [[] for _ in RIVALS]
    with folder(CONFIG) as workdir, manager(workdir):
        for _ in range(ROUNDS):
            two.append(rate(workdir, connections=2, processes=2, seconds=SECONDS))
            for (rival, words, _), rates in zip(RIVALS, others, strict=True):
                rates.extend(rival.run(*words.split()))
            huey += HUEY.run(str(TASKS))
            sixteen.append(rate(workdir, connections=16, processes=2, seconds=SECONDS))
    name = "durable no-op tasks, {} connections"
    return [
        *(
            Figure(name.format(2), "/s", two, bar, rival.name(), rates)
            for (rival, _, bar), rates in zip(RIVALS, others, strict=True)
        ),
        Figure(name.format(2), "/s", two, None, HUEY.name(), huey),
        Figure(name.format(16), "/s", sixteen, times_at_least(2), "2 connections", two),
    ]
