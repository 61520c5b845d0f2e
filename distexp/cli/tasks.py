"""`tasks`: which tasks are there, in which state?"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from distexp.cli.asking import DONE, NOTHING, client_of, parser_of, say
from distexp.task import State, Value
from distexp.wire.messages import PAGE, Tasks, TasksReply

LIMIT = 100


def main(words: Sequence[str]) -> int:
    """Print a line per task that matches all filters."""
    settings = parse(words)
    reply = _read(settings, dict(settings.where))
    rest = reply.total - len(reply.tasks)
    more = [f"... {rest} more (--limit 0 shows all)"] if rest else []
    text = "\n".join([*table(reply.tasks), *more]) if reply.tasks else "No task matches"
    say(settings, reply, text)
    return DONE if reply.tasks else NOTHING


def _read(settings: argparse.Namespace, where: dict[str, Value]) -> TasksReply:
    found: list[dict[str, Value]] = []
    with client_of(settings) as client:
        while True:
            request = Tasks(state=settings.state, phase=settings.phase, where=where, offset=len(found))
            page = client.call(request, TasksReply)
            found += page.tasks
            is_enough = settings.limit and len(found) >= settings.limit
            if is_enough or len(page.tasks) < PAGE:
                return TasksReply(tasks=found[: settings.limit or None], total=page.total)


def table(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tasks as lines in columns: id, state, attempts, worker, and what went wrong."""
    cells = [("task", "state", "attempts", "worker", "")]
    for task in tasks:
        error = (task["error"].strip().splitlines() or [""])[-1]
        cells.append((task["task_id"], task["state"], str(task["attempts"]), task["worker"], error))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def parse(words: Sequence[str]) -> argparse.Namespace:
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
        raise argparse.ArgumentTypeError(f"found {text}, expected NAME=VALUE such as width_factor=4")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
