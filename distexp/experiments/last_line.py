"""The line of a program's output that says how it ended.

Mostly the last one. Programs of Hydra, absl, tyro and typer end with a pointer to their help, or in a frame.
"""

import re

from distexp.text import one_line

MAX_QUOTED_CHARS = 500  # of a line, in an error: the log has it all
_POINTER = re.compile(r"(?i)^(?!.*(?<!_)error\b).*(--help(short|full)?\b|HYDRA_FULL_ERROR|^see https?://)")


class LastLine:
    """Takes the lines of an output as they come."""

    def __init__(self) -> None:
        """Know of no line yet."""
        self._last = self._before = ""  # `_before`: the last line that is neither a pointer nor indented
        self._framed = ""  # the first line in the last frame

    def take(self, line: str) -> None:
        """Take a line without its end; a progress bar has its last state behind the last `\\r`."""
        text = line.lstrip("\ufeff").rstrip().rpartition("\r")[2][:MAX_QUOTED_CHARS]
        is_framed, said = text.startswith(("╭", "│", "╰")), text.strip("╭│╰╮╯─ \t")
        if text.startswith("╭") or not is_framed:
            self._framed = ""
        if not any(map(str.isalnum, said)):
            return
        if text.startswith("│"):
            self._framed = self._framed or said
        self._last = (is_framed and self._framed) or said
        if not is_framed and not text[0].isspace() and not _POINTER.search(said):
            self._before = said

    @property
    def text(self) -> str:
        """The line, made harmless; empty where none holds a letter or digit."""
        is_pointer = _POINTER.search(self._last)
        return one_line(self._before if is_pointer and self._before else self._last)
