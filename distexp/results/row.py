"""Rows of results: building one, and saying which cell holds which value.

Pure: no files, no clock.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation

from distexp.task import Provenance, Scalar, Task, Value, canonical
from distexp.text import clean_text

Form = tuple[str, object]  # a value's kind and normal form; hashable, equal for equal values

IDENTITY = ("phase", "task_id", "seed")
CAPTURED = (
    "peak_gpu_mib",
    "torch_version",
    "python_version",
    "git_commit",
    "git_dirty",
)
PROVENANCE = ("attempt", "worker", "host", "device", "started_utc", "duration_s")
MAX_CELL_CHARS = 32_767  # of a text about the run: a spreadsheet cell holds no more
MAX_NUMBER_CHARS = 400  # a cell longer than this is no number: bounds the cost of exact comparison

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?")


def row_for(task: Task, result: Mapping[str, Scalar], run: Provenance) -> dict[str, str]:
    """Return the cells of one row by column, in the order in which a new file gets its columns.

    Phase, task_id, every parameter, seed, the metrics, then the provenance. A parameter named like a
    provenance column keeps its place, and that provenance is left out. `duration_s` comes last because its
    digits may be lost in a torn write without harm.

    Args:
        result: As `convert` returns it.
        run: As it came over the wire: its texts may hold anything.
    """
    row = {"phase": task.phase, "task_id": task.task_id}
    row |= {name: cell_text(value) for name, value in task.config.items()}
    row["seed"] = cell_text(task.seed)
    row |= {name: cell_text(value) for name, value in result.items()}
    about = {name: getattr(run, name) for name in (*CAPTURED, *PROVENANCE) if name not in row}
    return row | {name: "" if value is None else _about_cell(value) for name, value in about.items()}


def _about_cell(value: Scalar) -> str:
    return clean_text(cell_text(value))[:MAX_CELL_CHARS]


def copied_row(done: Task, duplicate: Task, row: Mapping[str, str]) -> dict[str, str]:
    """Return the row of `done` as a row of `duplicate`, which asks for the same work in another phase."""
    copy = {"phase": duplicate.phase, "task_id": duplicate.task_id}
    copy |= {name: cell_text(value) for name, value in duplicate.config.items()}
    copy["seed"] = cell_text(duplicate.seed)
    rest = {name: cell for name, cell in row.items() if cell and name not in copy and name not in done.config}
    last = {name: rest.pop(name) for name in PROVENANCE if name in rest}
    return copy | rest | last


def cell_text(value: Value) -> str:
    """Return the cell that holds `value`; `cell_forms` finds it there, and a float comes back bit for bit."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return repr(value)  # pandas reads True, 0.1, 1e-05, nan and inf as what they are
    return json.dumps(value, ensure_ascii=False)


def value_form(value: Value) -> Form:
    """Return the kind and normal form of a task's value: a cell holds it if this is among its `cell_forms`.

    So numbers are compared numerically (integers exactly, nan equals nan), strings exactly, booleans in any
    case, lists and mappings as JSON; None is an empty cell, `null` or `None`.
    """
    match value:
        case None:
            return ("null", None)
        case bool():
            return ("bool", value)
        case int():
            return ("int", value)
        case float():
            return ("float", "nan" if math.isnan(value) else value)  # nan is not equal to itself
        case str():
            return ("str", value)
    return ("json", canonical(value))


def cell_forms(cell: str) -> tuple[Form, ...]:
    """Return the form of every value that the cell may hold: it is a string, and perhaps more."""
    forms: list[Form] = [("str", cell)]
    text = cell.strip().lower()
    if text in ("", "null", "none"):
        forms.append(("null", None))
    elif text in ("true", "false"):
        forms.append(("bool", text == "true"))
    elif text[0] in "[{":
        with suppress(ValueError, RecursionError):  # it only looks like JSON, or nests without end
            forms.append(("json", canonical(json.loads(cell))))
    elif len(text) <= MAX_NUMBER_CHARS:
        forms += _number_forms(text)
    return tuple(forms)


def _number_forms(text: str) -> list[Form]:
    if text.lstrip("+-") == "nan":
        return [("float", "nan")]
    if _INFINITE.fullmatch(text):
        return [("float", float(text))]
    if not _NUMBER.fullmatch(text):
        return []
    forms: list[Form] = [("float", float(text))]
    try:
        exact = Decimal(text)
    except InvalidOperation:
        return forms  # an exponent of twenty digits
    if exact.adjusted() <= MAX_NUMBER_CHARS and exact == int(exact):
        forms.append(("int", int(exact)))
    return forms
