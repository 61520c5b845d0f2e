"""`watch [host] [port]`: the live view of a running manager.

It ends once every task has ended, or by Ctrl+C; while no manager answers, it says so and goes on.
"""

import time
from collections.abc import Iterator

import click

from distexp.cli.connection import DONE, Target, asks_manager, say
from distexp.errors import ManagerUnreachable
from distexp.system.logs import is_terminal
from distexp.text import count_text, duration_text
from distexp.wire.client import Client
from distexp.wire.messages import View, ViewReply

LINE_S = 5.0  # between two lines where there is no terminal


@click.command()
@asks_manager(is_placed=True)
def main(target: Target) -> int:
    """Show the sweep of a running manager, live, until it is done or Ctrl+C.

    In a pipe: a line whenever something changes.
    """
    with target.client() as client:
        if target.json or not is_terminal():
            _print(target, client)
        else:
            from distexp.cli.screen import REFRESH_S, Screen  # rich: a tenth of a second, for this verb alone

            with Screen() as screen:
                for view, note in _views(client, REFRESH_S):
                    screen.show(view, note)
    return DONE


def _print(target: Target, client: Client) -> None:
    """Print a line when something has changed; with `--json` a reply each time."""
    last = ""
    for view, note in _views(client, LINE_S):
        line = note or plain(view)
        if line != last or target.json:
            say(target, view, line)
        last = line


def plain(view: ViewReply) -> str:
    """Return the view as one line, as a manager without a terminal logs it."""
    status = view.status
    eta = "" if view.eta_s is None or status.done else f", ETA {duration_text(view.eta_s)}"
    return (
        f"Progress {status.progress}: {status.assigned} assigned, {status.failed} failed, "
        f"{count_text(status.workers, 'worker')}{eta}"
    )


def _views(client: Client, every_s: float) -> Iterator[tuple[ViewReply, str]]:
    """Yield the view again and again, and what is wrong with it, until the sweep is done.

    Raises:
        ManagerUnreachable: No manager answers the first time.
    """
    view = client.call(View(), ViewReply)
    yield view, ""
    while not view.status.done:
        time.sleep(every_s)
        note = ""
        try:
            view = client.call(View(), ViewReply)
        except ManagerUnreachable as error:
            note = f"{error}; trying again"
        yield view, note
