"""All results files of the sweep: scan them, append to them.

Order of locks: a file's lock, then whatever `on_scan` takes (the queue's); never the other way round.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile, Scan
from distexp.sweep.grid import Planned
from distexp.task import Bookmark, Task


@dataclass
class _OpenFile:
    """One results file.  `file` and `index` are used under `lock` alone."""

    file: ResultsFile
    index: TaskIndex
    lock: threading.Lock = field(default_factory=threading.Lock)


class ResultsStore:
    """The results files under one working folder.  Safe from any thread."""

    def __init__(self, root: Path, on_scan: Callable[[Scan], None]) -> None:
        """Hand what each look at a file has found to `on_scan`, under that file's lock."""
        self._root = root
        self._on_scan = on_scan
        self._lock = threading.Lock()
        self._files: dict[str, _OpenFile] = {}

    def sync(self, tasks: Sequence[Planned]) -> None:
        """Make `tasks` those whose rows are looked for; files that new tasks look to are read again."""
        by_folder: dict[str, list[Planned]] = {}
        for task in tasks:
            by_folder.setdefault(task.output_dir, []).append(task)
        for folder in {*by_folder, *self._files}:
            opened = self._file(folder)
            with opened.lock:
                if opened.index.sync(by_folder.get(folder, ())):
                    opened.file.reset()

    def scan_all(self) -> None:
        """Look at what every file has got since the last look."""
        with self._lock:
            files = list(self._files.values())
        for opened in files:
            with opened.lock:
                self._on_scan(opened.file.scan())

    def scan(self, task: Task) -> None:
        """Look at what this task's file has got since the last look."""
        opened = self._file(task.output_dir)
        with opened.lock:
            if task.key not in opened.index:  # it left the configs while it ran: its row is kept all the same
                opened.index.add(task)
                opened.file.reset()
            self._on_scan(opened.file.scan())

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
            self._on_scan(opened.file.append(rows).scan)

    def bookmark(self, task: Task) -> Bookmark | None:
        """Return how far this task's file has been read; None where this task's row was not looked for.

        If there was a row up to here, `on_scan` has been told of it.
        """
        opened = self._file(task.output_dir)
        with opened.lock:
            return opened.file.bookmark if task.key in opened.index else None

    def find(self, output_dir: str, tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
        """Return by key the rows of those tasks of one file that have one, cells by column.

        It reads the whole file, and nobody waits for that.

        Raises:
            ResultsUnwritable: The file is there and cannot be read now.
        """
        return self._file(output_dir).file.find(tasks)

    def without_row(self, tasks: Iterable[Planned]) -> list[str]:
        """Return the keys of those tasks that have no row in what their files hold now.

        Raises:
            ResultsUnwritable: One is there and cannot be read now.
        """
        by_folder: dict[str, list[str]] = {}
        for task in tasks:
            by_folder.setdefault(task.output_dir, []).append(task.key)
        missing = []
        for folder, keys in by_folder.items():
            opened = self._file(folder)
            with opened.lock:
                self._on_scan(opened.file.read_again())
                missing += [key for key in keys if not opened.file.has_row(key)]
        return missing

    def path(self, task: Task) -> Path:
        """Return the file in which this task's row belongs."""
        return self._root / task.output_dir / RESULTS_FILE

    def _file(self, folder: str) -> _OpenFile:
        with self._lock:
            if folder not in self._files:
                index = TaskIndex()
                file = ResultsFile(self._root / folder / RESULTS_FILE, index)
                self._files[folder] = _OpenFile(file, index)
            return self._files[folder]
