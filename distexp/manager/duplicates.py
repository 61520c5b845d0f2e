"""The same work in two phases runs once, its row is copied."""

import logging

from distexp.errors import ResultsUnwritable
from distexp.queue.task_queue import TaskQueue
from distexp.results.row import copied_row
from distexp.results.store import ResultsStore
from distexp.task import Task

log = logging.getLogger("distexp.manager")


def copy_duplicate_rows(queue: TaskQueue, store: ResultsStore) -> None:
    """Give every pending duplicate of a complete task its copy of the row. Twice adds no second row."""
    pairs = queue.duplicate_copies()
    by_folder: dict[str, dict[str, Task]] = {}
    for done, _ in pairs:
        by_folder.setdefault(done.output_dir, {})[done.key] = done
    rows: dict[str, dict[str, str]] = {}
    for folder, wanted in by_folder.items():
        try:
            rows |= store.find(folder, [*wanted.values()])
        except ResultsUnwritable as error:
            log.warning("%s", error)  # the next scan tries again
    unwritable: set[str] = set()
    for done, duplicate in pairs:
        row = rows.get(done.key)
        if row is None or duplicate.output_dir in unwritable:
            continue  # it has vanished, and the scan has said so; or the next scan tries again
        try:
            store.append([(duplicate, copied_row(done, duplicate, row))])
        except ResultsUnwritable as error:
            log.warning("%s", error)
            unwritable.add(duplicate.output_dir)
            continue
        log.info("Task %s completed by a copy of %s", duplicate.task_id, done.task_id)
