"""Which value a cell holds, whoever wrote it: pandas, a spreadsheet, W&B, Python or this package.

Pure. Cells are compared by the type of the task's value: whole numbers exactly; other numbers numerically, or
as the same float32; texts exactly, blanks around them aside, and a text that is a number in its shortest
spelling also as that number; booleans in any case and as 1 and 0; null as the usual words for it; lists and
mappings as JSON or as Python prints them.
"""

import ast
import bisect
import json
import math
import re
import struct
from array import array
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property

from distexp.task import Value, canonical
from distexp.text import cell_text

Form = tuple[str, object]  # a kind of comparison and what is compared; hashable

TEXTUAL = (str, list, dict)  # values whose cells may hold anything
NULLS = frozenset(["", "nan", "NaN", "None", "null", "NA"])
NOWHERE = -1  # the position of a cell that holds no value of the axis
SINGLE_WIDTH = 2**-22  # of a number: twice as far as two can be apart that are the same float32
MAX_NUMBER_CHARS = 400  # a longer cell is no number: bounds the cost of exact comparison
MAX_LITERAL_CHARS = 100_000  # of a list as Python prints it: its parser is slow
MAX_COMPARED = 1000  # values of an axis that are compared with each other ahead of need: some ms

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_NAN = re.compile(r"[+-]?nan", re.IGNORECASE)


def holds(value: Value, cell: str) -> bool:
    """Return whether the cell may hold the value."""
    return not set(value_forms(value)).isdisjoint(cell_forms(cell))


def value_forms(value: Value) -> tuple[Form, ...]:
    """Return how a cell may hold the value: it does if one of these is among its `cell_forms`."""
    match value:
        case None:
            return (("null", None),)
        case bool():
            return (("bool", value),)
        case int():
            return (("int", value),)
        case float():
            return (*_single(value), ("float", "nan" if math.isnan(value) else value))
        case str():
            text = value.strip()
            return (("str", text), *_shortest_number(text))
    return (("json", canonical(value)),)


def cell_forms(cell: str) -> tuple[Form, ...]:
    """Return everything that the cell may be: a text, and perhaps more."""
    text = cell.strip()
    forms: list[Form] = [("str", text)]
    if text in NULLS:
        forms.append(("null", None))
    if text in ("1", "1.0", "0", "0.0"):
        forms.append(("bool", text[0] == "1"))
    elif text.lower() in ("true", "false"):
        forms.append(("bool", text[0] in "tT"))
    if text[:1] in ("[", "{", "("):
        return (*forms, *_structure(text))
    return (*forms, *_number_forms(text)) if len(text) <= MAX_NUMBER_CHARS else tuple(forms)


def _structure(text: str) -> list[Form]:
    try:
        return [("json", canonical(json.loads(text)))]
    except (ValueError, RecursionError):
        pass  # it only looks like JSON, or nests without end
    try:
        value = ast.literal_eval(text) if len(text) <= MAX_LITERAL_CHARS else None
        return [("json", canonical(value))] if isinstance(value, list | dict | tuple) else []
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []


def _shortest_number(text: str) -> list[Form]:
    """Return the number that a text is, if no shorter text is the same number: not of "007" or "1.10"."""
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return []
    if text.lstrip("-").isdecimal():
        return [("int", int(text))] if str(int(text)) == text else []
    number = float(text)
    return [("float", number)] if repr(number) == text and not number.is_integer() else []


def _number_forms(text: str) -> list[Form]:
    if _NAN.fullmatch(text):
        return [("float", "nan")]
    if _INFINITE.fullmatch(text):
        return [("float", float(text))]
    if not _NUMBER.fullmatch(text):
        return []
    number = float(text)
    forms: list[Form] = [("float", number), *_single(number)]
    try:
        exact = Decimal(text)
    except InvalidOperation:
        return forms  # an exponent of twenty digits
    if exact.adjusted() <= MAX_NUMBER_CHARS and exact == int(exact):
        forms.append(("int", int(exact)))
    return forms


def _single(number: float) -> list[Form]:
    """Return the number as float32; nothing beyond its range, where all numbers look alike."""
    try:
        single = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return []
    return [("float32", single)] if math.isfinite(single) and single else []


class AxisReader:
    """Which value of an axis a cell holds: at most one.  Safe from any thread."""

    def __init__(self, values: Sequence[Value], absent: int | None = None) -> None:
        """Tell these values apart; `absent` is the position of null for tasks that lack the parameter."""
        self.values, self.absent = values, absent
        self._sorted = (
            _Sorted(values) if isinstance(values, array) else None
        )  # drawn numbers: too many for a dict
        self._by_form: dict[Form, list[int]] = {}
        self._nearby: dict[Form, list[int]] | None = None
        self.holds_text = False  # among them are texts, lists or mappings
        self._read = 0  # values whose forms are known
        if self._sorted is None:
            self.grow()

    def grow(self) -> None:
        """Take up the values that were appended since."""
        new = range(self._read, len(self.values))
        for position in new:
            value = self.values[position]
            self.holds_text |= isinstance(value, TEXTUAL)
            for form in value_forms(value):
                self._by_form.setdefault(form, []).append(position)
            if self._nearby is not None:
                for form in _coarse_forms(value):
                    self._nearby.setdefault(form, []).append(position)
        self._read = len(self.values)
        if self.__dict__.get("has_rivals") is False:
            self.has_rivals = any(self.rivals(self.values[position]) for position in new)

    def position(self, cell: str) -> int:
        """Return the position of the value that the cell holds, `NOWHERE` if it holds none.

        Where the cell could hold two values, its exact spelling decides.
        """
        found = self._fitting(cell)
        if len(found) > 1:
            found = {position for position in found if self._spelling(position) == cell}
        return found.pop() if len(found) == 1 else NOWHERE

    def fitting(self, cell: str) -> list[Value]:
        """Return the values that the cell could hold, if its exact spelling did not decide."""
        return [self.values[position] for position in sorted(self._fitting(cell))]

    def _fitting(self, cell: str) -> set[int]:
        forms = cell_forms(cell)
        if self._sorted is not None:
            near = {place for kind, what in forms if kind == "float" for place in self._sorted.near(what)}
            return {place for place in near if not set(value_forms(self.values[place])).isdisjoint(forms)}
        return {position for form in forms for position in self._by_form.get(form, ())}

    def _spelling(self, position: int) -> str:
        return "" if position == self.absent else cell_text(self.values[position])

    @cached_property
    def has_rivals(self) -> bool:
        """Whether a cell could hold two of the values; of very many it is not asked, and may be so."""
        return len(self.values) > MAX_COMPARED or any(self.rivals(value) for value in self.values)

    def rivals(self, value: Value) -> list[Value]:
        """Return the other values that a cell could hold as well as this one: few, if any."""
        coarse = _coarse_forms(value)
        if self._sorted is not None:
            near = self._sorted.near(value)
            places = {at for at in near if not coarse.isdisjoint(_coarse_forms(self.values[at]))}
        else:
            places = {place for form in coarse for place in self._near().get(form, ())}
        others = [self.values[place] for place in sorted(places)]
        return [each for each in others if canonical(each) != canonical(value)]

    def _near(self) -> dict[Form, list[int]]:
        """Return the positions of values by what a cell of theirs and another's could have in common."""
        if self._nearby is None:
            nearby: dict[Form, list[int]] = {}
            if not all(type(value) is int for value in self.values):
                for position, value in enumerate(self.values):
                    for form in _coarse_forms(value):
                        nearby.setdefault(form, []).append(position)
            self._nearby = nearby
        return self._nearby


class _Sorted:
    """Many numbers, found by value: a position each instead of an entry in a dict."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values
        self._order: Sequence[int] | None = None

    def near(self, number: object) -> Sequence[int]:
        """Return the positions of the values that are the same float32, and of few others beside them."""
        if not isinstance(number, int | float) or not math.isfinite(number):
            return ()
        if self._order is None:
            self._order = array("l", sorted(range(len(self._values)), key=self._values.__getitem__))
        width = abs(number) * SINGLE_WIDTH + 2**-148  # as far as tiny ones are apart
        low = bisect.bisect_left(self._order, number - width, key=self._values.__getitem__)
        high = bisect.bisect_right(self._order, number + width, key=self._values.__getitem__)
        return self._order[low:high]


def _coarse_forms(value: Value) -> set[Form]:
    """Return forms of which two values have one in common if a cell could hold both, or nearly so."""
    found = {*value_forms(value), *cell_forms(cell_text(value))}
    if isinstance(value, bool):
        found.add(("int", int(value)))
    if value is None:
        found |= {("str", text) for text in NULLS}
    return set(map(_coarse, found))


def _coarse(form: Form) -> Form:
    kind, what = form
    if kind not in ("int", "float", "float32") or what == "nan":
        return form
    try:
        return "number", struct.pack("f", float(str(what)) + 0.0)
    except OverflowError:
        return "number", "large"
