"""What tasks have reached at their rungs, and who was stopped there, once and for good: `rungs.csv`."""

import logging
import math
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import structs

from distexp.errors import ResultsUnwritable
from distexp.queue.task_queue import TaskQueue
from distexp.results.csv_format import Dialect, line_of
from distexp.results.results_file import append_durably, lacks_line_end
from distexp.results.row import RUNGS_FILE
from distexp.results.rungs import RUNG_COLUMNS, RungRecord, last_word, wants_more
from distexp.results.store import rungs_of
from distexp.search.halving import judge
from distexp.sweep.grid import GridPoint, Planned
from distexp.system.group_commit import Batch, GroupCommit
from distexp.task import Halving, Number, State, Task, canonical
from distexp.text import cell_text, count_text, utc_text

log = logging.getLogger("distexp.manager")


def halving_of(task: Planned) -> Halving | None:
    """Return where the task is compared; None where it is not."""
    return task.grid.halving if isinstance(task, GridPoint) else None


class _Table:
    """The records of one phase.  Caller holds the lock."""

    def __init__(self, halving: Halving) -> None:
        self._halving = halving
        self._of_key: dict[str, list[RungRecord]] = {}  # in the order of the file
        self._values: dict[tuple[str, int], dict[str, dict[str, float | None]]] = {}
        self._of_nobody: dict[str, list[RungRecord]] = {}  # whose task a search may choose again

    def keep(self, record: RungRecord) -> None:
        """Keep a record of a task that there is not, until that joins."""
        self._of_nobody.setdefault(record.key, []).append(record)

    def join(self, planned: Planned) -> None:
        """Take up what was kept of a task that may have joined."""
        if planned.key in self._of_nobody:
            task = planned.task
            for record in self._of_nobody.pop(planned.key):
                self.add(task, record)

    def add(self, task: Task, record: RungRecord) -> None:
        """Take a record up; the first value of a task at a rung stays."""
        self._of_key.setdefault(record.key, []).append(record)
        if record.verdict != "again" and record.is_of_metric(self._halving.metric):
            group, configuration = self._place(task)
            values = self._values.setdefault((group, record.rung), {}).setdefault(configuration, {})
            values.setdefault(record.key, record.value)

    def remove(self, task: Task, record: RungRecord) -> None:
        """Forget a record that could not be written."""
        self._of_key[record.key].remove(record)
        if record.verdict != "again":
            group, configuration = self._place(task)
            seeds = self._values[group, record.rung][configuration]
            del seeds[record.key]
            if not seeds:
                del self._values[group, record.rung][configuration]

    def records(self, key: str) -> Sequence[RungRecord]:
        """Return what is known of a task, the oldest first."""
        return self._of_key.get(key, ())

    def has_any(self) -> bool:
        """Return whether any task has come to a rung."""
        return bool(self._values)

    def judged(
        self, task: Task, rung: int, step: Number, value: float | None, *, is_last: bool
    ) -> RungRecord:
        """Return the record of a task that reaches a rung now."""
        value = value if value is not None and math.isfinite(value) else None
        group, configuration = self._place(task)
        values: dict[str, Mapping[str, float | None]] = {**self._values.get((group, rung), {})}
        values[configuration] = {**values.get(configuration, {}), task.key: value}
        verdict = judge(
            configuration, {name: seeds.values() for name, seeds in values.items()}, self._halving
        )
        return RungRecord(
            phase=task.phase,
            task_id=task.task_id,
            key=task.key,
            seed=task.seed,
            rung=rung,
            step=step,
            value=value,
            verdict="stop" if verdict.stops and not is_last else "go",
            rank=verdict.rank,
            of=verdict.of,
            kept=verdict.kept,
            max_iter=self._halving.max_iter,
            at_utc=_now_utc(),
            metric=self._halving.metric,
        )

    def _place(self, task: Task) -> tuple[str, str]:
        """Return with which tasks this one is compared, and which of them differ in the seed alone."""
        own = {name: value for name, value in task.config.items() if name not in task.tags}
        values = {"seed": task.seed, **own}
        return canonical([values.get(name) for name in self._halving.for_each]), canonical(own)


class Rungs:
    """The rungs of all phases that stop tasks early.  Safe from any thread."""

    def __init__(self, root: Path, queue: TaskQueue) -> None:
        """Read and write `rungs.csv` in the folders of the queue's tasks, below `root`, when needed."""
        self._root, self._queue = root, queue
        self._lock = threading.Lock()
        self._tables: dict[str, _Table] = {}  # by phase
        self._commits: dict[str, GroupCommit[RungRecord]] = {}  # by folder: one may be full, or read-only
        self._silent: set[str] = set()  # phases of which it was said that nobody reports

    def forget(self) -> None:
        """Read everything again when it is needed next: the configs have changed."""
        with self._lock:
            for commits in self._commits.values():
                with suppress(ResultsUnwritable):  # who asked for a verdict hears it
                    commits.wait()  # what was decided is in the files
            self._tables.clear()

    def decide(
        self, planned: Planned, step: Number, value: float | None, *, is_last: bool
    ) -> Literal["go", "stop"]:
        """Return `go` or `stop` for a task that has reported this; on disk when it returns.

        Args:
            planned: The task.
            step: Of the report.
            value: Of the metric; None: it was no number.
            is_last: The task ends here anyway: it is compared, but not stopped.

        Raises:
            ResultsUnwritable: It could not be written, and is forgotten.
        """
        halving = halving_of(planned)
        rung = halving.rung_at(step) if halving else None
        if halving is None or rung is None:
            return "go"
        task = planned.task
        is_last = is_last or (halving.max_iter is not None and step >= halving.max_iter)
        with self._lock:
            table = self._table(planned, halving)
            known = [each for each in table.records(task.key) if each.is_of_metric(halving.metric)]
            last = last_word(known)
            if last is not None and last.verdict == "stop" and rung >= last.rung and not is_last:
                return "stop"  # for its next attempt, too
            if any(each.rung == rung for each in known):
                return "go"
            record = table.judged(task, rung, step, value, is_last=is_last)
            batch = self._add(table, task, record)
        self._commit(batch, table, task, record)
        if record.verdict == "stop":
            log.info("Task %s stops early, by %s %s", record.task_id, halving.metric, record.why)
        return "stop" if record.verdict == "stop" else "go"

    def note_end(self, planned: Planned) -> None:
        """Say once of a phase when a task has come to its end and none has ever come to a rung."""
        halving = halving_of(planned)
        if halving is None or planned.phase in self._silent:
            return
        with self._lock:
            if self._table(planned, halving).has_any():
                return
        self._silent.add(planned.phase)
        log.warning(
            "Nothing stops early in phase %s: task %s has ended and reported no `%s` at step %d or later",
            *(planned.phase, planned.task_id, halving.metric, halving.min_iter),
        )

    def ask_again(self, planned: Planned, stopped_at: Number | None = None) -> None:
        """Let a stopped task pass the rung at which it was stopped.

        Args:
            planned: The task.
            stopped_at: The step of that rung by its row, for one whose records are gone.

        Raises:
            ResultsUnwritable: That could not be written.
        """
        halving = halving_of(planned)
        if halving is None:
            return
        task = planned.task
        with self._lock:
            table = self._table(planned, halving)
            last = last_word(table.records(task.key)) or _stop_of(task, halving, stopped_at)
            if last is None or last.verdict == "again":
                return
            about = {"max_iter": halving.max_iter, "at_utc": _now_utc(), "metric": halving.metric}
            record = structs.replace(last, verdict="again", **about)
            batch = self._add(table, task, record)
        self._commit(batch, table, task, record)

    def wants_more(self, planned: Planned) -> bool:
        """Return whether a stopped task was asked for again, or is asked for to a larger `max_iter`."""
        halving = halving_of(planned)
        if halving is None:
            return False
        with self._lock:
            return wants_more(self._table(planned, halving).records(planned.key), halving)

    def continue_pruned(self) -> None:
        """Let pruned tasks run again of which more is wanted, and say how many stay pruned."""
        if not self._queue.counts()[State.PRUNED]:
            return
        wanted = [each for each in self._queue.entries(State.PRUNED) if self.wants_more(each.planned)]
        try:
            for entry in wanted:
                self.ask_again(entry.planned)
                self._queue.requeue(entry.key)
        except ResultsUnwritable as error:
            log.warning("%s; pruned tasks stay so", error)
        if wanted:
            log.info("%s pruned earlier run on: more is wanted of them", count_text(len(wanted), "task"))
        if left := self._queue.counts()[State.PRUNED]:
            log.info("%s pruned earlier stay so; `requeue` runs them again", count_text(left, "task"))

    def history(self, planned: Planned) -> Sequence[RungRecord]:
        """Return what is known of a task, the oldest first."""
        halving = halving_of(planned)
        if halving is None:
            return ()
        with self._lock:
            return [*self._table(planned, halving).records(planned.key)]

    def last_stop(self, planned: Planned) -> RungRecord | None:
        """Return where the task was last stopped; None where it was not."""
        stops = [each for each in self.history(planned) if each.verdict == "stop"]
        return stops[-1] if stops else None

    # -- the files -----------------------------------------------------------------------------------------

    def _add(self, table: _Table, task: Task, record: RungRecord) -> Batch[RungRecord]:
        """Take a record up, to be written.  Caller holds the lock."""
        table.add(task, record)
        folder = task.output_dir
        if folder not in self._commits:
            self._commits[folder] = GroupCommit(partial(self._write, self._root / folder / RUNGS_FILE))
        return self._commits[folder].add(record)

    def _commit(self, batch: Batch[RungRecord], table: _Table, task: Task, record: RungRecord) -> None:
        try:
            self._commits[task.output_dir].wait(batch)
        except ResultsUnwritable:
            with self._lock:
                table.remove(task, record)
            raise

    @staticmethod
    def _write(path: Path, records: Sequence[RungRecord]) -> None:
        if not records:
            return
        lines = [line_of(map(_cell, structs.astuple(record)), Dialect()) for record in records]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.exists(path) or not path.stat().st_size:  # a full disk may have left it empty
                lines.insert(0, line_of(RUNG_COLUMNS, Dialect()))
            elif lacks_line_end(path, Dialect()):
                lines.insert(0, b"\n")
            append_durably(path, b"".join(lines))
        except OSError as error:
            raise ResultsUnwritable(f"{path}: cannot be written now ({error.strerror})") from error

    def _table(self, planned: Planned, halving: Halving) -> _Table:
        """Return the table of a task's phase, this one in it.  Caller holds the lock."""
        table = self._tables.get(planned.phase) or self._read(planned.phase, halving)
        table.join(planned)
        return table

    def _read(self, phase: str, halving: Halving) -> _Table:
        table = self._tables[phase] = _Table(halving)
        entries, _ = self._queue.queries.page(lambda entry: entry.planned.phase == phase, 0, sys.maxsize)
        tasks = {entry.key: entry.planned for entry in entries}
        for record in rungs_of(self._root, [each.output_dir for each in tasks.values()]):
            if record.key in tasks:
                table.add(tasks[record.key].task, record)
            elif record.phase == phase:
                table.keep(record)
        return table


def _stop_of(task: Task, halving: Halving, step: Number | None) -> RungRecord | None:
    """Return the record of a stop of which only the step is known; None where that is at no rung."""
    rung = None if step is None else halving.rung_at(step)
    if step is None or rung is None:
        return None
    return RungRecord(
        phase=task.phase,
        task_id=task.task_id,
        key=task.key,
        seed=task.seed,
        rung=rung,
        step=step,
        verdict="stop",
    )


def _cell(value: object) -> str:
    return "" if value is None else cell_text(value)


def _now_utc() -> str:
    return utc_text(datetime.now(UTC))
