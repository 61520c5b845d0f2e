"""Start the manager or a worker of a chaos run: the product's own script, in a time that runs faster.

`python -m benchmarks.chaos.fast SPEED SCRIPT WORDS...`. The product reads time in few places, and only
there it is replaced: the module `time` as `manager.manager` and `cli.worker` see it (every lease, heartbeat
and turn comes from these two), the worker's one wait, the client's time-outs and what counts as a pause. So
every span keeps its length in relation to every other. With SPEED 1 nothing of this is replaced.

`$CHAOS_WALL` names a file with seconds by which `time.time` is off; `datetime`, which only dates rows, is
not. `$CHAOS_HOST` is the name of the host.
"""

import faulthandler
import importlib
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil

WALL_VARIABLE = "CHAOS_WALL"
HOST_VARIABLE = "CHAOS_HOST"


def main(words: Sequence[str]) -> None:
    """Replace the clocks, then be the script."""
    speed, script = float(words[0]), words[1]
    turn_wall_clock(Path(os.environ[WALL_VARIABLE]))
    faulthandler.register(signal.SIGUSR1)  # prints the stacks of all threads
    if host := os.environ.get(HOST_VARIABLE):
        _replace(socket, "gethostname", lambda: host)
    if speed != 1:
        (run_manager_faster if "manager" in Path(script).name else run_worker_faster)(speed)
    sys.argv = [script, *words[2:]]
    runpy.run_path(script, run_name="__main__")


def turn_wall_clock(offset_file: Path) -> None:
    """Let `time.time` be off by what the file says at each call."""
    real = time.time

    def shifted() -> float:
        try:
            return real() + float(offset_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return real()

    _replace(time, "time", shifted)
    real_boot = psutil.boot_time

    def shifted_boot() -> float:
        """Follow the wall clock, as what Linux computes it from does."""
        return real_boot() + shifted() - real()

    _replace(psutil, "boot_time", shifted_boot)


def run_manager_faster(speed: float) -> None:
    """Let the manager's time run `speed` times as fast."""
    sleep = time.sleep
    fast_time = SimpleNamespace(
        monotonic=lambda: time.monotonic() * speed, sleep=lambda span_s: sleep(span_s / speed)
    )
    _replace(importlib.import_module("distexp.manager.manager"), "time", fast_time)
    pauses = importlib.import_module("distexp.manager.pauses")
    for name in ("TICK_S", "LATE_S"):
        _replace(pauses, name, vars(pauses)[name] / speed)


def run_worker_faster(speed: float) -> None:
    """Let a worker's time run `speed` times as fast."""
    fast_time = SimpleNamespace(monotonic=lambda: time.monotonic() * speed)
    _replace(importlib.import_module("distexp.cli.worker"), "time", fast_time)
    connection, client = (
        importlib.import_module("distexp.worker.connection"),
        importlib.import_module("distexp.wire.client"),
    )
    wait = vars(connection)["wait"]
    _replace(connection, "wait", lambda things, timeout_s: wait(things, timeout_s / speed))
    for name in ("CONNECT_S", "REPLY_S"):
        _replace(client, name, vars(client)[name] / speed)


def _replace(module: ModuleType, name: str, value: Any) -> None:
    if name not in vars(module):
        raise AttributeError(f"{module.__name__} has no {name}, which a chaos run replaces")
    setattr(module, name, value)


if __name__ == "__main__":
    main(sys.argv[1:])
