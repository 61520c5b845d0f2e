"""Tells once per phase, while it runs, that its rows hold no metrics, and of a command why that may be."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from distexp.experiments.command_reports import json_objects
from distexp.results.conversion import NO_JSON, NO_METRICS
from distexp.run_folder import HEADER, LOG_FILE, RESULT_FILE, run_folder
from distexp.task import Task
from distexp.task_log import last_lines
from distexp.text import cut, one_line

MAX_LINE_CHARS = 80  # of an output, quoted
LOOKED_AT = 100  # last lines of a log, for one that was meant as a result
_LIKE_AN_OBJECT = re.compile(r"""\{['"].*\}$""")

log = logging.getLogger("distexp.manager")


class FirstRows:
    """The first row of each phase that was made since the manager began.  `note` is safe from any thread."""

    def __init__(self, root: Path) -> None:
        """Look into run folders below `root`."""
        self._root = root
        self._noted: dict[str, tuple[Task, bool | None]] = {}  # by phase
        self._looked_at: set[str] = set()

    def note(self, task: Task, has_metrics: bool | None) -> None:
        """Take a task that has its row by now; None: its log says whether that has metrics."""
        self._noted.setdefault(task.phase, (task, has_metrics))

    def look(self) -> None:
        """Say which of them have no metrics, each once."""
        for phase in self._noted.keys() - self._looked_at:
            self._looked_at.add(phase)
            task, has_metrics = self._noted[phase]
            log_path = self._root / run_folder(task.output_dir, phase, task.seed, task.key) / LOG_FILE
            if has_metrics is None:
                has_metrics = not _says_none(last_lines(log_path, 1))
            if not has_metrics:
                why = why_without_metrics(task.command, task.experiment, log_path)
                log.warning("Task %s has no metrics in its row: %s", task.task_id, why)


def has_result_file(folder: Path) -> bool:
    """Return whether a run folder holds a result that its row does not; a task may write its own there."""
    return os.path.isfile(folder / RESULT_FILE) and not _says_none(last_lines(folder / LOG_FILE, 1))


def _says_none(lines: Sequence[str]) -> bool:
    """Return whether the worker has noted below an output that it holds no metrics."""
    return any(note in line for line in lines for note in (NO_METRICS, NO_JSON))


def why_without_metrics(command: str | None, experiment: str, log_path: Path) -> str:
    """Return why the row of such a task has no metrics, and what to do."""
    lines = last_lines(log_path, LOOKED_AT)
    begins = [at for at, line in enumerate(lines) if line.startswith(HEADER)]  # attempts
    lines = lines[begins[-1] if begins else 0 :]
    if lines and not _says_none(lines):
        return "all its metrics are null or empty"
    if not command:
        return f"{experiment} returned none; return a mapping, such as {{'accuracy': 0.9}}"
    like_one = why_no_result(lines)
    what = "print one as a line, or write it to $DISTEXP_RESULT (docs/experiments.md has more ways)"
    return f"its command printed no JSON object{f' ({like_one})' * bool(like_one)}; {what}"


def why_no_result(lines: Sequence[str]) -> str:
    """Return why the last lines of an output hold no result, though one looks like it; empty if none does."""
    said = [line.strip() for line in lines if not line.startswith(HEADER) and NO_JSON not in line]
    said = [line for line in said if line]
    if said and said[-1] == "}":
        return "one over several lines is none: leave `indent` out"
    for line in reversed(said):
        found, quoted = _LIKE_AN_OBJECT.search(line), cut(one_line(line), MAX_LINE_CHARS)
        if found and json_objects(line):
            return f"`{quoted}` is on standard error"
        if found and json_objects(found[0]):
            return f"`{quoted}` has other words before it"
        if found:
            return f"`{quoted}` is how Python shows a dict: json.dumps makes JSON of it"
    return ""
