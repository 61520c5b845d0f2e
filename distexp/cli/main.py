"""One table of verbs, and what every verb's errors come to: a line on standard error and an exit code."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from distexp.errors import DistexpError, Refused

VERBS = {  # verb: module and function, imported when the verb is typed
    "cancel": "steer:cancel",
    "drain": "steer:drain",
    "init": "init:main",
    "logs": "query:logs",
    "pause": "steer:pause",
    "plan": "plan:main",
    "report": "report:main",
    "requeue": "steer:requeue",
    "resume": "steer:resume",
    "show": "query:show",
    "status": "query:status",
    "tasks": "query:tasks",
    "watch": "watch:main",
}


def main(words: Sequence[str]) -> int:
    """Do what the first word says, or serve.

    Returns 0 all well, 1 a task failed or nothing was done, 2 no start or no answer.
    """
    try:
        if words and words[0] in VERBS:
            return load(VERBS[words[0]])(words[1:])
        return load("manager:main")(words)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except DistexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # in a verb that goes on until Ctrl+C; a manager takes it as a signal
        return 0


def load(place: str) -> Callable[[Sequence[str]], int]:
    """Return the function at `module:function` of this package."""
    module, _, name = place.partition(":")
    function: Callable[[Sequence[str]], int] = getattr(import_module(f"distexp.cli.{module}"), name)
    return function
