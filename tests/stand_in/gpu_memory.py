"""Memory of a GPU of the stand-in machine that processes take over time, until they end.

What a process holds stands in `<scenario>.held/<uuid>/<pid>`, in MiB; `pynvml.py` beside this file counts it.
An experiment under test imports this module and calls `take`.
"""

import fcntl
import json
import os
from pathlib import Path

from pynvml import held


class OutOfMemoryError(RuntimeError):
    """As torch calls it: there is not so much memory left."""


def take(mib):
    """Hold so much in all, in MiB, from now on."""
    uuid = os.environ["CUDA_VISIBLE_DEVICES"]
    scenario = os.environ["FAKE_NVML_SCENARIO"]
    folder = Path(f"{scenario}.held", uuid)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        gpus = json.loads(Path(scenario).read_text())["gpus"]
        free = next(gpu["free_mib"] for gpu in gpus if gpu["uuid"] == uuid)
        others = sum(amount for pid, amount in held(uuid).items() if pid != os.getpid())
        if others + mib > free:
            raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {mib} MiB beside {others} MiB")
        fresh = folder / f"{os.getpid()}.new"
        fresh.write_text(str(mib))
        os.replace(fresh, folder / str(os.getpid()))
