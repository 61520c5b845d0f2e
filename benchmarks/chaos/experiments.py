"""The experiments of a chaos run: small, exact, and each with a diary that outlives a kill.

Every attempt appends lines to the file `$CHAOS_DIARY`: one when it starts, one at each step, one at its
end. So a killed attempt, too, shows until when it ran. The clock is the system's monotonic one, the same in
all processes. As a program (`python -m benchmarks.chaos.experiments SIZE SEED`) it is the `command:` of a
sweep.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from distexp.context import Context

DIARY_VARIABLE = "CHAOS_DIARY"
STEP_S = 0.05
SHORT_STEPS = 3
SEARCHED = ("random", "tpe")  # kinds that are compared at their steps
STEPS = {
    "saver": 40,
    "slow": 80,
    "random": 9,
    "tpe": 9,
}  # the long ones outlive a lease that ends while they run
BUSY_NUMBERS = 100_000_000  # about two seconds
_FORGOTTEN: list[object] = []
NAP_S = 600  # of a child that nobody waits for: it must be ended with its task


def score(kind: str, size: int, seed: int) -> int:
    """Return the one right result of a task."""
    return zlib.crc32(f"{kind}/{size}/{seed}".encode()) % 100_000


def run(params: Mapping[str, Any], context: Context) -> dict[str, float]:
    """Do what `params["kind"]` says and return the score."""
    kind, size, seed = str(params["kind"]), int(params["size"]), context.seed
    diary = Diary(kind, size, seed, context.attempt)
    if kind == "flaky" and context.attempt == 1:
        raise RuntimeError("a first attempt of this kind fails")
    if kind == "family":
        leave_behind(is_detached=bool(size % 2))
    if kind == "pool":
        forget_a_pool()
    if kind == "busy":
        sum(range(BUSY_NUMBERS))  # one call during which no other thread of its process runs
    steps = STEPS.get(kind, SHORT_STEPS + size)
    first = _saved(context) if kind == "saver" else 0
    metrics = {"score": score(kind, size, seed), "value": 100 - abs(size - 40) + seed / 10}
    for step in range(first, steps):
        time.sleep(STEP_S)
        diary.write("step")
        print(f"step {step + 1} of {steps}", flush=True)
        context.report(step + 1, steps, **(metrics if kind in SEARCHED else {}))
        if kind in SEARCHED and context.should_stop():
            raise context.Stopped
        if kind == "saver" and context.should_stop():
            _save(context, step + 1)
            raise context.Stopped
    diary.write("end")
    if kind in SEARCHED:
        return metrics
    extra = {"first_step": first} if kind == "saver" else {}  # a column that the file may lack
    return {"score": score(kind, size, seed), **extra}


def leave_behind(*, is_detached: bool) -> None:
    """Start children that outlive whoever does not end them."""
    nap = [sys.executable, "-S", "-c", f"import time; time.sleep({NAP_S})"]
    subprocess.Popen(nap, start_new_session=is_detached)


def forget_a_pool() -> None:
    """Start processes that are replaced when they are killed, and named memory that nobody unlinks."""
    pool = multiprocessing.get_context("fork").Pool(2)
    _FORGOTTEN.append((pool, shared_memory.SharedMemory(create=True, size=1000)))


def _saved(context: Context) -> int:
    try:
        return int((context.checkpoint_dir / "step").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _save(context: Context, step: int) -> None:
    unfinished = context.checkpoint_dir / "step.part"
    unfinished.write_text(str(step), encoding="ascii")
    os.replace(unfinished, context.checkpoint_dir / "step")


class Diary:
    """Lines about one attempt."""

    def __init__(self, kind: str, size: int, seed: int, attempt: int) -> None:
        """Say that the attempt starts."""
        self._about = {"work": [kind, size, seed], "attempt": attempt, "pid": os.getpid()}
        self._path = Path(os.environ[DIARY_VARIABLE])
        self.write("start")

    def write(self, what: str) -> None:
        """Append a line in one write; a full disk may cut it short, so the next begins with a line end."""
        line = "\n" + json.dumps({**self._about, "at_s": time.monotonic(), "what": what}) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with suppress(OSError):
            os.write(file, line.encode())
        os.close(file)


def program(words: list[str]) -> None:
    """Be the `command:`: work, then print the result."""
    size, seed = int(words[0]), int(words[1])
    diary = Diary("program", size, seed, int(os.environ["DISTEXP_ATTEMPT"]))
    for _ in range(SHORT_STEPS + size):
        time.sleep(STEP_S)
        diary.write("step")
    diary.write("end")
    print(json.dumps({"score": score("program", size, seed)}))


if __name__ == "__main__":
    program(sys.argv[1:])
