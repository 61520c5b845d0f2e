"""The same work in two phases runs once: copies its row to the other phase."""

import logging
from collections.abc import Iterator

from distexp.errors import ResultsUnwritable
from distexp.manager.code_identity import CodeIdentity
from distexp.queue.task_queue import TaskQueue
from distexp.results.row import copied_row
from distexp.results.store import ResultsStore
from distexp.sweep.grid import Planned

log = logging.getLogger("distexp.manager")


def copy_duplicate_rows(queue: TaskQueue, store: ResultsStore, code: CodeIdentity) -> None:
    """Give every pending duplicate of a complete task its copy of the row. Twice adds no second row.

    A task that was asked to run again, as other code made its row, gets no other row of such code: it runs.
    """
    pairs = list(_to_copy(queue, store, code))
    try:
        rows = store.find({done.key: done for done, _ in pairs}.values())
    except ResultsUnwritable as error:
        log.warning("%s", error)  # the next scan tries again
        return
    unwritable, copied = set[str](), set[str]()
    for done, duplicate in pairs:
        row = rows.get(done.key)
        if row is None or duplicate.output_dir in unwritable or duplicate.key in copied:
            continue  # it has vanished, and the scan has said so; or the next scan tries again
        try:
            copy = copied_row(done.task, duplicate.task, row, store.rule(duplicate))
            store.append([(duplicate.task, copy)])
        except ResultsUnwritable as error:
            log.warning("%s", error)
            unwritable.add(duplicate.output_dir)
            continue
        copied.add(duplicate.key)
        log.info("Task %s completed by a copy of %s", duplicate.task_id, done.task_id)


def _to_copy(queue: TaskQueue, store: ResultsStore, code: CodeIdentity) -> Iterator[tuple[Planned, Planned]]:
    """Yield pairs of a complete task and a duplicate; let those run that no row may be copied to."""
    pairs = queue.queries.duplicate_copies()
    now = code.now() if any(store.is_superseded(duplicate.key) for _, duplicate in pairs) else ""
    for done, duplicate in pairs:
        if store.is_superseded(duplicate.key) and store.code_of(done) != now:
            queue.run_beside(duplicate.key, done.key)
        else:
            yield done, duplicate
