"""The columns of the table: in which order, which are hidden, and that nothing of a cell is lost."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from distexp.reporting.table import cells_of, table_of
from distexp.results.audit import FileAudit, Row
from distexp.sweep.config import parse_config

SWEEP = """
defaults: {output_dir: ./results, experiment: "mine:run", epochs: 3}
renamed_from: {lr: [learning_rate]}
p: {combinations: [{width: [1, 2]}, {lr: [0.1, 0.2]}]}
"""


def packed(
    columns: Sequence[str], *rows: Sequence[str], metrics: Sequence[str] = ("acc",)
) -> list[dict[str, Any]]:
    file = FileAudit(path="f", columns=tuple(columns), rows=[Row(list(row), []) for row in rows])
    return table_of(cells_of([file]), metrics, parse_config(SWEEP, "f.yaml"))


def unpacked(column: dict[str, Any]) -> list[Any]:
    """Read the cells as the page does."""
    if "floats" in column:
        floats = np.frombuffer(base64.b64decode(column["floats"]), "<f8")
        return [column["others"].get(at, None if np.isnan(each) else each) for at, each in enumerate(floats)]
    bits = column["places"]["bits"]
    places = np.frombuffer(base64.b64decode(column["places"]["data"]), f"<u{bits // 8}")
    return [column["distinct"][at] for at in places]


def test_axes_come_first_then_the_seed_the_metrics_and_last_what_is_ours() -> None:
    names = (
        "host",
        "task_id",
        "note",
        "duration_s",
        "acc",
        "epochs",
        "seed",
        "learning_rate",
        "width",
        "phase",
    )
    first, second = [f"{at}1" for at in range(10)], [f"{at}2" for at in range(10)]
    found = packed(names, first, second, metrics=("acc", "duration_s"))
    shown = [column["name"] for column in found]
    assert shown == [
        "phase",
        "width",
        "learning_rate",
        "seed",
        "acc",
        "duration_s",
        "note",
        "epochs",
        "host",
        "task_id",
    ]


def test_what_never_varies_and_where_a_row_was_made_are_hidden_at_first() -> None:
    found = packed(("width", "acc", "host", "task_id"), ("1", "5", "ada", "a"), ("2", "5", "eve", "b"))
    assert [column["name"] for column in found if column["hidden"]] == ["acc", "host"]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["0.1234567890123456", "5e-324", "1e300"], [0.1234567890123456, 5e-324, 1e300]),
        (["0.1", "", "nan", "inf", "0.2"], [0.1, None, "nan", "inf", 0.2]),
        (["9007199254740993", "1", "2"], ["9007199254740993", 1, 2]),  # no float holds it
        (["1", "1", "1", "2", ""], [1, 1, 1, 2, None]),
        (["a", "1", "", "a"], ["a", "1", "", "a"]),
        (["True", "False", "True"], ["True", "False", "True"]),
        ([str(at % 300) for at in range(900)], [at % 300 for at in range(900)]),
        ([f"t{at % 70000}" for at in range(70001)], [f"t{at % 70000}" for at in range(70001)]),
        ([], []),
    ],
)
def test_every_cell_comes_out_as_it_went_in(cells: list[str], values: list[Any]) -> None:
    (column,) = packed(("acc",), *[[cell] for cell in cells])
    assert unpacked(column) == values
