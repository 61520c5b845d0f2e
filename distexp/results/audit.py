"""All rows of all results files: which tasks each completes, or why it counts for none.

Reads alone: no lock, no file of its own.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from distexp.results.matching import TaskIndex, first_places
from distexp.results.problems import Problem
from distexp.results.results_file import READING, RESULTS_FILE, ResultsFile
from distexp.results.row import CODE
from distexp.results.store import bytes_in, folders_with_results
from distexp.sweep.grid import Grid, GridPoint
from distexp.system.code import FolderCode, is_code, other_code_text
from distexp.system.long_work import LongWork


class Row(msgspec.Struct, frozen=True):
    """A row that counts: the first one of each of its tasks, those of stopped tasks after all others."""

    fields: list[str]
    keys: list[str]  # of the tasks that it completes; more than one for the same work, or without a `phase`
    is_pruned: bool = False  # it says that its tasks were stopped early


class FileAudit(msgspec.Struct):
    """One results file."""

    path: str  # relative to the working folder
    is_own: bool = True  # whether tasks write their rows to it
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    problems: list[Problem] = []

    def codes(self) -> dict[str, str]:
        """Return with which code the rows were made, by key of their tasks, as far as that is known."""
        at = self.places().get(CODE)
        if at is None:
            return {}
        rows = [  # a parameter may be called so, too; tasks that were stopped early are not run again
            row for row in self.rows if is_code(row.fields[at]) and not row.is_pruned
        ]
        return {key: row.fields[at] for row in rows for key in row.keys}

    def places(self) -> dict[str, int]:
        """Return where each column stands in the fields of a row."""
        return first_places(self.columns)


def told_other_code(root: Path, files: Sequence[FileAudit]) -> str:
    """Return how many finished tasks ran other code than the folder holds now; empty for none."""
    now = FolderCode(root).now().code
    codes = [code for file in files for code in file.codes().values() if code != now]
    return other_code_text(codes, now)


def audit(
    root: Path,
    tasks: Sequence[GridPoint],
    superseded: Mapping[str, str] | None = None,
    work: LongWork | None = None,
    growing: Iterable[Grid] = (),
) -> list[FileAudit]:
    """Return what each results file holds: those of the tasks' own folders first, then all others.

    A task's first row counts, whichever file it stands in, but none with the code that `superseded` names
    for the task. `work` is told how much has been read. Of the `growing` grids more tasks are to come.
    """
    work = work or LongWork()
    index = TaskIndex(tasks, growing)
    index.superseded.update(superseded or {})
    own = dict.fromkeys(task.output_dir for task in tasks)
    others = [folder for folder in folders_with_results(root) if folder not in own]
    seen: dict[str, Row] = {}
    found = []
    work.begin(READING, bytes_in(root, (*own, *others)))
    for folder in (*own, *others):
        if folder not in own or os.path.exists(root / folder / RESULTS_FILE):
            found.append(_audit_file(root, folder, index, seen, work))
            found[-1].is_own = folder in own
    return found


def _audit_file(root: Path, folder: str, index: TaskIndex, seen: dict[str, Row], work: LongWork) -> FileAudit:
    found = FileAudit(path=(Path(folder) / RESULTS_FILE).as_posix())
    file = ResultsFile(root, folder, index, on_read=work.advance)

    def take(row: Sequence[str], keys: tuple[str, ...]) -> str:
        is_pruned = file.is_pruned(row)
        new = [key for key in keys if key not in seen or (seen[key].is_pruned and not is_pruned)]
        if not new:
            return "another file holds a row of its task, and that counts"
        for key in seen.keys() & new:
            seen[key].keys.remove(key)
        found.rows.append(Row(list(row), new, is_pruned))
        seen.update(dict.fromkeys(new, found.rows[-1]))
        return ""

    try:
        found.problems = file.audit(take)
    except OSError as error:
        found.problems = [Problem(f"the file cannot be read now ({error.strerror})", 1, 0)]
    found.columns = file.columns
    if file.unusable:
        found.problems = [Problem(f"the file {file.unusable}", 1, 0)]
        found.rows = []
    return found
