"""The command `distexp`: one tree of verbs in groups, each imported when it is typed.

What the user can fix is one line on standard error. Exit codes: 0 all well, 1 a task failed, nothing matched
or the manager refuses, 2 wrong words or files, or no manager answers.
"""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import click

from distexp import __version__
from distexp.errors import DistexpError, Refused

COMMAND = "distexp"


class Verb(NamedTuple):
    """Where a verb is, and its line of help: what `--help` needs without importing it."""

    place: str  # module:name in this package
    help: str


GROUPS = {
    "Run": {
        "run": Verb("launch:run", "Run the whole sweep here: a manager and its workers."),
        "manager": Verb("manager:main", "Start the manager alone."),
        "worker": Verb("worker:main", "Start one worker, on a free GPU or the CPU."),
        "workers": Verb("launch:workers", "Start several workers."),
        "slurm": Verb("launch:slurm", "Submit workers as jobs of Slurm."),
        "stop": Verb("launch:stop", "Stop the manager of a folder."),
    },
    "Look": {
        "status": Verb("query:status", "How far is the sweep?"),
        "watch": Verb("watch:main", "The live view of a running sweep."),
        "tasks": Verb("query:tasks", "List tasks, filtered."),
        "show": Verb("query:show", "Everything about one task, and why it is not running."),
        "logs": Verb("query:logs", "What a task has printed."),
        "plan": Verb("plan:main", "What would run, and for how long? Starts nothing."),
        "report": Verb("report:main", "Write an HTML file with charts and all rows."),
        "web": Verb("web:main", "Serve a live page of the sweep to your browser."),
    },
    "Steer": {
        "cancel": Verb("steer:cancel", "End tasks without a result."),
        "requeue": Verb("steer:requeue", "Run tasks again that failed or lost their row."),
        "pause": Verb("steer:pause", "Assign nothing for now; what runs goes on."),
        "resume": Verb("steer:resume", "Assign tasks again."),
        "prioritize": Verb("steer:prioritize", "Run the tasks of a phase before others."),
        "drain": Verb("steer:drain", "Let a worker leave after its current task."),
    },
    "Make": {
        "init": Verb("init:main", "Write a first sweep that runs at once."),
        "rerun": Verb("rerun:main", "Run one task again on this terminal, and compare it with its row."),
        "convert": Verb("convert:main", "Print a sweep file of W&B as one of ours."),
    },
    "Develop": {
        "test": Verb("launch:test", "Check this project: format, lint, types, tests."),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
EPILOG = """\b
Examples:
  distexp init                          a first sweep, to be edited
  distexp init --command "python train.py --lr {lr} --seed {seed}" lr=0.1,0.01 seeds=1,2,3
                                        the same for a script that you have
  distexp run                           run what configs/ asks for, and say where the rows are
  distexp show exp1_vary_width_0_42     why did this task fail?
  distexp run --retry-failed            run what failed again
  distexp VERB --help                   the flags of a verb
"""


class Tree(click.Group):
    """The verbs; a verb's module is imported when the verb is typed or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the groups."""
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a verb, None if there is none of that name."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(f"distexp.cli.{module}"), name)
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return what `args` begin with; a verb that there is not is answered by those like it."""
        if not ctx.resilient_parsing and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs in their groups."""
        for group, verbs in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name, verb.help) for name, verb in verbs.items()], col_max=12)


@click.group(COMMAND, cls=Tree, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="distexp %(version)s")
def tree() -> None:
    """Run sweeps of experiments on all your GPUs: YAML in, one row of CSV per experiment out."""


def main(words: Sequence[str] | None = None, *, command: str | None = None, verb: str = "") -> int:
    """Do what the words say, by default those of the command line, and return the exit code.

    Args:
        words: A verb and what belongs to it.
        command: How the user called this; help and hints show it. The launchers tell it by `DISTEXP_COMMAND`.
        verb: What `command` always does; the words hold no verb then.
    """
    write_utf8()
    name = os.environ.pop("DISTEXP_COMMAND", "") or command or COMMAND
    words = sys.argv[1:] if words is None else [*words]
    if words[:1] == ["help"]:  # `help` and `help VERB`
        words = [*words[1:2], "--help"]
    try:
        doing = tree.get_command(click.Context(tree), verb) or tree
        code = doing.main(words, name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0 if not words else 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else name
        return complain(f"{error.format_message()}\nSee `{where} --help`.", 2)
    except Refused as error:
        return complain(as_typed(str(error), name), 1)
    except DistexpError as error:
        return complain(as_typed(str(error), name), 2)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):  # in a verb that goes on until Ctrl+C; a manager has its signals
        return 0


def as_typed(text: str, command: str) -> str:
    """Return the text with the verbs that it advises as the user calls them: there may be no `distexp`."""
    return text.replace(f"`{COMMAND} ", f"`{command} ")


def write_utf8() -> None:
    """Let this process and those it starts write UTF-8 into files and pipes, on Windows as elsewhere."""
    if sys.platform != "win32":
        return
    os.environ.setdefault("PYTHONUTF8", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding != "utf-8":
            stream.reconfigure(encoding="utf-8")


def complain(text: str, code: int) -> int:
    """Print the text as an error, red on a terminal, and return the code."""
    click.secho(f"error: {text}", err=True, fg="red")
    return code
