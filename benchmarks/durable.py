"""Durable no-op tasks per second through the manager: each row is fsynced before it is acknowledged.

A connection has one task in flight: it hands a result over and gets the next task in the same round trip, in
TLS with the token. The rivals are those that others can connect to, with two workers and what they keep
fsynced; huey's two, which nobody else can reach, take theirs out of SQLite with fsync, and are reported.
"""

from benchmarks.figures import Figure, times_at_least
from benchmarks.harness import ROUNDS, folder, manager
from benchmarks.peer import rate
from benchmarks.rivals import Rival

RIVALS = (
    (Rival("RQ's SimpleWorker, Redis with fsync", "on_rq.py", "rq", "redis-server"), ("400", "simple")),
    (Rival("Celery, Redis with fsync", "on_celery.py", "celery", "redis-server"), ("400",)),
    (Rival("Labtasker", "on_labtasker.py", "labtasker"), ("100",)),
)
BAR = 1.2
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
            for (rival, words), rates in zip(RIVALS, others, strict=True):
                rates.extend(rival.run(*words))
            huey += HUEY.run(str(TASKS))
            sixteen.append(rate(workdir, connections=16, processes=2, seconds=SECONDS))
    name = "durable no-op tasks, {} connections"
    return [
        *(
            Figure(name.format(2), "/s", two, times_at_least(BAR), rival.name(), rates)
            for (rival, _), rates in zip(RIVALS, others, strict=True)
        ),
        Figure(name.format(2), "/s", two, None, HUEY.name(), huey),
        Figure(name.format(16), "/s", sixteen, times_at_least(2), "2 connections", two),
    ]
