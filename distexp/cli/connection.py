"""Connect a verb to the manager that its flags name, and print the reply."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from distexp.cli.options import FOLDER
from distexp.errors import Refused
from distexp.text import count_text, one_line
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Ack, AnyReply, AnyRequest
from distexp.workdir import Workdir

DONE, NOTHING = 0, 1  # exit codes; 2, for wrong words or no manager, is `cli.main`'s

Reply = TypeVar("Reply", bound=AnyReply)


@dataclass(frozen=True)
class Target:
    """Which manager a verb asks, and how it prints the reply."""

    workdir: Path
    host: str | None
    port: int | None
    json: bool

    def client(self) -> Client:
        """Return a client of that manager."""
        return Client(Workdir(self.workdir), self.host, self.port, token=given_token())


def asks_manager(*, is_placed: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add the flags that name a manager; the function gets them as its first argument, a `Target`.

    Args:
        is_placed: Host and port are words of their own, not `--host` and `--port`.
    """
    if is_placed:
        place = [click.argument("host", required=False), click.argument("port", type=int, required=False)]
    else:
        place = [
            click.option("--host", help="Of the manager. [default: this folder's, else localhost]"),
            click.option("--port", type=int, help="Of the manager. [default: this folder's, else 5000]"),
        ]
    options = [
        *place,
        click.option("--workdir", type=FOLDER, default=".", help="The sweep's folder.", show_default=True),
        click.option("--json", is_flag=True, help="Print the reply as JSON, for scripts."),
    ]

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def command(*, workdir: Path, host: str | None, port: int | None, json: bool, **values: Any) -> int:
            return function(Target(workdir, host, port, json), **values)

        wrapped: Callable[..., int] = command
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def ask(target: Target, request: AnyRequest, expected: type[Reply]) -> Reply:
    """Return the manager's reply.

    Raises:
        Refused: The manager does not grant it.
        ManagerUnreachable: No manager answers.
    """
    with target.client() as client:
        return call(target, client, request, expected)


def call(target: Target, client: Client, request: AnyRequest, expected: type[Reply]) -> Reply:
    """Return the manager's reply on a connection that is used again.

    Raises:
        Refused: The manager does not grant it; of a task id that there is not, with one like it.
        ManagerUnreachable: No manager answers.
    """
    try:
        return client.call(request, expected)
    except Refused as error:
        from distexp.cli.suggest import task_hint  # reads configs, which only this needs

        raise Refused(f"{error}{task_hint(target.workdir, str(error))}") from None


def order(target: Target, request: AnyRequest, done: str = "{message}") -> int:
    """Have something done, say so, and return the exit code; `NOTHING` when it changed no task.

    Args:
        target: Whom to ask.
        request: One that is answered by an `ack`.
        done: What to say; `{message}` and `{count}` stand for those of the reply, `{tasks}` for `1 task`.
    """
    reply = ask(target, request, Ack)
    tasks = count_text(reply.count or 0, "task")
    say(target, reply, done.format(message=reply.message, count=reply.count, tasks=tasks))
    return NOTHING if reply.count == 0 else DONE


def say(target: Target, reply: AnyReply, text: str) -> None:
    """Print the reply as one line of JSON where that is wanted, else the text for people."""
    if target.json:
        print(msgspec.json.encode(reply).decode(), flush=True)
    else:
        print("\n".join(one_line(line) for line in text.splitlines()), flush=True)
