"""The verbs that look at a sweep, while a manager runs and after: `status`, `tasks`, `show`, `logs`."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from distexp.cli.connection import DONE, NOTHING, Target, asks_manager, say
from distexp.cli.flag_types import OneOf
from distexp.cli.look import Looker
from distexp.cli.main import COMMAND, as_typed
from distexp.results.row import is_ours
from distexp.task import State, Value
from distexp.text import count_text, duration_text, last_line, need_text, number_text, value_of
from distexp.wire.messages import (
    Logs,
    LogsReply,
    RungStatus,
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


@click.command()
@asks_manager(is_placed=True)
def status(target: Target) -> int:
    """Say how far the sweep is; without a manager, what its files say."""
    with Looker(target) as looker:
        reply = looker.call(Status(), StatusReply)
    say(target, reply, msgspec.json.format(msgspec.json.encode(reply.status), indent=2).decode())
    return DONE


# -- tasks -------------------------------------------------------------------------------------------------


class Condition(click.ParamType[tuple[str, Value]]):
    """NAME=VALUE; a value is read as JSON where it is some, else as text."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Value]:
        """Return name and value."""
        name, sign, text = str(value).partition("=")
        if not sign or not name:
            self.fail(f"{value} must be NAME=VALUE, such as width_factor=4", param, ctx)
        return name, value_of(text)


@click.command()
@click.option("--state", type=OneOf([state.value for state in State]), help="Only those in this state.")
@click.option("--phase", help="Only those of this phase.")
@click.option(
    "--where",
    type=Condition(),
    multiple=True,
    help="Only those whose parameter has this value, such as width_factor=4 or seed=42, or whose row was "
    "made with this code, such as code=3f2a1c; may be repeated.",
)
@click.option(
    "--limit", type=int, default=LIMIT, show_default=True, metavar="N", help="At most so many; 0: all."
)
@asks_manager()
def tasks(
    target: Target, state: str | None, phase: str | None, where: tuple[tuple[str, Value], ...], limit: int
) -> int:
    """List tasks; all filters must hold."""
    reply = _read_tasks(target, state, phase, dict(where), limit)
    rest = reply.total - len(reply.tasks)
    more = [f"... {rest} more (--limit 0 shows all)"] if rest else []
    text = "\n".join([*task_table(reply.tasks), *more]) if reply.tasks else "No task matches"
    say(target, reply, text)
    if not reply.tasks:
        from distexp.cli.suggest import filter_hints  # reads configs, which only this needs

        for line in filter_hints(target.workdir, phase, dict(where)):
            print(line, file=sys.stderr)
    return DONE if reply.tasks else NOTHING


def _read_tasks(
    target: Target, state: str | None, phase: str | None, where: dict[str, Value], limit: int
) -> TasksReply:
    found: list[TaskStatus] = []
    with Looker(target) as looker:
        while True:
            page = looker.call(Tasks(state=state, phase=phase, where=where, offset=len(found)), TasksReply)
            found += page.tasks
            is_enough = limit and len(found) >= limit
            if is_enough or not page.tasks or len(found) >= page.total:
                return TasksReply(tasks=found[: limit or None], total=page.total)


def task_table(rows: Sequence[TaskStatus]) -> list[str]:
    """Return tasks as lines in columns: id, state, attempts, worker, and what went wrong."""
    cells = [("task", "state", "attempts", "worker", "")]
    for task in rows:
        error = last_line(task.error, "")
        is_known = task.attempts or task.state not in (State.COMPLETE, State.PRUNED)
        attempts = str(task.attempts) if is_known else ""  # of a row that was there at the start
        cells.append((task.task_id, task.state, attempts, task.worker, error))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


# -- show --------------------------------------------------------------------------------------------------


@click.command()
@click.argument("task")
@asks_manager()
def show(target: Target, task: str) -> int:
    """Show one task: parameters, attempts, result or error, log, and why it is not running.

    TASK is a task id, such as exp1_vary_width_0_42, a key, or a run folder. Works without a manager, too.
    """
    with Looker(target) as looker:
        reply = looker.call(Show(task=task), ShowReply)
    command = click.get_current_context().find_root().info_name or COMMAND
    say(target, reply, as_typed(describe(reply), command))
    return DONE


def describe(reply: ShowReply) -> str:
    """Return the reply as lines for people."""
    task, row = reply.task, reply.row
    counts = ((task.attempts, "attempt"), (task.failures, "failure"), (task.losses, "lost worker"))
    tried = ", ".join(count_text(number, what) for number, what in counts)
    last = f", last on {task.worker}" if task.worker else ""
    values = {**task.config, "seed": task.seed}
    lines = [
        f"{task.task_id}: {task.state}",
        f"  {reply.why}",
        *([] if row and not task.attempts else [f"  tried       {tried}{last}"]),
        "  parameters  " + ", ".join(f"{name}={number_text(value)}" for name, value in values.items()),
    ]
    if need := need_text(task.gpus, task.min_free_gb, task.gpu_model):
        lines.append(f"  needs       {need}")
    if reply.running_s is not None:
        lines.append(f"  running     for {duration_text(reply.running_s)}")
    if row:
        lines += _describe_row(row, set(values))
    lines += [f"  {'' if at else 'rungs':10}  {_describe_rung(each)}" for at, each in enumerate(reply.rungs)]
    if task.error:
        lines += [f"  error       ({task.cause})", *[f"    {line}" for line in task.error.splitlines()]]
    if reply.run_dir:
        lines.append(f"  folder      {reply.run_dir}")
    lines.append(f"  log         {reply.log_path if reply.log else 'nothing here'}")
    return "\n".join([*lines, *[f"    {line}" for line in reply.log]])


def _describe_row(row: Mapping[str, str], parameters: set[str]) -> list[str]:
    lines = []
    if row.get("duration_s"):
        when, where = row.get("started_utc", "?"), row.get("worker", "?")
        lines.append(f"  took        {row['duration_s']} s, from {when}, on {where}")
    measured = [name for name in row if row[name] and name not in parameters and not is_ours(name)]
    metrics = ", ".join(f"{name}={row[name]}" for name in measured)
    return [*lines, f"  result      {metrics or 'no metrics'}"]


def _describe_rung(rung: RungStatus) -> str:
    if rung.verdict == "again":
        return f"step {rung.rung}: asked for again"
    value = "no number" if rung.value is None else number_text(rung.value)
    return f"step {rung.step}: {value}, rank {rung.rank} of {rung.of}: {rung.verdict}"


# -- logs --------------------------------------------------------------------------------------------------


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True, help="Go on while the task runs, or until Ctrl+C.")
@asks_manager()
def logs(target: Target, task: str, follow: bool) -> int:
    """Print what a task has printed, in all its attempts.

    TASK is a task id, such as exp1_vary_width_0_42, a key, or a run folder. Works without a manager, too.
    """
    offset, absent = 0, ""
    with Looker(target) as looker:
        while True:
            reply = looker.call(Logs(task=task, offset=offset), LogsReply)
            is_over = reply.state not in (GOES_ON if looker.has_manager else (State.ASSIGNED,))
            if reply.absent and reply.absent != absent:
                print(reply.absent, file=sys.stderr)
            absent = reply.absent
            _print_log(target, reply)
            is_news, offset = reply.offset != offset, reply.offset
            if is_news:
                continue  # there may be more
            if not follow or is_over:
                return NOTHING if absent else DONE
            time.sleep(LOOK_S)


def _print_log(target: Target, reply: LogsReply) -> None:
    if target.json:
        say(target, reply, "")
    else:
        print("".join(map(_harmless, reply.text)), end="", flush=True)


def _harmless(character: str) -> str:
    """Return the character as it may reach a terminal: tasks print whatever they like."""
    is_good = character.isprintable() or character in "\n\t\r"
    return character if is_good else character.encode("unicode_escape").decode()
