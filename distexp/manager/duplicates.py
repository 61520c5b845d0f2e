"""The same work in two phases runs once, its row is copied. Opens `ledger`, `rows`, `task_queue`."""

import logging

from distexp.errors import ResultsUnwritable
from distexp.queue.task_queue import TaskQueue
from distexp.results.row import copied_row
from distexp.results.store import Ledger
from distexp.task import Task

log = logging.getLogger("distexp.manager")


def copy_twin_rows(queue: TaskQueue, ledger: Ledger) -> None:
    """Give every pending twin of a complete task its copy of the row. Doing it twice adds no second row."""
    pairs = queue.twin_copies()
    by_folder: dict[str, dict[str, Task]] = {}
    for done, _ in pairs:
        by_folder.setdefault(done.output_dir, {})[done.key] = done
    rows: dict[str, dict[str, str]] = {}
    for folder, wanted in by_folder.items():
        try:
            rows |= ledger.find(folder, [*wanted.values()])
        except ResultsUnwritable as error:
            log.warning("%s", error)  # the next scan tries again
    unwritable: set[str] = set()
    for done, twin in pairs:
        row = rows.get(done.key)
        if row is None or twin.output_dir in unwritable:
            continue  # it has vanished, and the scan has said so; or the next scan tries again
        try:
            ledger.append([(twin, copied_row(done, twin, row))])
        except ResultsUnwritable as error:
            log.warning("%s", error)
            unwritable.add(twin.output_dir)
            continue
        log.info("Task %s completed by a copy of %s", twin.task_id, done.task_id)
