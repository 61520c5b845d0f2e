"""The process that task processes are forked from: it imports the experiment and, on the CPU, warms it up.

Imported by the forkserver, once, before the first fork. On a GPU it only imports: a backward in a process
that sees a GPU starts autograd's device threads, and every forked child's backward would raise.
"""

import atexit
import contextlib
import gc
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator

from distexp.system.process import CLUSTER_SIGNALS, adopt_orphans, python_path
from distexp.worker import task_main

VARIABLE = "DISTEXP_TEMPLATE"  # what to prepare (JSON); gone from the environment of experiments


@contextlib.contextmanager
def template_order(experiment: str, warm_up_device: str | None) -> Iterator[None]:
    """Let a forkserver that is started meanwhile prepare this experiment.

    It is a bare interpreter that knows neither this package nor the worker's `sys.path`, and gets its
    orders by the environment alone.
    """
    before = os.environ.get("PYTHONPATH")
    order = {"experiment": experiment, "warm_up": warm_up_device, "path": sys.path, "PYTHONPATH": before}
    os.environ[VARIABLE] = json.dumps(order)
    os.environ["PYTHONPATH"] = python_path()  # and sitecustomize
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        _restore(before)


def prepare(text: str) -> None:
    """Import and warm up; a failure is reported by the first child, which imports again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl+C would leave torch half imported
    order = json.loads(text)
    del os.environ[VARIABLE]
    _restore(order["PYTHONPATH"])
    sys.path[:] = order["path"]
    for name in CLUSTER_SIGNALS:  # sent to every process of a job; children have to outlive them
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    atexit.register(_reap, os.getpid())
    adopt_orphans()  # of tasks that were killed: else nobody could tell whose they are
    warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")
    task_main.prepare(order["experiment"], order["warm_up"])
    gc.collect()
    gc.freeze()  # else each child's collector touches, and so copies, every object made here


def _reap(own_pid: int) -> None:
    """Stay until every child has ended: one that is left to init may be listed long after its end."""
    while os.getpid() == own_pid:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before


if VARIABLE in os.environ:
    prepare(os.environ[VARIABLE])
