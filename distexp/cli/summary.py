"""What `run` ends with: where the rows are, what failed and why, and what to type next."""

import os
import sys
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from distexp.cli.records import failures_of, superseded_in, tasks_in
from distexp.errors import DistexpError
from distexp.launcher.local_run import say
from distexp.manager.first_rows import has_result_file, why_without_metrics
from distexp.reporting.failures import FailureGroup, group_failures
from distexp.results.audit import FileAudit, Row, audit
from distexp.results.row import is_ours
from distexp.run_folder import LOG_FILE
from distexp.sweep.config import load_configs
from distexp.sweep.grid import GridPoint
from distexp.sweep.source import READING
from distexp.system.long_work import LongWork
from distexp.task import Cause
from distexp.text import count_text, cut, one_line
from distexp.workdir import Workdir

SHOWN = 5  # causes; the report has all
SHOWN_FILES = 20  # lines about results files
MAX_CAUSE_CHARS = 300  # of one cause: the log has all of it
Command = Callable[[str, str], str]  # verb and words, as the user would type them


def print_summary(folder: Path, configs: str, command: Command) -> None:
    """Print the summary of a sweep that has ended to standard error, beside the manager's lines."""
    workdir = Workdir(folder)
    try:
        with LongWork() as work:
            work.begin(READING)
            phases = load_configs([Path(configs)], folder)
            tasks, to_come = tasks_in(workdir, phases)
            files = audit(folder, tasks, superseded_in(workdir), work, to_come)
            records = failures_of(workdir)
    except DistexpError as error:
        print(f"warning: no summary: {error}", file=sys.stderr)
        return
    parameters = {name for phase in phases for name in (*phase.axes, *phase.defaults)}
    lines = rows_told(workdir, files, tasks, parameters, command)
    for line in lines[:SHOWN_FILES]:
        say(line)
    if len(lines) > SHOWN_FILES:
        rows = count_text(sum(len(file.rows) for file in files), "row")
        say(f"... {rows} in {len(files)} files: {command('plan', '')} names them all")
    complete = {key for file in files for row in file.rows for key in row.keys}  # pruned ones too
    by_key = {task.key: task for task in tasks if task.key not in complete}
    left = len(by_key) + sum(to_come.values())
    groups = group_failures(records, by_key, with_pending=True)
    for group in groups[:SHOWN]:
        first = by_key[group.keys[0]]
        count, shown = len(group.keys), cut(one_line(group.message), MAX_CAUSE_CHARS)
        say(f"{count_text(count, 'task')} {group.state} ({group.cause}): {shown}")
        log = log_of(workdir, first)
        say(f"  such as {first.task_id}{f'; its log: {log}' if log else ''}")
        if group.cause == Cause.ERROR and not first.grid.command:
            say(f"  in a debugger: {command('rerun', f'{first.task_id} --pdb')}")
    if len(groups) > SHOWN:
        say(f"... and {len(groups) - SHOWN} more causes: {command('report', '')}")
    for line in what_is_next(str(workdir.read_info().get("left", "")), groups, left, command):
        say(line)
    if not left and complete:
        say(f"Next: {command('report', '')}")


def what_is_next(why: str, groups: Sequence[FailureGroup], left: int, command: Command) -> list[str]:
    """Return what to do about the tasks that are left, and why those of them cannot run that never ended.

    Args:
        why: As the manager said when it left; empty: it did not.
        groups: Of those that failed or were cancelled, or are to be tried again.
        left: How many tasks have no row, those of the groups included.
        command: Returns what to type.
    """
    lines = []
    open_ones = left - sum(len(group.keys) for group in groups if group.state != "pending")
    if why and open_ones:
        lines.append(f"{count_text(open_ones, 'task')} cannot run: {cut(one_line(why), MAX_CAUSE_CHARS)}")
    if any(group.state == "failed" for group in groups):
        words = command("run", "--retry-failed")
        lines.append(f"Next: {words}  runs them again, once the cause is corrected")
    elif left:
        once = ", once the cause is corrected" if groups or why else ""
        tasks = count_text(left, "task")
        lines.append(f"Next: {command('run', '')}  goes on with the {tasks} that are left{once}")
    return lines


def rows_told(
    workdir: Workdir,
    files: Sequence[FileAudit],
    tasks: Sequence[GridPoint],
    parameters: Set[str],
    command: Command,
) -> list[str]:
    """Return a line per results file: its rows that count, and how many of them hold no metrics.

    Below the first of our own files with such rows stands how to get metrics, for the first of their tasks in
    the order of the sweep, and how to run them again.
    """
    lines, hint = list[str](), ""
    for file in files:
        places = file.places()
        cells = [at for name, at in places.items() if name not in parameters and not is_ours(name)]
        bare = [row for row in file.rows if not any(row.fields[at] for at in cells)]
        empty = [row for row in bare if not _has_result_file(workdir, row, places.get("run_dir"))]
        elsewhere = len(bare) - len(empty)
        pruned = sum(row.is_pruned for row in file.rows)
        lines.append(
            f"{file.path}: {count_text(len(file.rows), 'row')}"
            + (f", {pruned} of tasks that were stopped early" if pruned else "")
            + (f", {len(empty)} without metrics" if empty else "")
            + (f", {elsewhere} with metrics in result.json of their run folders alone" if elsewhere else "")
        )
        if empty and file.is_own and not hint:
            keys = {key for row in empty for key in row.keys}
            first = next(task for task in tasks if task.key in keys)
            lines.append(hint := f"  such as {first.task_id}{_why_bare(workdir, first)}")
            lines.append(
                f"  then: {command('run', '--retry-other-code')}  runs those again whose code has changed; "
                "to run others again, delete their rows"
            )
    return lines


def _has_result_file(workdir: Workdir, row: Row, at: int | None) -> bool:
    return at is not None and row.fields[at] != "" and has_result_file(workdir.root / row.fields[at])


def _why_bare(workdir: Workdir, task: GridPoint) -> str:
    """Return why a task's row has no metrics, and what to do."""
    log = log_of(workdir, task)
    why = why_without_metrics(task.grid.command, task.grid.experiment, workdir.root / (log or ""))
    return f": {why}{f' (its log: {log})' if log and task.grid.command else ''}"


def log_of(workdir: Workdir, task: GridPoint) -> Path | None:
    """Return where the log of a task is; None where there is none, as its folder could not be made."""
    folder = workdir.run_folder(task.output_dir, task.grid.phase, task.seed, task.key)
    path = folder / LOG_FILE
    if not os.path.exists(path):
        return None
    return path.relative_to(workdir.root) if path.is_relative_to(workdir.root) else path
