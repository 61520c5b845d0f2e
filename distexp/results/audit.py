"""All rows of all results files: which tasks each completes, or why it counts for none.

Reads alone: no lock, no file of its own.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from distexp.results.matching import TaskIndex, first_places
from distexp.results.problems import Problem
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.results.store import folders_with_results
from distexp.sweep.grid import GridPoint


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

    def places(self) -> dict[str, int]:
        """Return where each column stands in the fields of a row."""
        return first_places(self.columns)


def audit(root: Path, tasks: Sequence[GridPoint]) -> list[FileAudit]:
    """Return what each results file holds: those of the tasks' own folders first, then all others.

    A task's first row counts, whichever file it stands in.
    """
    index = TaskIndex(tasks)
    own = dict.fromkeys(task.output_dir for task in tasks)
    others = [folder for folder in folders_with_results(root) if folder not in own]
    seen: dict[str, Row] = {}
    found = []
    for folder in (*own, *others):
        if (root / folder / RESULTS_FILE).exists():
            found.append(_audit_file(root, folder, index, seen))
            found[-1].is_own = folder in own
    return found


def _audit_file(root: Path, folder: str, index: TaskIndex, seen: dict[str, Row]) -> FileAudit:
    found = FileAudit(path=(Path(folder) / RESULTS_FILE).as_posix())
    file = ResultsFile(root, folder, index)

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
