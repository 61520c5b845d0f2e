"""What a program reports while it runs: JSON lines with a `step`, printed or in `$DISTEXP_REPORT`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distexp.context import PROGRESS
from distexp.system.files import regular

REPORT_FILE = "report.jsonl"
_DEBUGGER_PROMPT = re.compile(r"^((\(Pdb\)|ipdb>) )+")  # before output: the user's Enter is no output
_BLANKS = re.compile(r"\s*")
MAX_PIECE_BYTES = 1024 * 1024  # of the file, read at once

_decoder = json.JSONDecoder()


class Reports:
    """Hands the reports of a program on, as they come."""

    def __init__(self, path: Path, report: Callable[..., None]) -> None:
        """Read the file at `path` when asked to; call `report` as `context.report` is called."""
        self._path, self._report = path, report
        self._offset = 0
        self.last_object: dict[str, Any] | None = None  # of the file

    def take(self, found: dict[str, Any]) -> None:
        """Report what a line holds; one without a step, a result say, is none."""
        step = found.get("step")
        if isinstance(step, int | float) and not isinstance(step, bool):
            metrics = {str(name): value for name, value in found.items() if name not in PROGRESS}
            self._report(step, found.get("total"), **metrics)

    def read_rest(self) -> None:
        """Report all that is left once the program has ended, also a last line without its end."""
        before = -1
        while self._offset != before:
            before = self._offset
            self.read_file(is_over=True)

    def read_file(self, *, is_over: bool = False) -> None:
        """Report the whole lines that were appended to the file since the last look."""
        try:
            with open(self._path, "rb", opener=regular) as file:
                file.seek(self._offset)
                piece = file.read(MAX_PIECE_BYTES)
        except OSError:
            return
        is_all = is_over or len(piece) == MAX_PIECE_BYTES  # a line as long as that is none of ours
        whole = piece[: piece.rfind(b"\n") + 1] or (piece if is_all else b"")
        self._offset += len(whole)
        for line in whole.splitlines():
            for found in json_objects(line.decode(errors="replace")):
                self.last_object = found
                self.take(found)


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that make up a line, mostly one; none if anything else stands there, too.

    There are several where processes share an output: a print is two writes, the text and the line end.
    """
    text = _DEBUGGER_PROMPT.sub("", text).strip()
    found, at = list[dict[str, Any]](), 0
    while text.startswith("{", at):
        try:
            each, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        found.append(each)
        at = _BLANKS.match(text, end).end()  # type: ignore[union-attr]  # it always matches
    return found if at == len(text) else []
