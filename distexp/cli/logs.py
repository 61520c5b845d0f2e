"""`logs TASK [-f]`: what a task prints."""

import argparse
import sys
import time
from collections.abc import Sequence

from distexp.cli.asking import DONE, NOTHING, client_of, parser_of, say
from distexp.task import State
from distexp.wire.messages import Logs, LogsReply

LOOK_S = 0.5  # between two looks at a log that grows
GOES_ON = (State.PENDING, State.ASSIGNED)


def main(words: Sequence[str]) -> int:
    """Print the log; with `-f` until the task has ended or Ctrl+C."""
    settings = parse(words)
    offset, absent = 0, ""
    with client_of(settings) as client:
        while True:
            reply = client.call(Logs(task=settings.task, offset=offset), LogsReply)
            is_over = reply.state not in GOES_ON
            if reply.absent and reply.absent != absent:
                print(reply.absent, file=sys.stderr)
            absent = reply.absent
            _show(settings, reply)
            is_news, offset = reply.offset != offset, reply.offset
            if is_news:
                continue  # there may be more
            if not settings.follow or is_over:
                return NOTHING if absent else DONE
            time.sleep(LOOK_S)


def _show(settings: argparse.Namespace, reply: LogsReply) -> None:
    if settings.json:
        say(settings, reply, "")
    else:
        print("".join(map(_harmless, reply.text)), end="", flush=True)


def _harmless(character: str) -> str:
    """Return the character as it may reach a terminal: tasks print whatever they like."""
    is_good = character.isprintable() or character in "\n\t\r"
    return character if is_good else character.encode("unicode_escape").decode()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return which task."""
    parser = parser_of("logs", "Print what a task has printed, in all its attempts.")
    parser.add_argument("task", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    parser.add_argument("-f", "--follow", action="store_true", help="go on while the task runs")
    return parser.parse_args(words)
