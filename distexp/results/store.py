"""All results files of a sweep: finds them, scans them, appends to them.

Rows anywhere count: in the file of each task's `output_dir`, in `results_*/final_results.csv`, and in
`final_results.csv` of the working folder. Our own rows go to the task's own file alone.

Order of locks: a file's lock, then whatever `on_scan` takes (the queue's); never the other way round.
"""

import glob
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from distexp.errors import ResultsUnwritable
from distexp.results.matching import TaskIndex
from distexp.results.reader import OnRead
from distexp.results.results_file import RESULTS_FILE, ResultsFile, Scan
from distexp.results.row import RUNGS_FILE
from distexp.results.rungs import RungRecord, read_rungs
from distexp.sweep.config import Phase
from distexp.sweep.expand import output_folders
from distexp.sweep.grid import Grid, GridPoint, Planned
from distexp.sweep.templates import parse
from distexp.task import Bookmark, RowRule, Task

LOCK_TIMEOUT_S = 3.0  # a worker waits 10 s for its reply, maybe behind another's row
PREFIX = "results_"  # of the folders whose results are read, whether or not a task writes there


def folders_with_results(root: Path) -> list[str]:
    """Return `.` and every `results_*` folder that holds a results file, as `output_dir` calls them.

    One that is closed to this user is among them: who reads it says so.
    """
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
    return [name for name in (".", *sorted(names)) if _may_hold_rows(root / name / RESULTS_FILE)]


def _may_hold_rows(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return isinstance(error, PermissionError)


def bytes_in(root: Path, folders: Iterable[str]) -> int:
    """Return how many bytes the results files of these folders hold, as far as they can be reached."""
    size = 0
    for folder in folders:
        with suppress(OSError):
            size += (root / folder / RESULTS_FILE).stat().st_size
    return size


def rungs_of(root: Path, folders: Iterable[str]) -> Iterator[RungRecord]:
    """Yield what the files `rungs.csv` hold: those of tasks that write to these folders last.

    Of each task that is the order in which it came to its rungs: before, it had another `output_dir`.
    """
    own = dict.fromkeys(root / folder / RUNGS_FILE for folder in folders)
    others = [path for path in sorted(root.glob(f"{PREFIX}*/{RUNGS_FILE}")) if path not in own]
    for path in (*others, *own):
        yield from read_rungs(path)


def folders_of(root: Path, phase: Phase, file: str = RESULTS_FILE) -> list[str]:
    """Return the folders that tasks of the phase write to; of an adaptive search those that hold such a file.

    Raises:
        ConfigError: One leaves the working folder.
    """
    if phase.space is None:
        return output_folders(phase)
    pieces = parse(phase.output_dir)
    pattern = "".join(glob.escape(piece) if isinstance(piece, str) else "*" for piece in pieces)
    found = glob.glob(f"{pattern}/{file}", root_dir=root)
    return sorted(Path(name).parent.as_posix() for name in found)


@dataclass
class _OpenFile:
    """One results file.  `file` is used under `lock` alone."""

    folder: str
    file: ResultsFile
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_named: bool = False  # as one that completes tasks, though none writes there
    problem: str = ""  # why the last append, or look for a row, failed


class ResultsStore:
    """The results files under one working folder.  Safe from any thread."""

    def __init__(self, root: Path, on_scan: Callable[[Scan], None], on_read: OnRead | None = None) -> None:
        """Hand what each look at a file has found to `on_scan`, under that file's lock.

        `on_read` gets the number of bytes, whenever some more of a file have been read.
        """
        self.root = root
        self._on_scan, self._on_read = on_scan, on_read
        self._lock = threading.Lock()
        self._index = TaskIndex()
        self._files: dict[str, _OpenFile] = {}  # by folder
        self._in_trouble: dict[str, _OpenFile] = {}  # those of them that may not be read or written

    def sync(self, tasks: Sequence[Planned], growing: Iterable[Grid] = ()) -> None:
        """Make `tasks` those whose rows are looked for: the next look reads all files again.

        Where no task is new, there may be another rule for which rows count. Of the `growing` grids more are
        to come.
        """
        own = dict.fromkeys(task.output_dir for task in tasks)
        self._index.sync(tasks, growing)
        for folder in own:
            self._file(folder)
        self.reset()

    def size(self) -> int:
        """Return how many bytes there are to read in all files."""
        with self._lock:
            folders = {*folders_with_results(self.root), *self._files}
        return bytes_in(self.root, folders)

    def grow(self, tasks: Sequence[GridPoint]) -> None:
        """Take up more tasks of a phase that grows; rows that were read before are not looked at again."""
        self._index.grow(tasks)

    def strays(self) -> int:
        """Return how many rows were ever met that are of no task now known, and that a search may take up."""
        count = 0
        for opened in self._opened():
            with opened.lock:  # a look that began before goes by the tasks of then
                count += opened.file.strays
        return count

    def reset(self) -> None:
        """Let the next look read all files again."""
        for opened in self._opened():
            with opened.lock:
                opened.file.reset()

    def scan_all(self) -> None:
        """Look at what every file has got since the last look, new files among them."""
        for folder in folders_with_results(self.root):
            self._file(folder)
        for opened in self._opened():
            with opened.lock:
                scan = opened.file.scan()
                self._tell(opened, scan)
                self._name(opened, scan)

    def scan(self, task: Task) -> None:
        """Look at what this task's own file has got since the last look.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now, so the task may have its row.
        """
        opened = self._file(task.output_dir)
        with opened.lock:
            if task.key not in self._index:  # it left the configs while it ran: its row is kept all the same
                self._index.add(task)
                opened.file.reset()
            try:
                scan = opened.file.look()
            except ResultsUnwritable as error:
                opened.problem = str(error)
                self._in_trouble[opened.folder] = opened
                raise
            self._tell(opened, scan)

    def append(self, rows: Sequence[tuple[Task, Mapping[str, str]]]) -> None:
        """Return once each task has a row on disk: this one, or the one that it had already.

        The rows, if there are any, belong into one file; they cost one lock, one write and one fsync.

        Raises:
            ResultsUnwritable: None was written; try again later.
        """
        if not rows:
            return
        opened = self._file(rows[0][0].output_dir)
        with opened.lock:
            if opened.problem and not opened.file.is_writable():
                self._in_trouble[opened.folder] = opened
                raise ResultsUnwritable(opened.problem)  # at once: each worker waits for its reply
            try:
                scan = opened.file.append(rows).scan
            except ResultsUnwritable as error:
                opened.problem = str(error)
                self._in_trouble[opened.folder] = opened
                raise
            opened.problem = ""
            self._tell(opened, scan)

    def _tell(self, opened: _OpenFile, scan: Scan) -> None:
        """Hand on what a look found; a row is gone only if no other file holds one of its task."""
        if opened.file.unusable:
            self._in_trouble[opened.folder] = opened
        if scan.vanished:
            others = [each.file for each in self._opened() if each is not opened]
            gone = [key for key in scan.vanished if not any(file.has_row(key) for file in others)]
            scan = structs.replace(scan, vanished=frozenset(gone))
        self._on_scan(scan)

    def _name(self, opened: _OpenFile, scan: Scan) -> None:
        """Say once of a file that is no task's own that its rows count."""
        if scan.complete and not opened.is_named and not self._index.writers(opened.folder):
            opened.is_named = True
            new: Set[str] = scan.complete
            for other in self._opened():
                if other is not opened:
                    new = new - other.file.with_row(new)
            many = "1 task" if len(new) == 1 else f"{len(new)} tasks"
            note = f"{opened.file.path} completes {many}, though no task writes there"
            if held := len(scan.complete) - len(new):
                note += f"; another file holds a row of {held} of its tasks"
            self._on_scan(Scan(notes=(note,)))

    def bookmark(self, task: Task) -> Bookmark | None:
        """Return how far this task's file has been read; None where this task's row was not looked for.

        If there was a row up to here, `on_scan` has been told of it.
        """
        opened = self._file(task.output_dir)
        with opened.lock:
            is_known = task.key in self._index and not opened.file.has_row(task.key)
            return opened.file.bookmark if is_known else None

    def rule(self, task: Planned) -> RowRule | None:
        """Return what another process needs to decide on the rows of this task as this store does."""
        return self._index.rule(task)

    def problems(self) -> dict[str, str]:
        """Return, by folder that tasks write to, why nothing can be written to its file now."""
        found = {}
        for folder, opened in sorted(self._in_trouble.items()):
            if opened.problem and opened.file.is_writable():
                opened.problem = ""
            if opened.file.unusable and self._index.writers(folder):
                found[folder] = f"{opened.file.path} {opened.file.unusable}"
            elif opened.problem:
                found[folder] = opened.problem
            elif not opened.file.unusable:
                self._in_trouble.pop(folder, None)
        return found

    def is_unusable(self, folder: str) -> bool:
        """Return whether the folder's file is no CSV that can be read, as scans have said."""
        return bool(self._file(folder).file.unusable)

    def find(self, tasks: Iterable[Planned]) -> dict[str, dict[str, str]]:
        """Return by key the rows of those tasks that have one, cells by column; own files first.

        It reads whole files, and nobody waits for that.

        Raises:
            ResultsUnwritable: A file is there and cannot be read now.
        """
        by_folder: dict[str, set[str]] = {}
        for task in tasks:
            by_folder.setdefault(task.output_dir, set()).add(task.key)
        found: dict[str, dict[str, str]] = {}
        for folder, keys in by_folder.items():
            found |= self._file(folder).file.find(keys)
        wanted = set().union(*by_folder.values()) - found.keys()
        for file in [opened.file for opened in self._opened()]:
            if held := {key for key in wanted if file.has_row(key)}:
                found |= file.find(held)
                wanted.difference_update(found)
        return found

    def without_row(self, tasks: Iterable[Planned]) -> list[str]:
        """Return the keys of those tasks that have no row in what the files hold now.

        Raises:
            ResultsUnwritable: One that may hold such a row is there and cannot be read now.
        """
        keys = [task.key for task in tasks]
        for folder in folders_with_results(self.root):
            self._file(folder)
        for opened in self._opened():
            with opened.lock:
                try:
                    scan = opened.file.read_again()
                except ResultsUnwritable:
                    if self._index.writers(opened.folder) or opened.file.with_row({*keys}):
                        raise
                    continue  # another user's, say, of which no row ever counted
                self._tell(opened, scan)
        return [key for key in keys if self.where(key) is None]

    def code_of(self, task: Planned) -> str:
        """Return with which code the row of a task was made; empty where that is not known."""
        files = [self._file(task.output_dir), *self._opened()]
        return next((code for opened in files if (code := opened.file.code_of(task.key))), "")

    def codes(self) -> dict[str, str]:
        """Return with which code the rows were made, by key of their tasks, as far as that is known."""
        found: dict[str, str] = {}
        for opened in reversed(self._opened()):  # that of a task's own comes first, and wins
            with opened.lock:
                found |= opened.file.codes()
        return found

    def is_in_own_file(self, task: Planned) -> bool:
        """Return whether the file that a task writes to was seen to hold its row."""
        return self._file(task.output_dir).file.has_row(task.key)

    def supersede(self, task: Planned, code: str) -> None:
        """Let the row that a task has in its own file, made with this code, count no more.

        The next row of the task replaces it.
        """
        opened = self._file(task.output_dir)
        with opened.lock:
            self._index.superseded[task.key] = code
            opened.file.supersede(task.key)

    def recall_superseded(self, codes: Mapping[str, str]) -> None:
        """Let rows with these codes, by key of their tasks, count no more.  Before the first look."""
        self._index.superseded.update(codes)

    def is_superseded(self, key: str) -> bool:
        """Return whether the next row of a task is to replace one that it has."""
        return key in self._index.superseded

    def path(self, task: Task) -> Path:
        """Return the file in which this task's row belongs."""
        return self.root / task.output_dir / RESULTS_FILE

    def where(self, key: str) -> Path | None:
        """Return the file that was seen to hold this task's row."""
        return next((opened.file.path for opened in self._opened() if opened.file.has_row(key)), None)

    def _opened(self) -> list[_OpenFile]:
        with self._lock:
            return list(self._files.values())

    def _file(self, folder: str) -> _OpenFile:
        with self._lock:
            if folder not in self._files:
                file = ResultsFile(
                    *(self.root, folder, self._index), lock_timeout_s=LOCK_TIMEOUT_S, on_read=self._on_read
                )
                self._files[folder] = _OpenFile(folder, file)
            return self._files[folder]
