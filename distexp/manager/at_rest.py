"""Answers about a sweep whose manager does not run: from configs, rows, journal and run folders.

Reads alone. The answers are those of a manager that had just started, but for what only it can know.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from distexp.errors import ResultsUnwritable
from distexp.manager.admin import Admin
from distexp.manager.rungs import halving_of
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Entry
from distexp.queue.records import TaskRecord
from distexp.queue.task_queue import TaskQueue
from distexp.results.results_file import READING, Scan
from distexp.results.row import STOPPED_AT
from distexp.results.stops import tells_of_stop
from distexp.results.store import ResultsStore, folders_with_results
from distexp.run_folder import LOG_FILE
from distexp.search.history import KnownTasks
from distexp.sweep.grid import Planned
from distexp.system.long_work import LongWork
from distexp.system.process import host_name
from distexp.task import State
from distexp.text import last_line
from distexp.wire.messages import AnyReply, AnyRequest, Logs, Show
from distexp.workdir import Workdir


class SweepAtRest:
    """What the files of a folder say.  For one thread."""

    def __init__(
        self, workdir: Workdir, known: KnownTasks, records: Sequence[TaskRecord], work: LongWork
    ) -> None:
        """Read no row yet.

        Args:
            workdir: Its results files are read.
            known: The tasks of its configs.
            records: Of its journal.
            work: Is told how much has been read.
        """
        self._records, self._work, self._has_scanned = records, work, False
        self._queue = TaskQueue(time.monotonic, lambda record: None)
        self._store = _StoreAtRest(workdir.root, self._take, work.advance)
        self._queue.sync(known.tasks, known.to_come)
        self._store.sync(known.tasks, known.to_come)
        self._store.recall_superseded({each.key: each.superseded for each in records if each.superseded})
        registry = WorkerRegistry(
            host=host_name(), machine="", nonce="", task_lock=workdir.task_lock, clock=time.monotonic
        )
        sweep = SweepState(workdir, self._queue, self._store, registry)
        self._workdir, self._forecaster = workdir, sweep.forecaster
        self._admin = Admin(sweep, is_served=False)

    def _take(self, scan: Scan) -> None:
        self._queue.complete_unassigned(scan.complete)
        for key in scan.pruned:
            self._queue.complete(key, State.PRUNED)

    def handle(self, request: AnyRequest) -> AnyReply:
        """Return the reply.

        Raises:
            UnknownTask: No config asks for the task.
            ProtocolError: The request does not only look, or asks for values that no task can have.
            ResultsUnwritable: The results file of the task cannot be read now.
        """
        self._work.begin(READING, 0 if self._has_scanned else self._store.size())
        if isinstance(request, Show | Logs) and not self._has_scanned:
            self._look_for(self._queue.key_of(request.task))
        elif not self._has_scanned:
            self._store.scan_all()
            self._queue.restore(self._records)
            self._recall_failures()
            self._has_scanned = True
        return self._admin.handle(request)

    def _recall_failures(self) -> None:
        """Say how tasks without a row have failed, and which phases were held for it."""
        known = (self._queue.entry(each.key) for each in self._records if self._queue.knows(each.key))
        failed = [each for each in known if each.error and each.state in (State.PENDING, State.FAILED)]
        by_phase: dict[str, list[Entry]] = {}
        for at_s, entry in sorted(
            ((self._log_written_s(each), each) for each in failed), key=lambda each: each[0]
        ):
            task = entry.task
            by_phase.setdefault(task.phase, []).append(entry)
            why = f"{entry.cause}: {last_line(entry.error)}"
            self._forecaster.recall(task, entry.last_worker, why, entry.state, at_s or None)
        for phase, entries in by_phase.items():
            self._queue.holds.recall(phase, entries)

    def _log_written_s(self, entry: Entry) -> float:
        """Return when the task's log was last written, in seconds since 1970; 0: there is none here."""
        task = entry.task
        folder = self._workdir.run_folder(task.output_dir, task.phase, task.seed, task.key)
        try:
            return (folder / LOG_FILE).stat().st_mtime
        except OSError:
            return 0.0

    def _look_for(self, key: str) -> None:
        """Learn how one task stands: each file is read once, and no state of another task."""
        planned = self._queue.entry(key).planned
        if self._store.look_for(planned):
            row = self._store.find([planned])[key]
            is_pruned = halving_of(planned) is not None and tells_of_stop(row.get(STOPPED_AT, ""))
            self._queue.complete(key, State.PRUNED if is_pruned else State.COMPLETE)
        self._queue.restore([record for record in self._records if record.key == key])


class _StoreAtRest(ResultsStore):
    """The results files of a sweep, of which a question about one task reads each once."""

    _found: tuple[str, Path, dict[str, str]] | None = None  # key, file and row of the task asked about last

    def look_for(self, task: Planned) -> bool:
        """Return whether a file holds a row of this task: its own, or else any."""
        if self._found is not None and self._found[0] == task.key:
            return True
        for folder in dict.fromkeys([task.output_dir, *folders_with_results(self.root), *self._files]):
            file = self._file(folder).file
            try:
                row = file.find({task.key}).get(task.key)
            except ResultsUnwritable:
                if folder == task.output_dir:
                    raise
                continue  # another user's, say
            if row:
                self._found = task.key, file.path, row
                return True
        return False

    def find(self, tasks: Iterable[Planned]) -> dict[str, dict[str, str]]:
        """Return the row that `look_for` has found; of other tasks as `ResultsStore` does."""
        wanted = [*tasks]
        if self._found is not None and [task.key for task in wanted] == [self._found[0]]:
            return {self._found[0]: self._found[2]}
        return super().find(wanted)

    def where(self, key: str) -> Path | None:
        """Return the file that holds this task's row, as far as it was looked for."""
        if self._found is not None and self._found[0] == key:
            return self._found[1]
        return super().where(key)
