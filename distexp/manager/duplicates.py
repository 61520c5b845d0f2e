"""The same work in two phases runs once: copies its row to the other phase."""

import logging

from distexp.errors import ResultsUnwritable
from distexp.queue.task_queue import TaskQueue
from distexp.results.row import copied_row
from distexp.results.store import ResultsStore

log = logging.getLogger("distexp.manager")


def copy_duplicate_rows(queue: TaskQueue, store: ResultsStore) -> None:
    """Give every pending duplicate of a complete task its copy of the row. Twice adds no second row."""
    pairs = queue.queries.duplicate_copies()
    try:
        rows = store.find({done.key: done for done, _ in pairs}.values())
    except ResultsUnwritable as error:
        log.warning("%s", error)  # the next scan tries again
        return
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
