"""What rows and run folders say of a task that no config asks for (any more), found by its id or its key."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from distexp.results.csv_format import read_header, whole_file
from distexp.results.matching import first_places
from distexp.results.results_file import RESULTS_FILE
from distexp.results.store import folders_with_results
from distexp.run_folder import HEADER, LOG_FILE, PARAMETERS_FILE, RUNS_FOLDER, key_in, name_start
from distexp.system.files import read_bytes, regular
from distexp.task import Value
from distexp.text import harmless_name, value_of

HEAD_BYTES = 64 * 1024  # of a log, in which its first header stands
KEYS = frozenset("0123456789abcdef")  # digits of a key


class FileRow(msgspec.Struct, frozen=True):
    """One row of a results file."""

    file: str  # relative to the working folder
    line: int  # of the file, counted from 1
    cells: dict[str, str]

    @property
    def where(self) -> str:
        """File and line, as messages name them."""
        return f"{self.file}:{self.line}"


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A task as rows and run folders know it."""

    task_id: str
    phase: str
    seed: int
    config: dict[str, Value]  # without a `params.json` as cells tell it; of a row that is not ours empty
    key: str = ""  # empty where it has no run folder
    run_dir: str = ""  # relative to the working folder; empty where there is none
    row: FileRow | None = None


def find_trace(root: Path, name: str) -> Trace | None:
    """Return what there is of the task with this id or key; the first row that names it counts."""
    row = next((row for row in rows_with(root, name) if _is_of(row, name)), None)
    if row is not None:
        return trace_of(root, row)
    folder = next(_folders_of(root, name), None)
    return _of_folder(root, folder, name) if folder else None


def rows_with(root: Path, text: str, first: Iterable[str] = ()) -> Iterator[FileRow]:
    """Yield the rows of all results files whose line holds this text, those of the folders `first` first."""
    wanted = text.encode()
    for folder in dict.fromkeys([*first, *folders_with_results(root)]):
        try:
            file = open(root / folder / RESULTS_FILE, "rb", opener=regular)  # noqa: SIM115 - closed below
        except OSError:
            continue  # there is none, or none that can be read
        with file:
            header = read_header(file)
            if header is None or header.problem:
                continue
            file.seek(0)
            line = file.read(header.stop).count(header.dialect.end) + 1
            places = first_places(header.columns)
            for raw, fields in whole_file(file, header):
                if fields and wanted in raw:
                    cells = {name: fields[at] for name, at in places.items()}
                    yield FileRow((Path(folder) / RESULTS_FILE).as_posix(), line, cells)
                line += raw.count(header.dialect.end)


def _is_of(row: FileRow, name: str) -> bool:
    run_dir = row.cells.get("run_dir", "")
    return row.cells.get("task_id") == name or (bool(run_dir) and key_in(Path(run_dir)) == name)


def trace_of(root: Path, row: FileRow) -> Trace:
    """Return the task that a row is of, as the row and its run folder say."""
    cells, run_dir = row.cells, row.cells.get("run_dir", "")
    seed = int(cells["seed"]) if cells.get("seed", "").lstrip("-").isdigit() else 0
    config = {name: value_in(cells[name]) for name in _parameters_in([*cells])}
    if run_dir and (kept := _parameters(root / run_dir)):
        seed = kept.pop("seed", seed)
        config = kept
    return Trace(
        task_id=cells.get("task_id", ""),
        phase=cells.get("phase", ""),
        seed=seed,
        config=config,
        key=key_in(Path(run_dir)) if run_dir else "",
        run_dir=run_dir if run_dir and os.path.isdir(root / run_dir) else "",
        row=row,
    )


def _parameters_in(columns: list[str]) -> list[str]:
    """Return the columns between `task_id` and `seed`, where our rows have their parameters."""
    if not {"task_id", "seed"} <= {*columns}:
        return []
    return columns[columns.index("task_id") + 1 : columns.index("seed")]


def value_in(cell: str) -> Value:
    """Return the value that a cell holds, as far as its text tells."""
    return {"True": True, "False": False}.get(cell, value_of(cell))


def _parameters(folder: Path) -> dict[str, Value]:
    try:
        found = json.loads(read_bytes(folder / PARAMETERS_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _folders_of(root: Path, name: str) -> Iterator[Path]:
    """Yield the run folders of the task with this id or key."""
    is_key = not set(name) - KEYS
    phase, _, index_and_seed = name.rpartition("_")
    phase = phase.rpartition("_")[0]
    start = harmless_name(name_start(phase, index_and_seed))
    for depth in ("*", "*/*", ""):
        for runs in root.glob(f"{depth}/{RUNS_FOLDER}" if depth else RUNS_FOLDER):
            for folder in runs.iterdir():
                has_key = is_key and key_in(folder) == name
                may_be = not has_key and bool(phase) and folder.name.startswith(start)
                if has_key or (may_be and _task_id(folder) == name):
                    yield folder


def _task_id(folder: Path) -> str:
    """Return the id of the task that the first header of its log names; empty where there is none."""
    try:
        with open(folder / LOG_FILE, "rb", opener=regular) as file:
            first = file.readline(HEAD_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return first.removeprefix(HEADER).partition(",")[0] if first.startswith(HEADER) else ""


def _of_folder(root: Path, folder: Path, name: str) -> Trace:
    parameters = _parameters(folder)
    head, _, key = folder.name.rpartition("_")
    phase, _, seed = head.rpartition("_")
    return Trace(
        task_id=_task_id(folder) or name,
        phase=phase,
        seed=parameters.pop("seed", int(seed) if seed.lstrip("-").isdigit() else 0),
        config=parameters,
        key=key,
        run_dir=folder.relative_to(root).as_posix(),
    )
