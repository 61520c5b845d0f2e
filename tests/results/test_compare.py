"""A cell holds a task's value however pandas, spreadsheets, W&B or Python write it; never two of an axis."""

import ast
import io
import json
import math
from array import array
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distexp.results.compare import NOWHERE, AxisReader, holds
from distexp.task import canonical
from distexp.text import cell_text
from tests.support import examples

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS)
NEAR = [  # values of which a cell might hold two
    *(0, 1, 2, 16777216, 16777217, 0.1, 0.30000000000000004, 0.3, float(np.float32(0.1)), 1.5, 16777216.5),
    *(True, False, None, "", "nan", "None", "NA", "true", "1", "1.0", "0", "007", "7", "0.1", "1.10", "1.1"),
    *(" a", "a", "[1, 2]", "{'a': 1}", [1, 2], [1.0, True], [1, True], {"a": 1}, {"a": None}, "1e-05", 1e-05),
]
CELLS = [
    *("0", "1", "1.0", "0.0", "+1", " 1 ", "0.1", "0.10", "0.10000000149011612", "0.3", "0.30", "16777217.0"),
    *(
        "True",
        "TRUE",
        "false",
        "",
        " ",
        "nan",
        "NaN",
        "None",
        "null",
        "NA",
        "NULL",
        "7",
        "7.0",
        "007",
        "1.10",
    ),
    *("a", " a ", "A", "[1, 2]", "[1,2.0]", "(1, 2)", "[1, True]", "[1, true]", "{'a': 1}", '{"a": 1}', "["),
    *("{'a': None}", '{"a": null}', "1e-05", "0.00001", "1E-5", "1_000", "\u0661", "0x1"),
]


def holds_literally(value: Any, cell: str) -> bool:
    """The rule on one value and one cell, without the forms that the product compares."""
    text = cell.strip()
    match value:
        case None:
            return text in ("", "nan", "NaN", "None", "null", "NA")
        case bool():
            return text.lower() == str(value).lower() or text in (("1", "1.0") if value else ("0", "0.0"))
        case str():
            return text == value.strip() or (is_shortest(value.strip()) and is_number(value.strip(), text))
        case int():
            return is_number(str(value), text)
        case float():
            return is_number(repr(value), text) or is_single(value, text)
    for read in (json.loads, ast.literal_eval):
        try:
            return canonical(read(text)) == canonical(value)
        except (ValueError, SyntaxError, TypeError):
            continue
    return False


def decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text) if text.isascii() and "_" not in text else None
    except InvalidOperation:
        return None


def is_number(one: str, other: str) -> bool:
    a, b = decimal(one), decimal(other)
    if a is None or b is None or a.is_nan() or b.is_nan():
        return a is not None and b is not None and a.is_nan() and b.is_nan()
    return a == b or (a != a.to_integral_value() and float(a) == float(b))


def is_shortest(text: str) -> bool:
    number = decimal(text)
    if number is None or not number.is_finite():
        return False
    shown = repr(float(text))
    return text == (shown.removesuffix(".0") if "e" not in shown or "." not in text else shown)


def is_single(value: float, text: str) -> bool:
    number = decimal(text)
    if number is None or not number.is_finite() or not math.isfinite(value):
        return False
    with np.errstate(over="ignore"):
        one, other = np.float32(value), np.float32(float(number))
    return bool(one == other and one != 0 and np.isfinite(one))


@examples(300)
@given(st.sampled_from(NEAR), st.sampled_from(CELLS))
def test_a_cell_holds_what_the_rule_says(value: Any, cell: str) -> None:
    assert holds(value, cell) == holds_literally(value, cell)


@examples(300)
@given(st.lists(st.sampled_from(NEAR), min_size=1, max_size=6, unique_by=(cell_text, canonical)), st.data())
def test_no_cell_holds_two_values_of_an_axis_and_exact_spelling_decides(
    values: list[Any], data: st.DataObject
) -> None:
    cell = data.draw(st.sampled_from([*CELLS, *map(cell_text, values)]))
    held = [at for at, value in enumerate(values) if holds_literally(value, cell)]
    if len(held) > 1:
        held = [at for at in held if cell_text(values[at]) == cell]
    assert len(held) <= 1
    assert AxisReader(values).position(cell) == (held[0] if held else NOWHERE)


@examples(200)
@given(st.lists(st.sampled_from(NEAR), min_size=2, max_size=6, unique_by=(cell_text, canonical)), st.data())
def test_a_value_and_its_rivals_decide_as_the_whole_axis_does(values: list[Any], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    cell = data.draw(st.sampled_from([*CELLS, *map(cell_text, values)]))
    axis = AxisReader(values)
    alone = AxisReader([values[at], *axis.rivals(values[at])])
    assert (alone.position(cell) == 0) == (axis.position(cell) == at)


@examples(60)
@given(VALUES)
@example(float("nan"))
@example("007")
@example("nan")
@example("")
@example(2**53 + 1)
@example([0.1 + 0.2, {"a": float("inf")}])
def test_every_value_is_held_by_its_own_cell(value: Any) -> None:
    assert holds(value, cell_text(value))


@examples(40)
@given(st.floats())
def test_a_float_comes_back_bit_for_bit(value: float) -> None:
    back = float(cell_text(value))
    assert back.hex() == value.hex() or (math.isnan(back) and math.isnan(value))


AXES = {
    "whole": [0, 1, 2, 2**40],
    "number": [0.1, 1e-5, 2.0, 1 / 3],
    "float32": [0.1, 0.2, 1 / 3],
    "truth": [True, False],
    "maybe": [1, 2, None],
    "truth or none": [True, False, None],
    "text": ["a", "B b", "x,y", 'q"'],
    "text of numbers": ["18", "0.5", "3"],
    "list": [[1, 2], [3.5], []],
    "mapping": [{"a": 1}, {"a": None, "b": [True]}],
}


@pytest.mark.parametrize("name", list(AXES))
@pytest.mark.parametrize("turns", [1, 2])
def test_what_pandas_makes_of_a_typed_column_and_back_still_counts(name: str, turns: int) -> None:
    values = AXES[name]
    frame = pd.DataFrame({"x": values * 2})
    if name == "float32":
        frame["x"] = frame["x"].astype("float32")
    for _ in range(turns):
        text = frame.to_csv(index=False)
        frame = pd.read_csv(io.StringIO(text), keep_default_na=name in ("maybe", "truth or none"))
    cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)["x"]
    axis = AxisReader(values)
    assert [axis.position(cell) for cell in cells] == [*range(len(values))] * 2


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.3, "0.30"),
        (0.1, "0.10000000149011612"),
        (100, "100.0"),
        (100.0, "100"),
        (1e-4, "1E-4"),
        (42, " 42"),
        (42, "+42.000"),
        (10**23, "1e23"),
        (True, "TRUE"),
        (True, "1"),
        (False, "0.0"),
        (None, ""),
        (None, "NA"),
        ("a", " a "),
        ("18", "18.0"),
        (float("-inf"), "-Infinity"),
        ([1, 2], "[1,2.0]"),
        ([1, None, "a"], "[1, None, 'a']"),
        ([1, 2], "(1, 2)"),
        ({"a": 1, "b": [True]}, "{'b': [True], 'a': 1.0}"),
    ],
)
def test_a_cell_holds_a_value_however_it_is_written(value: Any, cell: str) -> None:
    assert holds(value, cell)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("007", "7"),
        (7, "seven"),
        ("1.10", "1.1"),
        ("relu", "ReLU"),
        (0.1 + 0.2, "0.3001"),
        (16777216, "16777217"),
        (2**53 + 1, "9007199254740992.0"),
        (10**23, "99999999999999991611392"),
        (1, "True"),
        (True, "2"),
        (0, ""),
        ("", "null"),
        (float("nan"), ""),
        (1000, "1_000"),
        (1, "\u0661"),
        (1, "1e99999999999999999999"),
        (1, "1e999999999"),
        (1e-60, "2e-60"),
        ([1, 2], "[1, 3]"),
        ([1], "[" * 100_000),
        ([1], "__import__('os').getcwd()"),
    ],
)
def test_a_cell_of_another_value_does_not_hold_it(value: Any, cell: str) -> None:
    assert not holds(value, cell)


_NUMBERS = st.floats(-1e30, 1e30, allow_nan=False) | st.sampled_from([0.1, 1e-4, 0.0, 1.0, 1e-44, 0.25, 3e-8])
_SPELLINGS = st.sampled_from(["{!r}", "{:.6g}", "{:.8g}", "{:.17g}", "{:e}", " {!r} ", "x{!r}"])


@examples(200)
@given(st.lists(_NUMBERS, min_size=1, max_size=6, unique=True), st.data())
def test_many_numbers_are_found_as_few_are(values: list[float], data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(values) | _NUMBERS)
    near = [float(np.float32(number)), float(np.nextafter(number, 1)), number]
    cell = data.draw(_SPELLINGS).format(data.draw(st.sampled_from(near)))
    few, many = AxisReader(values), AxisReader(array("d", values))
    assert many.position(cell) == few.position(cell)
    assert many.rivals(number) == few.rivals(number)
