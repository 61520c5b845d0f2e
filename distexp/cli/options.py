"""The flags that several verbs share."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from distexp.cli.flag_types import Folder
from distexp.sweep.config_files import DEFAULT_CONFIGS, find_configs

FOLDER = Folder()
WORKDIR = click.option(
    "--workdir",
    type=FOLDER,
    default=".",
    show_default=True,
    help="Folder of configs and results.",
)
WHICH = "Which config files; looked for here, then in --workdir."


class ConfigsOption(click.Option):
    """`--configs`: a pattern that was typed, and names files here, becomes absolute."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Read the pattern beside the `--workdir` that was typed, which may be checked later, or wrong."""
        if self.name in opts:
            opts = {**opts, self.name: from_here(opts[self.name], opts.get("workdir", "."))}
        return super().handle_parse_result(ctx, opts, args)


def from_here(pattern: str, workdir: str) -> str:
    """Return a pattern of config files; where it names files here, and the work is elsewhere, absolute."""
    here = Path.cwd()
    if not os.path.isdir(workdir) or os.path.samefile(workdir, here):
        return pattern
    found = find_configs(Path(pattern), here)
    if found == [Path(pattern).as_posix()]:
        return str(here / pattern)  # a file, as it stands
    return os.path.join(glob.escape(str(here)), pattern) if found else pattern


CONFIGS = click.option(
    "--configs",
    cls=ConfigsOption,
    default=DEFAULT_CONFIGS,
    show_default=True,
    metavar="GLOB",
    help=WHICH,
)
KNOWN_CONFIGS = click.option(
    "--configs",
    cls=ConfigsOption,
    metavar="GLOB",
    help=f"{WHICH} [default: those of the last manager, else {DEFAULT_CONFIGS}]",
)
