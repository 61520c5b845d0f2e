"""What a run left on the disk and among the processes, as evidence. Looks, and changes nothing."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.chaos.checks import LATE_S, Evidence, Mark, Table, is_row_of, mark_of
from benchmarks.chaos.stage import Stage
from distexp.errors import JournalUnwritable
from distexp.queue.journal import Journal
from distexp.queue.records import TaskRecord
from distexp.results.csv_format import read_header, whole_file
from distexp.results.results_file import RESULTS_FILE
from distexp.results.row import RUNGS_FILE
from distexp.results.rungs import read_rungs
from distexp.system import locks

GONE_S = 10.0  # for children to notice that their worker has gone
LOOK_S = 0.05
SPOOL = ".experiment_spool"


def gather(stage: Stage, tears: int, deleted_s: Sequence[float], overdue: str) -> Evidence:
    """Return everything that the checks look at."""
    tables = tuple(_table(path) for path in sorted(stage.workdir.root.glob(f"results_*/{RESULTS_FILE}")))
    stage.known |= {task.task_id: task for task in stage.wanted()}
    rows = [row for table in tables for row in table.rows]
    unfinished = {task.key for task in stage.wanted() if not any(is_row_of(task, row) for row in rows)}
    delivered = set[str]() if deleted_s else {task.key for task in stage.wanted()} - unfinished
    left_over = [*_processes(stage), *_files(stage, delivered), *_locks(stage), *_leases(stage, unfinished)]
    until_s = time.monotonic() + GONE_S
    for actor in stage.actors:
        if not actor.is_alive:
            actor.reader.join(max(0.0, until_s - time.monotonic()))
    return Evidence(
        wanted=tuple(stage.wanted()),
        known=tuple(stage.known.values()),
        tables=tables,
        lines=tuple(stage.lines),
        marks=tuple(marks_of(stage.diary)),
        left_over=tuple(left_over),
        torn_lines=sum(path.read_bytes().count(b"\n") for path in stage.root.rglob("*.torn")),
        tears=tears,
        deleted_s=tuple(deleted_s),
        ends=tuple((each.name, each.process.poll() or 0, each.is_excused) for each in stage.actors),
        overdue=overdue,
        rungs=tuple(each for path in stage.root.rglob(RUNGS_FILE) for each in read_rungs(path)),
        late_s=LATE_S + 2 * stage.lateness.worst_s,  # who has written the line, and its reader here
    )


def _processes(stage: Stage) -> list[str]:
    until_s = time.monotonic() + GONE_S
    while (found := stage.left_over()) and time.monotonic() < until_s:
        time.sleep(LOOK_S)
    return [f"process {each.pid} is left: {_words_of(each)[:120]}" for each in found]


def _words_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return "(it has just ended)"


def _files(stage: Stage, delivered: set[str]) -> Iterator[str]:
    """Yield half files, and spooled results of tasks that have their row.

    A worker that is killed while it spools leaves a hidden half for good. A result whose task has left the
    configs before the manager was started again is kept, in case they ask for it once more; so is one that
    came after the task had failed by lost workers, and the manager had left; and of an earlier sweep, whose
    folder was deleted.
    """
    killed = {
        stage.folders[actor.placement.far] for actor in stage.actors if actor.placement and actor.is_killed
    }
    for path in sorted(stage.root.rglob("*")):
        is_half = path.name.endswith(".tmp") and not (
            path.parent.name == SPOOL and path.parent.parent in killed
        )
        if is_half or (path.suffix == ".result" and path.name.partition("-")[0] in delivered):
            yield f"file {path.relative_to(stage.root)} is left"


def _locks(stage: Stage) -> Iterator[str]:
    for path in sorted({*stage.root.rglob("*.lock"), stage.workdir.state / "lock"}):
        if locks.is_held(path):
            yield f"lock {path.relative_to(stage.root)} is held"


def _leases(stage: Stage, unfinished: set[str]) -> Iterator[str]:
    try:
        journal = Journal(stage.workdir.journal)
    except JournalUnwritable as error:
        yield f"the journal cannot be read: {error}"
        return
    for record in journal.load(TaskRecord):
        if record.lease is not None and record.key in unfinished:
            yield f"the journal holds a live lease of {record.lease.worker} on {record.key}, which has no row"
    journal.close()


def _table(path: Path) -> Table:
    rows, bad = [], []
    with open(path, "rb") as file:
        header = read_header(file)
        if header is not None:
            for raw, fields in whole_file(file, header):
                if fields is None:
                    bad.append(raw.decode(errors="replace"))
                else:
                    rows.append(dict(zip(header.columns, fields, strict=False)))
    return Table(f"{path.parent.name}/{path.name}", tuple(rows), tuple(bad))


def marks_of(diary: Path) -> Iterator[Mark]:
    """Yield what the attempts have written down so far."""
    if diary.exists():
        for line in diary.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):  # else empty, or cut short by a full disk
                yield mark_of(json.loads(line))
