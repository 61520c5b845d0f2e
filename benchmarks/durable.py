"""Durable no-op tasks per second through the manager: each row is fsynced before it is acknowledged.

A connection has one task in flight: it hands a result over and gets the next task in the same round trip, in
TLS with the token. huey's two workers take theirs out of SQLite with fsync, and put each result into it.
"""

from benchmarks.figures import Figure, times_at_least
from benchmarks.harness import ROUNDS, folder, manager
from benchmarks.peer import rate
from benchmarks.rivals import Rival

HUEY = Rival("huey, SQLite with fsync", "on_huey.py", package="huey")
SECONDS = 3.0  # of each round
TASKS = 1000  # of huey, in each round
CONFIG = (
    "defaults: {command: 'true {args}', output_dir: results}\n"
    f"grid: {{combinations: [{{a: {list(range(300))}}}, {{b: {list(range(1000))}}}]}}\n"
)


def measure() -> list[Figure]:
    """Return the rates with 2 and with 16 connections, in alternating rounds with huey's."""
    two, sixteen, huey = [], [], list[float]()
    with folder(CONFIG) as workdir, manager(workdir):
        for _ in range(ROUNDS):
            two.append(rate(workdir, connections=2, processes=2, seconds=SECONDS))
            huey += HUEY.run(str(TASKS))
            sixteen.append(rate(workdir, connections=16, processes=2, seconds=SECONDS))
    name = "durable no-op tasks, {} connections"
    return [
        Figure(name.format(2), "/s", two, times_at_least(1), HUEY.name(), huey),
        Figure(name.format(16), "/s", sixteen, times_at_least(2), "2 connections", two),
    ]
