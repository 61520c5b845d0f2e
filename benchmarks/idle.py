"""An idle manager with 240 tasks stays under 1 % of a core, and a rescan reads only what is new."""

import math
import subprocess
import sys
import time
from collections.abc import Callable
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
    shares, bare_shares, read_kb = [], [], []
    with folder(config) as workdir:
        results = Path(workdir.root, "results")
        results.mkdir()
        rows = "".join(f"{index},7,0.5\n" for index in range(1000, 1000 + ROWS))
        (results / "final_results.csv").write_text("a,seed,acc\n" + rows, encoding="utf-8")
        with manager(workdir, "--rescan-s", "1") as process:
            bare = subprocess.Popen([sys.executable, "-c", SLEEPER])
            time.sleep(1.0)  # for both to have started
            watched, sleeper = psutil.Process(process.pid), psutil.Process(bare.pid)
            for _ in range(ROUNDS):
                used_s, slept_s, read = _used_s(watched), _used_s(sleeper), watched.io_counters().read_chars
                time.sleep(SECONDS)
                shares.append(100 * (_used_s(watched) - used_s) / SECONDS)
                bare_shares.append(100 * (_used_s(sleeper) - slept_s) / SECONDS)
                read_kb.append((watched.io_counters().read_chars - read) / 1000)
            bare.kill()
            bare.wait()
    wakes = f"a bare process that wakes every {TURN_S:g} s"
    size_kb = [len(rows) / 1000]
    return [
        Figure("idle manager, 240 tasks: what it computes, of one core", "%", work, at_most(BAR_PCT)),
        Figure(
            "idle manager, a rescan a second, of one core", "%", shares, at_most(BAR_PCT), wakes, bare_shares
        ),
        Figure(
            f"read by {SECONDS:g} rescans with nothing new",
            "kB",
            read_kb,
            times_at_most(1),
            "the file",
            size_kb,
        ),
    ]


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
