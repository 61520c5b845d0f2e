"""The verbs that start and stop processes: `run`, `workers`, `slurm`, `stop`, `test`."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from distexp.cli import manager as manager_command
from distexp.cli import worker as worker_command
from distexp.cli.flag_types import OneOf
from distexp.cli.options import CONFIGS, FOLDER, WORKDIR
from distexp.cli.other_host import other_host
from distexp.cli.summary import print_summary
from distexp.cli.web import check_installed
from distexp.cluster.slurm import Surroundings
from distexp.errors import UserError
from distexp.launcher import main as launcher
from distexp.launcher.main import ManagerJob, WorkerJobs
from distexp.sweep.config_files import DEFAULT_CONFIGS

REST = {"ignore_unknown_options": True, "allow_interspersed_args": True}
NOT_OF_A_JOB = {
    "workdir": "the manager serves the folder of its workers; give --workdir to `slurm`",
    "no_auth": "other machines reach this manager",
}
COUNT = click.IntRange(min=1)


class WithOptions(click.Command):
    """A command whose words after `--` are for another program: its function gets them as `options`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before `--`, which click itself would only drop."""
        cut = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:cut])
        ctx.params["options"] = tuple(args[cut + 1 :])
        return rest


@click.command(context_settings=REST)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="How many. [default: one per free GPU, else 2]"
)
@click.option(
    "--device",
    type=OneOf(["auto", "gpu", "cpu", "mps"]),
    default="auto",
    show_default=True,
    help="Where they compute.",
)
@click.option("--gpus", type=COUNT, default=1, show_default=True, help="GPUs for each worker.")
@click.option("--web", is_flag=True, help="Serve the live page meanwhile, as `web` does.")
@CONFIGS
@WORKDIR
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS OF manager]")
def run(
    *, workers: int, device: str, gpus: int, web: bool, configs: str, workdir: Path, flags: tuple[str, ...]
) -> int:
    """Run the whole sweep on this machine and say where the rows are.

    Starts a manager and one worker per free GPU, two on the CPU where none is free. What has its
    row is not run again. Ctrl+C: workers finish their tasks, then the manager ends.

    Takes the flags of `manager` too, such as --retry-failed, --keep-going, --on-finish CMD.

    Exit code: 0 all went well, 1 a task failed or none that is left can run, 2 it could not start.
    """
    check("manager", manager_command.main, flags)
    folder = workdir.resolve()
    named = [] if configs == DEFAULT_CONFIGS else ["--configs", configs]
    if web:
        check_installed()
    code, has_run = launcher.run(
        folder, [*named, *flags], workers=workers, device=device, gpus=gpus, page=web
    )
    if has_run:
        command = click.get_current_context().find_root().info_name or "distexp"
        place = "" if workdir == Path() else f" --workdir {workdir}"
        place += "" if configs == DEFAULT_CONFIGS else f" --configs '{configs}'"
        print_summary(folder, configs, lambda verb, words: f"{command} {verb}{place} {words}".rstrip())
    return code


@click.command(context_settings=REST)
@click.argument("count", type=COUNT, metavar="N")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[HOST] [PORT] [FLAGS OF worker]")
def workers(count: int, flags: tuple[str, ...]) -> int:
    """Start N workers here and wait for them, such as `workers 3`.

    Exit code: 1 if any of them failed.
    """
    check("worker", worker_command.main, flags)
    return launcher.workers(count, flags)


@click.command(cls=WithOptions, context_settings=REST)
@click.argument("count", type=COUNT, metavar="N")
@click.option("--with-manager", is_flag=True, help="Submit the manager, too, as a job without a GPU.")
@click.option(
    "--manager-options",
    default="",
    metavar="WORDS",
    help="Options of sbatch for the manager's job, after those of the workers.",
)
@click.option(
    "--manager-flags",
    default="",
    metavar="WORDS",
    help="Flags of `manager` for the manager's job, such as --freeze-code or --configs.",
)
@click.option("--setup", multiple=True, metavar="LINE", help="Run this line of bash first; may be repeated.")
@click.option(
    "--wrap", default="", metavar="WORDS", help="Words before each worker's, such as a container's."
)
@click.option(
    "--python",
    default="",
    metavar="WORDS",
    help="The workers' Python, such as python3 of the container. [default: the one that runs this]",
)
@WORKDIR
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS OF worker] [-- OPTIONS OF sbatch]")
def slurm(
    *,
    count: int,
    with_manager: bool,
    manager_options: str,
    manager_flags: str,
    setup: tuple[str, ...],
    wrap: str,
    python: str,
    workdir: Path,
    flags: tuple[str, ...],
    options: tuple[str, ...],
) -> int:
    """Submit N workers as jobs of Slurm.

    Such as `slurm 8 --with-manager -- --gres=gpu:1 --time=4:00:00`. Jobs are requeued before their
    time limit; workers save a checkpoint first.
    """
    try:
        check("worker", worker_command.main, flags)
    except click.NoSuchOption as error:
        name = error.option_name
        if any(name in option.opts for option in manager_command.main.params):
            raise UserError(f'{name} is a flag of the manager: --manager-flags "{name} ..."') from None
        raise
    for flag, text in (("--manager-options", manager_options), ("--manager-flags", manager_flags)):
        if text and not with_manager:
            raise UserError(f"{flag} needs --with-manager")
    workers = WorkerJobs(
        count=count,
        flags=flags,
        options=options,
        python=split("--python", python),
        around=Surroundings(setup, split("--wrap", wrap)),
    )
    manager = ManagerJob(flags_of_manager(manager_flags), split("--manager-options", manager_options))
    root = workdir.resolve()
    return launcher.slurm(root, workers, manager if with_manager else None, lambda: other_host(root))


def flags_of_manager(text: str) -> list[str]:
    """Return the flags of a manager that is a job.

    Raises:
        UserError: They are none, or do not go with such a job.
    """
    flags = split("--manager-flags", text)
    context = check("manager", manager_command.main, flags)
    for name, why in NOT_OF_A_JOB.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UserError(f"--manager-flags: --{name.replace('_', '-')} cannot be used here: {why}")
    return flags


def split(flag: str, text: str) -> list[str]:
    """Return the words of a flag's text, as a shell splits them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{flag} {text!r}: {error}") from None


@click.command()
@click.option("--workdir", type=FOLDER, default=".", show_default=True, help="The manager's folder.")
def stop(workdir: Path) -> int:
    """Stop the manager of a folder as Ctrl+C would; its workers finish their tasks.

    On Windows the manager ends at once; no row is lost.
    """
    root = workdir.resolve()
    return launcher.stop(root, lambda: other_host(root))


@click.command(context_settings=REST)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[WORDS FOR pytest]")
def test(words: tuple[str, ...]) -> int:
    """Check this project, in a clone of it: format, lint, types, shell, tests."""
    if not os.path.exists(launcher.PROJECT / "pyproject.toml"):
        raise UserError("test: checks a clone of this project, and this is an installed copy")
    return launcher.run_checks(launcher.PROJECT, words)


def check(verb: str, command: click.Command, words: Sequence[str]) -> click.Context:
    """Return what the words mean to another command, or raise what is wrong, before anything is started."""
    context = click.get_current_context()
    try:
        return command.make_context(verb, [*words], parent=context.find_root())
    except click.NoSuchOption as error:  # perhaps one of this command's own
        known = [
            name for each in (context.command, command) for option in each.params for name in option.opts
        ]
        raise click.NoSuchOption(error.option_name, possibilities=known, ctx=context) from None
