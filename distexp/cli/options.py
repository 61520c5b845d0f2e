"""The flags that several verbs share."""

import glob
import os
from pathlib import Path

import click
from click.core import ParameterSource

from distexp.cli.flag_types import Folder
from distexp.sweep.config import find_configs
from distexp.sweep.source import DEFAULT_CONFIGS

FOLDER = Folder()
WORKDIR = click.option(
    "--workdir",
    type=FOLDER,
    default=".",
    show_default=True,
    is_eager=True,  # `--configs` looks at it
    help="Folder of configs and results.",
)
WHICH = "Which config files; looked for here, then in --workdir."


def from_here(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return a pattern of config files; one that was typed and names files here becomes absolute."""
    is_typed = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    here = Path.cwd()
    if value is None or not is_typed or os.path.samefile(ctx.params["workdir"], here):
        return value
    found = find_configs(Path(value), here)
    if found == [Path(value).as_posix()]:
        return str(here / value)  # a file, as it stands
    return os.path.join(glob.escape(str(here)), value) if found else value


CONFIGS = click.option(
    "--configs", default=DEFAULT_CONFIGS, show_default=True, metavar="GLOB", callback=from_here, help=WHICH
)
KNOWN_CONFIGS = click.option(
    "--configs",
    metavar="GLOB",
    callback=from_here,
    help=f"{WHICH} [default: those of the last manager, else {DEFAULT_CONFIGS}]",
)
