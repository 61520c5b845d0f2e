"""Which task a word names: an id, a key, a run folder, a line of a results file, a row's number."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from distexp.cli.look import name_of
from distexp.cli.records import tasks_in
from distexp.cli.suggest import task_hint
from distexp.cli.traces import FileRow, Trace, find_trace, rows_with, trace_of, value_in
from distexp.errors import ConfigError, UserError
from distexp.queue.lookup import Labels
from distexp.results.matching import TaskIndex
from distexp.results.results_file import READING as READING_RESULTS
from distexp.results.row import PREFIXES
from distexp.results.store import ResultsStore, folders_of
from distexp.run_folder import HEADER, LOG_FILE
from distexp.sweep.config import load_configs
from distexp.sweep.grid import GridPoint
from distexp.sweep.source import READING as READING_CONFIGS
from distexp.system.long_work import LongWork
from distexp.task import Task, Value
from distexp.text import count_text
from distexp.workdir import Workdir

_ROW = re.compile(r"(?P<file>.+\.csv):(?P<line>\d+)")
_RUNS = re.compile(rf"^{HEADER}runs (.+)$", re.MULTILINE)


class Choice(msgspec.Struct, frozen=True):
    """A task, and its row if it has one."""

    task: Task
    row: Mapping[str, str] | None = None
    where: str = ""  # the row's file


class Chooser:
    """Finds tasks of a working folder, also those that no config asks for any more."""

    def __init__(self, root: Path, configs: str, work: LongWork | None = None) -> None:
        """Read the configs; broken ones hide no task that has left a row or a folder.

        `work` is told how much has been read.
        """
        self._work = work or LongWork()
        self._work.begin(READING_CONFIGS)
        self._root, self.problem = root, ""  # what is wrong with the configs
        self._tasks: list[GridPoint] = []
        self._folders: list[str] = []  # of the tasks' own files, in the order of `load_results`
        try:
            phases = load_configs([Path(configs)], root)
            self._tasks = tasks_in(Workdir(root), phases).tasks
            self._folders = [folder for phase in phases for folder in folders_of(root, phase)]
        except ConfigError as error:
            self.problem = str(error)
        self._by_key = {task.key: task for task in self._tasks}

    def choose(self, word: str) -> Choice:
        """Return the task that `word` names.

        Raises:
            UserError: There is none, or it is not known what it runs.
        """
        self._work.begin(READING_RESULTS)
        if found := _ROW.fullmatch(word):
            return self._of_row(self._row_at(found["file"], int(found["line"])))
        if word.isdecimal() and word not in self._by_key:
            return self._of_number(int(word))
        name = name_of(self._root, word)
        key = name if name in self._by_key else Labels(self._tasks).key_of(name)
        if key in self._by_key:
            return self._of_task(self._by_key[key])
        trace = find_trace(self._root, name)
        if trace is None:
            if self.problem:
                raise UserError(
                    f"{word}: has left nothing here, and the configs cannot be read:\n{self.problem}"
                )
            problem = f"task '{word}' is not in this sweep"
            hint = task_hint(self._root, problem) or "; `tasks` lists those that are"
            raise UserError(f"{problem}{hint}")
        return self._of_trace(trace)

    def _of_task(self, point: GridPoint) -> Choice:
        store = ResultsStore(self._root, lambda scan: None, self._work.advance)
        store.sync(self._tasks)
        self._work.begin(READING_RESULTS, store.size())
        store.scan_all()
        row = store.find([point]).get(point.key)
        path = store.where(point.key)
        return Choice(point.task, row, path.relative_to(self._root).as_posix() if row and path else "")

    def _row_at(self, file: str, line: int) -> FileRow:
        path = Path(file) if os.path.isfile(file) else self._root / file
        for row in rows_with(self._root, "", self._folders):
            if row.line == line and (self._root / row.file).resolve() == path.resolve():
                return row
        raise UserError(f"{file}:{line}: no row of a results file begins there")

    def _of_number(self, number: int) -> Choice:
        """Return the task of a row by its number, counted from 0, as `load_results` counts."""
        count = 0
        for count, row in enumerate(rows_with(self._root, "", self._folders), 1):
            if count > number:
                return self._of_row(row)
        there = f"{count_text(count, 'row')} {'is' if count == 1 else 'are'} there"
        raise UserError(f"row {number}: there is no such row: {there}, numbered from 0")

    def _of_row(self, row: FileRow) -> Choice:
        matcher = TaskIndex(self._tasks).matcher(tuple(row.cells), Path(row.file).parent.as_posix())
        if keys := matcher.one(list(row.cells.values())):
            return Choice(self._by_key[keys[0]].task, row.cells, row.where)
        return self._of_trace(trace_of(self._root, row))

    def _of_trace(self, trace: Trace) -> Choice:
        """Return a task that no config asks for; what it runs is as its phase says now, or its log."""
        same_phase = next((task for task in self._tasks if task.phase == trace.phase), None)
        config, seed = trace.config, trace.seed
        if trace.row and not trace.run_dir and same_phase is not None:
            config = _parameters_of(trace.row, config, same_phase.task.config)
            seed = trace.seed if trace.row.cells.get("seed") else same_phase.task.seed
        output_dir = Path(trace.run_dir).parents[1] if trace.run_dir else Path()
        if trace.row:
            output_dir = Path(trace.row.file).parent
        named: dict[str, Value] = {
            "task_id": trace.task_id or trace.phase,
            "phase": trace.phase,
            "config": config,
            "seed": seed,
            "output_dir": output_dir.as_posix(),
            "key": trace.key,
        }
        if same_phase is not None:
            task = msgspec.structs.replace(same_phase.task, **named)
        else:
            task = Task(**named, experiment=self._experiment_in_log(trace))
        return Choice(task, trace.row.cells if trace.row else None, trace.row.where if trace.row else "")

    def _experiment_in_log(self, trace: Trace) -> str:
        log = self._root / trace.run_dir / LOG_FILE
        text = (
            log.read_text(encoding="utf-8", errors="replace") if trace.run_dir and os.path.isfile(log) else ""
        )
        found = _RUNS.findall(text)
        if found and re.fullmatch(r"[\w.]+:\w+", found[-1]):
            return str(found[-1])
        said = f"its log says that it ran: {found[-1]}" if found else "no log says what it ran"
        name = trace.task_id or (trace.row.where if trace.row else trace.run_dir)
        if self.problem:
            raise UserError(f"{name}: {said}, and the configs cannot be read:\n{self.problem}")
        which = f"no config has a phase {trace.phase} (any more)" if trace.phase else "it names no phase"
        raise UserError(f"{name}: {which}, and {said}; put its phase into a config")


def _parameters_of(row: FileRow, told: Mapping[str, Value], asked: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters of a row that has no run folder.

    Args:
        row: Of whatever program.
        told: Its parameters if it is one of ours.
        asked: Those of another task of its phase.
    """
    others = {name: value for name, value in told.items() if value != ""}  # "": of another phase
    found = {**others, **asked}
    for name, value in asked.items():
        cell = next((row.cells[p + name] for p in PREFIXES if p + name in row.cells), None)
        if cell is not None:
            found[name] = cell if isinstance(value, str) else value_in(cell) if cell else None
    return found
