"""What flags take: a folder that is there, one of some words."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from distexp.errors import UserError


class Folder(click.Path):
    """A working folder: one that is there."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return its path."""
        if not Path(value).is_dir():
            raise UserError(f"--workdir {value}: no such folder; name that of your configs and results")
        return Path(value)


class OneOf(click.Choice[str]):
    """One of some words; another is answered by the one like it."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return what is wrong with the word."""
        close = get_close_matches(str(value), self.choices, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{super().get_invalid_choice_message(value, ctx)}{hint}"
