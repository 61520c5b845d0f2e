"""Tells once per phase, while it runs, that its rows hold no metrics, and of a command why that may be."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from distexp.errors import ResultsUnwritable
from distexp.experiments.command_reports import json_object
from distexp.results.conversion import NO_JSON, NO_METRICS
from distexp.results.row import OUR_COLUMNS, is_index
from distexp.results.store import ResultsStore
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

    def __init__(self, store: ResultsStore) -> None:
        """Look into the files of the store."""
        self._store = store
        self._noted: dict[str, Task] = {}  # by phase
        self._looked_at: set[str] = set()

    def note(self, task: Task) -> None:
        """Take a task that has its row by now; only the first of a phase counts."""
        self._noted.setdefault(task.phase, task)

    def look(self) -> None:
        """Say which of them have no metrics, each once."""
        tasks = [self._noted[phase] for phase in self._noted.keys() - self._looked_at]
        with suppress(ResultsUnwritable):  # that is said elsewhere; look again
            rows = self._store.find(tasks)
            self._looked_at.update(task.phase for task in tasks)
            for task in tasks:
                self._tell(task, rows.get(task.key, {}))

    def _tell(self, task: Task, row: Mapping[str, str]) -> None:
        known = {*OUR_COLUMNS, *task.config, *filter(is_index, row)}
        folder = self._store.root / run_folder(task.output_dir, task.phase, task.seed, task.key)
        is_bare = row and not any(cell for name, cell in row.items() if name not in known)
        if is_bare and not has_result_file(folder):
            why = why_without_metrics(task.command, task.experiment, folder / LOG_FILE)
            log.warning("Task %s has no metrics in its row: %s", task.task_id, why)


def has_result_file(folder: Path) -> bool:
    """Return whether a run folder holds a result that its row does not; a task may write its own there."""
    told = last_lines(folder / LOG_FILE, 1) if os.path.isfile(folder / RESULT_FILE) else [NO_METRICS]
    return not any(note in line for line in told for note in (NO_METRICS, NO_JSON))


def why_without_metrics(command: str | None, experiment: str, log_path: Path) -> str:
    """Return why the row of such a task has no metrics, and what to do."""
    if not command:
        return f"{experiment} returned none; return a mapping, such as {{'accuracy': 0.9}}"
    like_one = why_no_result(last_lines(log_path, LOOKED_AT))
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
        if found and json_object(line):
            return f"`{quoted}` is on standard error"
        if found and json_object(found[0]):
            return f"`{quoted}` has other words before it"
        if found:
            return f"`{quoted}` is how Python shows a dict: json.dumps makes JSON of it"
    return ""
