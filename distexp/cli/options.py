"""The flags that several verbs share."""

import click

from distexp.cli.flag_types import Folder
from distexp.sweep.source import DEFAULT_CONFIGS

FOLDER = Folder()
WORKDIR = click.option(
    "--workdir", type=FOLDER, default=".", show_default=True, help="Folder of configs and results."
)
CONFIGS = click.option(
    "--configs", default=DEFAULT_CONFIGS, show_default=True, metavar="GLOB", help="Which config files."
)
KNOWN_CONFIGS = click.option(
    "--configs",
    metavar="GLOB",
    help=f"Which config files. [default: those of the last manager, else {DEFAULT_CONFIGS}]",
)
