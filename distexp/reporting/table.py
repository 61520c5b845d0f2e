"""The table of all rows: columns in the order that people look for, packed so that a browser reads them fast.

A number keeps every digit. A column of many different numbers is float64, any other one its different cells
and the place of each row's among them, both as base64. Pure.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from distexp.results.audit import FileAudit
from distexp.results.row import PREFIXES, STOPPED_AT, is_ours
from distexp.sweep.config import Phase
from distexp.text import number_in

MEASURED = ("duration_s", "peak_gpu_mib")  # ours, and as good as a metric
FIRST_INEXACT = 2**53  # whole numbers from here on are not all floats: they stay texts
_NO_NUMBERS = {"", "nan", "inf", "-inf"}  # what a column of numbers may hold besides
_TRUTH = {"True": 1.0, "False": 0.0}  # its mean is a share
_GROUPS = ("phase", "axis", "seed", "metric", "result", "parameter", "ours")  # the order of the columns


@dataclass(frozen=True)
class Cells:
    """One column over all rows."""

    distinct: Sequence[str]  # its different cells
    places: Any  # of each row's cell among them

    @classmethod
    def of(cls, cells: Sequence[str]) -> Self:
        """Find the different ones."""
        places, distinct = pd.factorize(np.array(cells, dtype=object))
        return cls([*distinct], places)

    def each(self) -> list[str]:
        """Return the cell of every row."""
        return [self.distinct[at] for at in self.places]

    @cached_property
    def read(self) -> list[float | None]:
        """The number that each different cell holds, if any."""
        return [number_in(cell) for cell in self.distinct]

    def numbers(self) -> Any:
        """Return the number of every row, 1 and 0 for True and False, NaN for no number."""
        pairs = zip(self.distinct, self.read, strict=True)
        found = [math.nan if number is None else number for number in (_TRUTH.get(c, n) for c, n in pairs)]
        return np.array(found)[self.places]

    def has_numbers(self) -> bool:
        """Return whether any cell is a number."""
        return any(cell in _TRUTH or number_in(cell) is not None for cell in self.distinct)

    def is_numeric(self) -> bool:
        """Return whether every cell is a number, but for empty ones and the like, and there is one."""
        pairs = zip(self.distinct, self.read, strict=True)
        return self.has_numbers() and all(n is not None or cell in _NO_NUMBERS for cell, n in pairs)


def cells_of(files: Sequence[FileAudit]) -> dict[str, Cells]:
    """Return every column of all files; the cells are empty where a file lacks it."""
    cells: dict[str, list[str]] = {column: [] for file in files for column in file.columns}
    for file in files:
        places = file.places()
        for name, found in cells.items():
            at = places.get(name)
            found.extend([""] * len(file.rows) if at is None else [row.fields[at] for row in file.rows])
    return {name: Cells.of(column) for name, column in cells.items()}


def table_of(
    cells: Mapping[str, Cells], metrics: Sequence[str], phases: Sequence[Phase]
) -> list[dict[str, Any]]:
    """Return the columns: phase, axes, seed, metrics, other results, other parameters, then what is ours."""
    axes = [column for phase in phases for name in phase.axes for column in columns_named(phase, name)]
    fixed = {column for phase in phases for name in phase.defaults for column in columns_named(phase, name)}
    places = {name: at for at, name in reversed([*enumerate(axes)])}
    found = []
    for name, column in cells.items():
        group = _group(name, metrics, axes, fixed)
        is_constant = len(column.distinct) <= 1
        is_hidden = is_constant or (group == "ours" and name not in ("task_id", STOPPED_AT))
        about = {"name": name, "group": group, "hidden": is_hidden, **_packed(column)}
        found.append(((_GROUPS.index(group), places.get(name, 0), name in MEASURED), about))
    return [about for _, about in sorted(found, key=lambda each: each[0])]


def columns_named(phase: Phase, parameter: str) -> list[str]:
    """Return the names that a column of this parameter may have, the best first."""
    names = (parameter, *phase.renamed_from.get(parameter, ()))
    return [prefix + name for name in names for prefix in PREFIXES]


def _group(name: str, metrics: Sequence[str], axes: Sequence[str], parameters: set[str]) -> str:
    if name in axes:
        return "axis"
    if name in parameters:
        return "parameter"
    if name in metrics:
        return "metric"
    if name in ("phase", "seed"):
        return name
    return "ours" if is_ours(name) else "result"


def _packed(column: Cells) -> dict[str, Any]:
    """Return the cells as the page reads them."""
    distinct, places = column.distinct, column.places
    if not column.is_numeric():
        return {"distinct": distinct, "number": False, "places": pack(places)}
    values = [_value(cell, number) for cell, number in zip(distinct, column.read, strict=True)]
    if len(distinct) <= len(places) / 2:
        return {"distinct": values, "number": True, "places": pack(places)}
    odd = [at for at, value in enumerate(values) if isinstance(value, str)]
    rows = np.flatnonzero(np.isin(places, odd)).tolist()
    floats = np.array([math.nan if isinstance(each, str) else each for each in values], "<f8")  # NaN of None
    return {"floats": _base64(floats[places]), "others": {row: distinct[places[row]] for row in rows}}


def _value(cell: str, number: float | None) -> float | int | str | None:
    """Return the cell as a number, or as a text that may stand among numbers; None for an empty one."""
    if number is None:
        return cell or None
    if abs(number) >= FIRST_INEXACT:
        return cell if cell.strip("+-").isdecimal() else number
    return int(number) if number.is_integer() else number


def pack(places: Any) -> dict[str, Any]:
    """Return whole numbers from 0 on, in as few bytes as the largest needs."""
    largest = int(places.max()) if len(places) else 0
    bits = 8 if largest < 1 << 8 else 16 if largest < 1 << 16 else 32
    return {"bits": bits, "data": _base64(places.astype(f"<u{bits // 8}"))}


def _base64(array: Any) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
