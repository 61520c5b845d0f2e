"""What flags take: a folder that is there, one of some words, some of the GPUs, numbers, `auto`."""

import math
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from distexp.errors import UserError
from distexp.task import MAX_SLOTS


class Folder(click.Path):
    """A working folder: one that is there."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return its path."""
        if not os.path.isdir(value):
            raise UserError(f"--workdir {value}: no such folder; name that of your configs and results")
        return Path(value)


class OneOf(click.Choice[str]):
    """One of some words; another is answered by the one like it."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return what is wrong with the word."""
        close = get_close_matches(str(value), self.choices, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{super().get_invalid_choice_message(value, ctx)}{hint}"


class IndexRanges(click.ParamType[tuple[int, ...]]):
    """Indices as people list them, `0-3,7`; becomes each once, in that order."""

    name = "IDS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the indices."""
        if isinstance(value, tuple):
            return value
        found: dict[int, None] = {}
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
            if match is None:
                self.fail(f"{value!r}: write indices of GPUs, such as 0-3,7", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"{value!r}: {part.strip()} counts down; write {last}-{first}", param, ctx)
            found |= dict.fromkeys(range(first, last + 1))
        return tuple(found)


class Number(click.types.FloatParamType):
    """A number; not nan, which is no less and no more than any other."""

    def __init__(self, *, is_finite: bool = False) -> None:
        """`is_finite`: not inf either."""
        self._is_finite = is_finite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number) or (self._is_finite and math.isinf(number)):
            self.fail(f"{value!r} is no number that could be meant here", param, ctx)
        return number


class CountOrAuto(click.ParamType[int | None]):
    """A number from 1 to `MAX_SLOTS`, or `auto`, which becomes None."""

    name = "K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number; None for `auto`."""
        if value is None or str(value).lower() == "auto":
            return None
        if re.fullmatch(r"[0-9]{1,9}", str(value)) is None or not 1 <= int(value) <= MAX_SLOTS:
            self.fail(f"{value!r}: write a number from 1 to {MAX_SLOTS}, or auto", param, ctx)
        return int(value)
