"""Sees whether the code of a held phase was edited: then it goes on."""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from distexp.queue.task_queue import TaskQueue
from distexp.task import Task

MAX_FILES = 2_000  # looked at, every few seconds while a phase is held

CodeSignature = tuple[tuple[str, int, int], ...]  # name, time of change in ns, size of each file


class HeldCode:
    """The code, and setup, of held phases as it was when they were held.  `note` is safe from any thread."""

    def __init__(self, root: Path, queue: TaskQueue) -> None:
        """Look at the files below `root`."""
        self._root, self._queue = root, queue
        self._known: dict[str, tuple[Task, CodeSignature]] = {}  # by phase: one of its tasks, its code then

    def note(self, phase: str) -> None:
        """Remember the code of a phase that has just been held: an edit may come at once."""
        some, _ = self._queue.queries.page(lambda entry: entry.planned.phase == phase, 0, 1)
        if some:
            task = some[0].task
            self._known[phase] = task, code_signature(self._root, task)

    def was_edited(self) -> bool:
        """Return whether a file of any of these phases is another one by now; then all are forgotten."""
        noted, closed = {*self._known}, self._queue.holds.closed()  # a phase is held, then noted
        for phase in noted - closed:
            del self._known[phase]
        known = list(self._known.values())
        if all(code_signature(self._root, task) == code for task, code in known):
            return False
        self._known.clear()
        return True


def code_signature(root: Path, task: Task) -> CodeSignature:
    """Return time and size of the files of the working folder that a task may run.

    Those are what its command and its setup name, and Python files: in the folder, in `src` and in folders
    that hold some, for what is broken is often not the file that the config names.
    """
    named = [root / word for line in (task.command, task.setup) for word in (line or "").split()]
    found = []
    with suppress(OSError, ValueError):  # a folder goes while it is looked at
        for path in islice((*named, *_python_files(root)), MAX_FILES):
            with suppress(OSError, ValueError):
                status = path.stat()
                found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(sorted(set(found)))


def _python_files(root: Path) -> Iterator[Path]:
    yield from sorted(root.glob("*.py"))
    shown = sorted(each for each in root.iterdir() if not each.name.startswith("."))
    for folder in filter(os.path.isdir, shown):
        if folder.name == "src" or next(folder.glob("*.py"), None):
            yield from folder.rglob("*.py")
