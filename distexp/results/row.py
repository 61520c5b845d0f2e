"""Rows of results: building one, checking what goes in, and saying which cell holds which value.

Pure: no files, no clock.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation

from distexp.task import Provenance, Scalar, Task, Value, canonical

Form = tuple[str, object]  # a value's kind and normal form; hashable, equal for equal values

IDENTITY = ("phase", "task_id", "seed")
CAPTURED = (
    "peak_gpu_mib",
    "torch_version",
    "python_version",
    "git_commit",
    "git_dirty",
)  # a metric may take the name
PROVENANCE = ("attempt", "worker", "host", "device", "started_utc", "duration_s")
MAX_TEXT_CHARS = 32_767  # of one metric: a spreadsheet cell holds no more
MAX_RESULT_CHARS = 262_144  # of all metrics together: a message of 1 MiB must hold them, escapes included
MAX_INTEGER_BITS = 1024  # what a float can hold; pandas reads longer ones as text
MAX_NUMBER_CHARS = 400  # a cell longer than this is no number: bounds the cost of exact comparison

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?")


def row_for(task: Task, result: Mapping[str, Scalar], run: Provenance) -> dict[str, str]:
    """Return the cells of one row by column, in the order in which a new file gets its columns.

    Phase, task_id, every parameter, seed, the metrics, then the provenance. A parameter named like a
    provenance column keeps its place, and that provenance is left out; a metric may have the name of one of
    `CAPTURED`, with the same effect. `duration_s` comes last because its
    digits may be lost in a torn write without harm.
    """
    row = {"phase": task.phase, "task_id": task.task_id}
    row |= {name: cell_text(value) for name, value in task.config.items()}
    row["seed"] = cell_text(task.seed)
    row |= {name: cell_text(value) for name, value in result.items()}
    about = {name: getattr(run, name) for name in (*CAPTURED, *PROVENANCE) if name not in row}
    return row | {name: "" if value is None else cell_text(value) for name, value in about.items()}


def copied_row(done: Task, duplicate: Task, row: Mapping[str, str]) -> dict[str, str]:
    """Return the row of `done` as a row of `duplicate`, which asks for the same work in another phase."""
    copy = {"phase": duplicate.phase, "task_id": duplicate.task_id}
    copy |= {name: cell_text(value) for name, value in duplicate.config.items()}
    copy["seed"] = cell_text(duplicate.seed)
    rest = {name: cell for name, cell in row.items() if cell and name not in copy and name not in done.config}
    last = {name: rest.pop(name) for name in PROVENANCE if name in rest}
    return copy | rest | last


def check_result(task: Task, result: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the result as a plain dict, once every metric of it can stand in the task's row.

    Raises:
        ValueError: One line: task and metric, what was found, what was expected.
    """
    if not isinstance(result, Mapping):
        found = type(result).__name__
        raise ValueError(
            f"{task.task_id}: result: found {found}, expected a mapping such as {{'test_acc': 0.9}}"
        )
    for name, value in result.items():
        if problem := _name_problem(task, name) or _value_problem(value):
            raise ValueError(f"{task.task_id}: metric {name!r}: {problem}")
    chars = sum(len(name) + len(str(value)) for name, value in result.items())
    if chars > MAX_RESULT_CHARS:
        raise ValueError(
            f"{task.task_id}: result: found {chars} characters, expected at most {MAX_RESULT_CHARS}; "
            "write long texts to a file in output_dir"
        )
    return dict(result)


def _name_problem(task: Task, name: object) -> str:
    if not isinstance(name, str):
        return f"found a name of type {type(name).__name__}, expected a str"
    if name in task.config:
        return "found the name of a parameter, expected another name"
    if name in IDENTITY or name in PROVENANCE:
        return "found the name of a column that is filled in for every row, expected another name"
    if not name or name != name.strip() or "\0" in name:
        return "found a name that is empty or has blanks around it, expected one such as test_acc"
    return ""


def _value_problem(value: object) -> str:
    if type(value) not in (bool, int, float, str):
        return f"found {type(value).__name__}, expected bool, int, float or str"
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return f"found an integer of {value.bit_length()} bits, expected at most {MAX_INTEGER_BITS}"
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
        return f"found a text of {len(value)} characters, expected at most {MAX_TEXT_CHARS}"
    if isinstance(value, str) and "\0" in value:
        return "found a NUL character, expected text"
    return ""


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
