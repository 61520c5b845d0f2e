"""`show TASK`: everything about one task, and why it is not running."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import DONE, ask, parser_of, say
from distexp.results.row import CAPTURED, IDENTITY, PROVENANCE
from distexp.text import duration_text, need_text, number_text
from distexp.wire.messages import Show, ShowReply


def main(words: Sequence[str]) -> int:
    """Print what the manager knows of the task."""
    settings = parse(words)
    reply = ask(settings, Show(task=settings.task), ShowReply)
    say(settings, reply, describe(reply))
    return DONE


def describe(reply: ShowReply) -> str:
    """Return the reply as lines for people."""
    task, row = reply.task, reply.row
    tried = f"{task['attempts']} attempts, {task['failures']} failures, {task['losses']} lost workers"
    values = {**task["config"], "seed": task["seed"]}
    lines = [
        f"{task['task_id']}: {task['state']}",
        f"  {reply.why}",
        f"  tried       {tried}" + (f", last on {task['worker']}" if task["worker"] else ""),
        "  parameters  " + ", ".join(f"{name}={number_text(value)}" for name, value in values.items()),
    ]
    if need := need_text(task.get("gpus"), task.get("min_free_gb")):  # an older manager tells of none
        lines.append(f"  needs       {need}")
    if reply.running_s is not None:
        lines.append(f"  running     for {duration_text(reply.running_s)}")
    if row and row.get("duration_s"):
        when, where = row.get("started_utc", "?"), row.get("worker", "?")
        lines.append(f"  took        {row['duration_s']} s, from {when}, on {where}")
    if row:
        known = {*IDENTITY, *values, *CAPTURED, *PROVENANCE}
        lines.append("  result      " + ", ".join(f"{n}={v}" for n, v in row.items() if n not in known))
    if task["error"]:
        lines += [f"  error       ({task['cause']})", *[f"    {line}" for line in task["error"].splitlines()]]
    lines.append(f"  log         {reply.log_path}" + ("" if reply.log else " (nothing here yet)"))
    return "\n".join([*lines, *[f"    {line}" for line in reply.log]])


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return which task."""
    parser = parser_of("show", "Show one task: parameters, attempts, last words, and why it is not running.")
    parser.add_argument("task", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    return parser.parse_args(words)
