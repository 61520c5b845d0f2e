"""Answers about a sweep whose manager does not run: from configs, rows, journal and run folders.

Reads alone. The answers are those of a manager that had just started, but for what only it can know.
"""

import time
from collections.abc import Sequence

from distexp.manager.admin import Admin
from distexp.manager.forecast import Forecaster
from distexp.manager.workers import WorkerRegistry
from distexp.queue.task_queue import TaskQueue
from distexp.results.results_file import Scan
from distexp.results.store import ResultsStore
from distexp.sweep.grid import Planned
from distexp.system.process import host_name
from distexp.task import TaskRecord
from distexp.workdir import Workdir


def admin_at_rest(workdir: Workdir, tasks: Sequence[Planned], records: Sequence[TaskRecord]) -> Admin:
    """Return what answers requests of people about these tasks.

    Args:
        workdir: Its results files are read.
        tasks: Of its configs.
        records: Of its journal.
    """
    queue = TaskQueue(time.monotonic, lambda record: None)

    def take(scan: Scan) -> None:
        queue.complete_unassigned(scan.complete)

    store = ResultsStore(workdir.root, take)
    registry = WorkerRegistry(
        host=host_name(), machine="", nonce="", task_lock=workdir.task_lock, clock=time.monotonic
    )
    queue.sync(tasks)
    store.sync(tasks)
    store.scan_all()
    queue.restore(records)
    return Admin(queue, store, registry, workdir, Forecaster(queue, registry), is_served=False)
