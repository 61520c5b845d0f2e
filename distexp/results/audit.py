"""Every row of the results files, beside the tasks that it completes, or why it counts for none.

Reads alone: no lock, no file of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from distexp.results.csv_format import Header, parse, read_header, whole_file
from distexp.results.matching import TaskIndex, first_places
from distexp.results.results_file import RESULTS_FILE
from distexp.results.row import Form, cell_forms, value_form
from distexp.sweep.grid import Grid, GridPoint


class Row(msgspec.Struct, frozen=True):
    """A row that counts: the first one of each of its tasks."""

    line: int
    fields: list[str]
    keys: list[str]  # of the tasks that it completes; more than one where the file has no column `phase`


class Problem(msgspec.Struct):
    """Why rows do not count."""

    reason: str
    line: int  # of the first of them
    rows: int = 1


class FileAudit(msgspec.Struct):
    """One results file."""

    path: str  # relative to the working folder
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    problems: list[Problem] = []

    def places(self) -> dict[str, int]:
        """Return where each column stands in the fields of a row."""
        return first_places(self.columns)


def audit(root: Path, tasks: Sequence[GridPoint]) -> list[FileAudit]:
    """Return what the results file of each `output_dir` holds, as far as it exists."""
    by_folder: dict[str, list[GridPoint]] = {}
    for task in tasks:
        by_folder.setdefault(task.output_dir, []).append(task)
    phases = {task.grid.phase for task in tasks}
    found = []
    for folder, own in by_folder.items():
        path = root / folder / RESULTS_FILE
        if path.exists():
            found.append(_audit_file(path, (Path(folder) / RESULTS_FILE).as_posix(), own, phases))
    return found


def _audit_file(path: Path, name: str, tasks: Sequence[GridPoint], phases: set[str]) -> FileAudit:
    found = FileAudit(path=name)
    problems: dict[str, Problem] = {}
    try:
        with open(path, "rb") as file:
            header = read_header(file)
            if header is None:
                return found
            if header.problem:
                found.problems = [Problem(header.problem, 1)]
                return found
            found.columns = header.columns
            lines = _Lines(header, tasks, phases)
            file.seek(0)
            line = file.read(header.end).count(b"\n") + 1
            for raw, fields in whole_file(file, header):
                reason = lines.take(found, line, raw, fields)
                if reason:
                    problem = problems.setdefault(reason, Problem(reason, line, 0))
                    problem.rows += 1
                line += raw.count(b"\n")
    except OSError as error:
        problems[""] = Problem(f"cannot be read now ({error.strerror})", 1, 0)
    found.problems = list(problems.values())
    return found


class _Lines:
    """Judges one line of a file after the other."""

    def __init__(self, header: Header, tasks: Sequence[GridPoint], phases: set[str]) -> None:
        index = TaskIndex(tasks)
        self._match = index.matcher(header.columns).one
        self._missing = index.missing_columns(header.columns)
        self._places = first_places(header.columns)
        self._width = len(header.columns)
        self._known = phases
        self._own = {grid.phase: _values(grid) for grid in dict.fromkeys(task.grid for task in tasks)}
        self._seen: set[str] = set()

    def take(self, found: FileAudit, line: int, raw: bytes, fields: list[str] | None) -> str:
        """Add a row that counts to `found`; return why this one does not, empty for one that does."""
        if fields is None:
            bad = parse(raw.rstrip(b"\r\n") + b"\n", self._width).bad
            return f"found {bad[0][1]}, expected {self._width} fields" if bad else ""
        keys = self._match(fields)
        new = [key for key in keys if key not in self._seen]
        if new:
            self._seen.update(new)
            found.rows.append(Row(line, fields, new))
            return ""
        if keys:
            return "a second row of a task that has one; the first counts"
        return self._why_foreign(fields)

    def _why_foreign(self, fields: list[str]) -> str:
        at = self._places.get("phase")
        phase = fields[at] if at is not None else ""
        if phase and phase not in self._own:
            where = "goes to another folder" if phase in self._known else "no config asks for"
            return f"of phase {phase!r}, which {where}"
        candidates = [phase] if phase else list(self._own)
        if all(name in self._missing for name in candidates):
            return f"no column {', '.join(self._missing[candidates[0]])}, which {candidates[0]} varies"
        name = next(name for name in candidates if name not in self._missing)
        for column, forms in self._own[name].items():
            place = self._places.get(column)
            if place is not None and fields[place] and not forms & {*cell_forms(fields[place])}:
                return f"{column} = {fields[place][:60]!r}, which no task of {name} has"
        return f"a combination of values that no task of {name} has"


def _values(grid: Grid) -> Mapping[str, set[Form]]:
    """Return the values that each column may hold, the axes first."""
    varied = {**grid.axes, "seed": grid.seeds, **{name: (value,) for name, value in grid.defaults.items()}}
    return {name: {value_form(value) for value in values} for name, values in varied.items()}
