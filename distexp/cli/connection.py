"""Connect a verb to the manager that its flags name, and print the reply."""

import argparse
from pathlib import Path
from typing import TypeVar

import msgspec

from distexp.text import one_line
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Ack, AnyReply, AnyRequest
from distexp.workdir import Workdir

DONE, NOTHING = 0, 1  # exit codes; 2, for wrong words or no manager, is `cli.main`'s
CODES = "exit code: 0 done, 1 nothing matched or the manager refuses, 2 wrong words or no manager answers"

Reply = TypeVar("Reply", bound=AnyReply)


def parser_of(verb: str, description: str, *, is_placed: bool = False) -> argparse.ArgumentParser:
    """Return a parser of the words of a verb: what it does, whom to ask, how to print.

    Args:
        verb: As it is typed.
        description: Of what it does.
        is_placed: The manager's host and port are words of their own, not `--host` and `--port`.
    """
    parser = argparse.ArgumentParser(
        prog=f"experiment_manager.py {verb}", description=description, epilog=CODES
    )
    where = "of the manager (default: this folder's, else localhost 5000)"
    if is_placed:
        parser.add_argument("host", nargs="?", help=where)
        parser.add_argument("port", nargs="?", type=int, help="of the manager")
    else:
        parser.add_argument("--host", help=where)
        parser.add_argument("--port", type=int, help="of the manager")
    parser.add_argument("--workdir", type=Path, default=Path(), help="folder that has the token (default: .)")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return parser


def client_of(settings: argparse.Namespace) -> Client:
    """Return a client of the manager that the words name."""
    return Client(Workdir(settings.workdir), settings.host, settings.port, token=given_token())


def ask(settings: argparse.Namespace, request: AnyRequest, expected: type[Reply]) -> Reply:
    """Return the manager's reply.

    Raises:
        Refused: The manager does not grant it.
        ManagerUnreachable: No manager answers.
    """
    with client_of(settings) as client:
        return client.call(request, expected)


def order(settings: argparse.Namespace, request: AnyRequest, done: str = "{message}") -> int:
    """Have something done, say so, and return the exit code; `NOTHING` when it changed no task.

    Args:
        settings: What `parser_of` made of the words.
        request: One that is answered by an `ack`.
        done: What to say; `{message}` and `{count}` stand for those of the reply.
    """
    reply = ask(settings, request, Ack)
    say(settings, reply, done.format(message=reply.message, count=reply.count))
    return NOTHING if reply.count == 0 else DONE


def say(settings: argparse.Namespace, reply: AnyReply, text: str) -> None:
    """Print the reply as one line of JSON where that is wanted, else the text for people."""
    if settings.json:
        print(msgspec.json.encode(reply).decode(), flush=True)
    else:
        print("\n".join(one_line(line) for line in text.splitlines()), flush=True)
