"""The verbs that look at a running sweep: `status`, `tasks`, `show`, `logs`."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from distexp.cli.connection import DONE, NOTHING, ask, client_of, parser_of, say
from distexp.results.row import CAPTURED, IDENTITY, PROVENANCE
from distexp.task import State, Value
from distexp.text import duration_text, need_text, number_text
from distexp.wire.messages import (
    PAGE,
    Logs,
    LogsReply,
    Show,
    ShowReply,
    Status,
    StatusReply,
    Tasks,
    TasksReply,
    TaskStatus,
)

LIMIT = 100  # tasks that are listed unless `--limit` says otherwise
LOOK_S = 0.5  # between two looks at a log that grows
GOES_ON = (State.PENDING, State.ASSIGNED)


def status(words: Sequence[str]) -> int:
    """Print how far a running manager is."""
    settings = parse_status(words)
    reply = ask(settings, Status(), StatusReply)
    say(settings, reply, msgspec.json.format(msgspec.json.encode(reply.status), indent=2).decode())
    return DONE


def parse_status(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to ask."""
    return parser_of("status", "Ask a running manager how far it is.", is_placed=True).parse_args(words)


# -- tasks -------------------------------------------------------------------------------------------------


def tasks(words: Sequence[str]) -> int:
    """Print a line per task that matches all filters."""
    settings = parse_tasks(words)
    reply = _read_tasks(settings, dict(settings.where))
    rest = reply.total - len(reply.tasks)
    more = [f"... {rest} more (--limit 0 shows all)"] if rest else []
    text = "\n".join([*task_table(reply.tasks), *more]) if reply.tasks else "No task matches"
    say(settings, reply, text)
    return DONE if reply.tasks else NOTHING


def _read_tasks(settings: argparse.Namespace, where: dict[str, Value]) -> TasksReply:
    found: list[TaskStatus] = []
    with client_of(settings) as client:
        while True:
            request = Tasks(state=settings.state, phase=settings.phase, where=where, offset=len(found))
            page = client.call(request, TasksReply)
            found += page.tasks
            is_enough = settings.limit and len(found) >= settings.limit
            if is_enough or len(page.tasks) < PAGE:
                return TasksReply(tasks=found[: settings.limit or None], total=page.total)


def task_table(rows: Sequence[TaskStatus]) -> list[str]:
    """Return tasks as lines in columns: id, state, attempts, worker, and what went wrong."""
    cells = [("task", "state", "attempts", "worker", "")]
    for task in rows:
        error = (task.error.strip().splitlines() or [""])[-1]
        cells.append((task.task_id, task.state, str(task.attempts), task.worker, error))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def parse_tasks(words: Sequence[str]) -> argparse.Namespace:
    """Return which tasks."""
    parser = parser_of("tasks", "List tasks; all filters must hold.")
    parser.add_argument("--state", choices=[state.value for state in State], help="only those in this state")
    parser.add_argument("--phase", help="only those of this phase")
    parser.add_argument(
        "--where",
        type=_condition,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only those whose parameter has this value, such as width_factor=4 or seed=42; may be repeated",
    )
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help="at most so many (%(default)s); 0: all"
    )
    return parser.parse_args(words)


def _condition(text: str) -> tuple[str, Value]:
    """Return name and value; a value is read as JSON where it is some, else as text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text} must be NAME=VALUE, such as width_factor=4")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# -- show --------------------------------------------------------------------------------------------------


def show(words: Sequence[str]) -> int:
    """Print everything about one task, and why it is not running."""
    settings = parse_show(words)
    reply = ask(settings, Show(task=settings.task), ShowReply)
    say(settings, reply, describe(reply))
    return DONE


def describe(reply: ShowReply) -> str:
    """Return the reply as lines for people."""
    task, row = reply.task, reply.row
    tried = f"{task.attempts} attempts, {task.failures} failures, {task.losses} lost workers"
    values = {**task.config, "seed": task.seed}
    lines = [
        f"{task.task_id}: {task.state}",
        f"  {reply.why}",
        f"  tried       {tried}" + (f", last on {task.worker}" if task.worker else ""),
        "  parameters  " + ", ".join(f"{name}={number_text(value)}" for name, value in values.items()),
    ]
    if need := need_text(task.gpus, task.min_free_gb):
        lines.append(f"  needs       {need}")
    if reply.running_s is not None:
        lines.append(f"  running     for {duration_text(reply.running_s)}")
    if row:
        lines += _describe_row(row, set(values))
    if task.error:
        lines += [f"  error       ({task.cause})", *[f"    {line}" for line in task.error.splitlines()]]
    lines.append(f"  log         {reply.log_path}" + ("" if reply.log else " (nothing here yet)"))
    return "\n".join([*lines, *[f"    {line}" for line in reply.log]])


def _describe_row(row: Mapping[str, str], parameters: set[str]) -> list[str]:
    lines = []
    if row.get("duration_s"):
        when, where = row.get("started_utc", "?"), row.get("worker", "?")
        lines.append(f"  took        {row['duration_s']} s, from {when}, on {where}")
    known = {*IDENTITY, *parameters, *CAPTURED, *PROVENANCE}
    metrics = ", ".join(f"{name}={value}" for name, value in row.items() if name not in known)
    return [*lines, f"  result      {metrics}"]


def parse_show(words: Sequence[str]) -> argparse.Namespace:
    """Return which task."""
    parser = parser_of("show", "Show one task: parameters, attempts, log, and why it is not running.")
    parser.add_argument("task", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    return parser.parse_args(words)


# -- logs --------------------------------------------------------------------------------------------------


def logs(words: Sequence[str]) -> int:
    """Print what a task has printed; with `-f` until the task has ended or Ctrl+C."""
    settings = parse_logs(words)
    offset, absent = 0, ""
    with client_of(settings) as client:
        while True:
            reply = client.call(Logs(task=settings.task, offset=offset), LogsReply)
            is_over = reply.state not in GOES_ON
            if reply.absent and reply.absent != absent:
                print(reply.absent, file=sys.stderr)
            absent = reply.absent
            _print_log(settings, reply)
            is_news, offset = reply.offset != offset, reply.offset
            if is_news:
                continue  # there may be more
            if not settings.follow or is_over:
                return NOTHING if absent else DONE
            time.sleep(LOOK_S)


def _print_log(settings: argparse.Namespace, reply: LogsReply) -> None:
    if settings.json:
        say(settings, reply, "")
    else:
        print("".join(map(_harmless, reply.text)), end="", flush=True)


def _harmless(character: str) -> str:
    """Return the character as it may reach a terminal: tasks print whatever they like."""
    is_good = character.isprintable() or character in "\n\t\r"
    return character if is_good else character.encode("unicode_escape").decode()


def parse_logs(words: Sequence[str]) -> argparse.Namespace:
    """Return which task."""
    parser = parser_of("logs", "Print what a task has printed, in all its attempts.")
    parser.add_argument("task", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the task runs")
    return parser.parse_args(words)
