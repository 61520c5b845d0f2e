"""The flags that several verbs share."""

from pathlib import Path

import click

from distexp.sweep.source import DEFAULT_CONFIGS

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
WORKDIR = click.option(
    "--workdir", type=FOLDER, default=".", show_default=True, help="Folder of configs and results."
)
CONFIGS = click.option(
    "--configs", default=DEFAULT_CONFIGS, show_default=True, metavar="GLOB", help="Which config files."
)
