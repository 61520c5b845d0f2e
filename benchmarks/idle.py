"""An idle manager with 240 tasks stays under 1 % of a core, and a rescan reads only what is new."""

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder, manager
from distexp.manager.manager import RESCAN_S, TURN_S, ExperimentManager

SECONDS = 10.0  # of each round
ROWS = 50_000
BAR_PCT = 1.0
HOT_CALLS = 500
SLEEPER = f"import time\nwhile True: time.sleep({TURN_S})"  # what a machine charges for waking alone


def measure() -> list[Figure]:
    """Return an idle manager's share of a core, and what its rescans read of a large file."""
    config = (
        "defaults: {output_dir: results, command: 'true {args}'}\nseeds: [1, 2, 3, 4, 5]\n"
        f"grid: {{combinations: [{{a: {list(range(48))}}}]}}\n"
    )
    work = [100 * _work_share(config) for _ in range(ROUNDS)]
    rows = "".join(f"{index},7,0.5\n" for index in range(1000, 1000 + ROWS))
    with folder(config) as workdir:
        results = Path(workdir.root, "results")
        results.mkdir()
        (results / "final_results.csv").write_text("a,seed,acc\n" + rows, encoding="utf-8")
        with manager(workdir, "--rescan-s", "1") as process:
            idle = _watched(psutil.Process(process.pid))
    computes, rescans = "what it computes, of one core", "a rescan a second, of one core"
    reads, size_kb = f"read by {SECONDS:g} rescans with nothing new", [len(rows) / 1000]
    wakes = f"a bare process that wakes every {TURN_S:g} s"
    return [
        Figure(f"idle manager, 240 tasks: {computes}", "%", work, at_most(BAR_PCT)),
        Figure(f"idle manager, {rescans}", "%", idle.shares, at_most(BAR_PCT), wakes, idle.bare_shares),
        Figure(reads, "kB", idle.read_kb, times_at_most(1), "the file", size_kb),
    ]


@dataclass
class Idle:
    """What an idle manager took in each round."""

    shares: list[float] = field(default_factory=list)  # of a core, in %
    bare_shares: list[float] = field(default_factory=list)  # the same of a process that only wakes as often
    read_kb: list[float] = field(default_factory=list)


def _watched(process: psutil.Process) -> Idle:
    """Return what the manager takes, beside a process that only wakes as often as it does."""
    idle = Idle()
    bare = subprocess.Popen([sys.executable, "-c", SLEEPER])
    time.sleep(1.0)  # for both to have started
    sleeper = psutil.Process(bare.pid)
    for _ in range(ROUNDS):
        used_s, slept_s, read = _used_s(process), _used_s(sleeper), process.io_counters().read_chars
        time.sleep(SECONDS)
        idle.shares.append(100 * (_used_s(process) - used_s) / SECONDS)
        idle.bare_shares.append(100 * (_used_s(sleeper) - slept_s) / SECONDS)
        idle.read_kb.append((process.io_counters().read_chars - read) / 1000)
    bare.kill()
    bare.wait()
    return idle


def _work_share(config: str) -> float:
    """Return the computing time of a second's turns and rescans, measured hot: without what waking costs."""
    with folder(config) as workdir:
        idle = ExperimentManager(port=0, workdir=workdir.root, rescan_s=math.inf)
        idle.start()
        turn_s, rescan_s = _cost_s(idle.run_once), _cost_s(idle.rescan)
        idle.stop()
    return turn_s / TURN_S + rescan_s / RESCAN_S


def _cost_s(step: Callable[[], None]) -> float:
    began_s = time.process_time()
    for _ in range(HOT_CALLS):
        step()
    return (time.process_time() - began_s) / HOT_CALLS


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
