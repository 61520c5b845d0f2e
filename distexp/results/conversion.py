"""Converts whatever an experiment returns into metrics that can stand in a row. Refuses nothing.

Pure: no files, no clock.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from distexp.results.row import RENAMED, names_taken
from distexp.task import RowRule, Scalar, Task
from distexp.text import clean_text, cut

MAX_TEXT_CHARS = 32_767  # of one metric: a spreadsheet cell holds no more
MAX_ROW_BYTES = 256 * 1024  # of all metrics together, as JSON: four of them fit into a message of 1 MiB
MAX_METRICS = 1_000  # in a row: half the columns that a results file may have
MAX_NAME_CHARS = 200
MAX_DEPTH = 20  # of nested mappings; what is deeper stands as JSON
NO_NAME = "result"  # the column of a result without names
NO_METRICS = "returned no metrics; its row holds none"
NO_JSON = (
    "printed no JSON object, so its row has no metrics: print one as a line, or write it to $DISTEXP_RESULT"
)
BYTES = (bytes, bytearray, memoryview)
INT64 = range(-(2**63), 2**64)  # what every JSON library carries exactly; longer ones travel as text

Form = TypeVar("Form")


class Converted(NamedTuple):
    """What stands in the row, and what does not."""

    metrics: dict[str, Scalar]
    notes: tuple[str, ...] = ()  # one line for each thing that the row shows differently
    is_cut: bool = False  # the row does not hold all of the result: it belongs into `result.json`


def convert(task: Task, result: Any, rule: RowRule | None = None) -> Converted:
    """Return the metrics of a result; converted again, they stay as they are.

    Nested mappings are flattened (`test.acc`); a number or text alone becomes the metric `result`; lists and
    everything else become JSON. Names that are taken, as `names_taken` says, end in `_result`.
    """
    if result is None:
        return Converted({}, (NO_JSON if task.command else NO_METRICS,))
    named = _first(lambda: _named(result), lambda: [(NO_NAME, result)])
    notes: list[str] = [] if named else [NO_METRICS]
    fitting = list(_fitting(named))
    metrics = _renamed(names_taken(task, rule), fitting, notes)
    is_cut = len(named) > len(fitting)
    if is_cut:
        notes.append(f"more than {len(fitting)} metrics: the row holds the first of them, result.json all")
    if too_long := _cut(metrics):
        names = cut(", ".join(too_long), MAX_NAME_CHARS)
        notes.append(f"too long for its row, and cut there: {names}; result.json holds all of it")
    return Converted(metrics, tuple(notes), is_cut or bool(too_long))


def _named(result: Any) -> list[tuple[str, Any]]:
    plain = _plain_mapping(result)
    if plain is None:
        return [(NO_NAME, result)]
    return list(islice(_flattened(plain, "", MAX_DEPTH), MAX_METRICS + 1))


def _fitting(named: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the first metrics, as many as a row may have and as their names leave room for values."""
    left = MAX_ROW_BYTES // 2
    for name, value in named[:MAX_METRICS]:
        left -= _name_bytes(_clean_name(name))
        if left < 0:
            return
        yield name, value


def whole_json(result: Any) -> str:
    """Return a result as JSON, nothing cut; what JSON does not know stands as text."""
    return _first(
        lambda: json.dumps(_jsonable(result), default=_jsonable_or_text, indent=1),
        lambda: json.dumps(_text_of(result)),  # it holds itself, or nests without end
    )


def _flattened(mapping: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        name = f"{prefix}{_text_of(key)}"
        nested = _plain_mapping(value) if depth else None
        if nested:
            yield from _flattened(nested, f"{name}.", depth - 1)
        else:
            yield name, value


def _plain_mapping(value: Any) -> Mapping[Any, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named tuple
        return _plain_mapping(value._asdict())
    return value if isinstance(value, Mapping) else None


def _renamed(taken: Set[str], named: list[tuple[str, Any]], notes: list[str]) -> dict[str, Scalar]:
    """Return the values by names that are free; names that are good as they are go before changed ones."""
    wanted = [_clean_name(name) for name, _ in named]
    used = {name for name in wanted if name not in taken}
    metrics: dict[str, Scalar] = {}
    for name, (_, value) in zip(wanted, named, strict=True):
        free = name
        while free in taken or free in metrics or (free != name and free in used):
            free += RENAMED
        if free != name:
            notes.append(f"metric {name!r} is called like another column, and stands in column {free!r}")
        metrics[free] = _cell(value)
    return metrics


def _clean_name(name: str) -> str:
    return " ".join(clean_text(name).split())[:MAX_NAME_CHARS].strip() or NO_NAME


def _cell(value: Any) -> Scalar:
    return _first(lambda: _scalar(value), lambda: clean_text(_text_of(value)))


def _scalar(value: Any) -> Scalar:
    """Return a value as a cell may hold it. None is an empty cell, and so is an empty text."""
    value = number_of(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int):
        plain = int(value)  # `range` would compare a subclass, such as an IntEnum, number by number
        return plain if plain in INT64 else _text_of(plain)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return clean_text(str(value) if isinstance(value, str) else _json_of(value))


def number_of(value: Any) -> Any:
    """Return a number of NumPy or torch as one of Python; anything else as it is."""
    if type(value) in (bool, int, float, str, type(None)):
        return value
    return _first(lambda: value.item(), lambda: value)  # noqa: PLW0108 - most values have no `item`


def _json_of(value: Any) -> str:
    """Return a value as JSON, or as its own text where it is no list, mapping or array."""

    def as_json() -> str:
        text = json.dumps(_jsonable(value), default=_jsonable_or_text, ensure_ascii=False)
        return str(json.loads(text)) if text.startswith('"') else text  # a date or a path, say

    return _first(as_json, lambda: _text_of(value))  # the latter: it holds itself, or nests without end


def _jsonable(value: Any) -> Any:
    """Return a value whose keys are texts, down to where `json` asks again."""
    plain = _plain_mapping(value)
    if plain is not None:
        return {_text_of(name): _jsonable(item) for name, item in plain.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _jsonable_or_text(value: Any) -> Any:
    if isinstance(value, Set | Sequence | ValuesView) and not isinstance(value, BYTES):
        return _jsonable(list(value))
    return _first(lambda: _jsonable(value.tolist()), lambda: _text_of(value))  # arrays of NumPy and torch


def _text_of(value: Any) -> str:
    def without_its_help() -> str:  # Python writes 4300 digits at most; a user's class may raise anything
        return hex(value) if type(value) is int else f"<{type(value).__name__}>"

    return _first(lambda: str(value), without_its_help)


def _first(preferred: Callable[[], Form], otherwise: Callable[[], Form]) -> Form:
    """Return what `preferred` makes of a value, else what `otherwise` makes of it."""
    try:
        return preferred()
    except Exception:  # noqa: BLE001 - around methods of the user's classes, which may raise anything
        return otherwise()


def _cut(metrics: dict[str, Scalar]) -> list[str]:
    """Cut texts in place until all fit into a row; return the names of those that were cut."""
    texts = {name: value for name, value in metrics.items() if isinstance(value, str)}
    short = {name: text[:MAX_TEXT_CHARS] for name, text in texts.items()}
    sizes = {name: _json_bytes(text) for name, text in short.items()}
    others = sum(map(_name_bytes, metrics))
    limit = _common_limit(list(sizes.values()), MAX_ROW_BYTES - others)
    for name, text in short.items():
        if sizes[name] > limit:
            short[name] = _first_bytes(text, limit)
    metrics |= short
    return [name for name, text in short.items() if text != texts[name]]


def _common_limit(sizes: list[int], budget: int) -> int:
    """Return the greatest size to which all longer ones must be cut for the sum to stay within budget."""
    left, count = max(0, budget), len(sizes)
    for size in sorted(sizes):
        if size * count > left:
            return left // count
        left -= size
        count -= 1
    return max(sizes, default=0)


def _name_bytes(name: str) -> int:
    return _json_bytes(name) + 24  # a number, and what stands around it


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _first_bytes(text: str, limit: int) -> str:
    """Return the longest beginning of a text that has at most `limit` bytes as JSON."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _json_bytes(text[:middle]) <= limit else (low, middle - 1)
    return text[:low]
