import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distexp.results.row import cell_text, copied_row, row_for
from distexp.task import Provenance
from tests.row_cases import RUN, a_row, a_task, cell_matches
from tests.support import examples

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS)


def test_a_row_holds_identity_parameters_metrics_and_provenance_in_this_order() -> None:
    row = row_for(a_task(width=4, lr=5e-4), {"test_acc": 0.1 + 0.2, "converged": True}, RUN)
    assert list(row.items()) == [
        ("phase", "exp1"),
        ("task_id", "exp1_4_42"),
        ("width", "4"),
        ("lr", "0.0005"),
        ("seed", "42"),
        ("test_acc", "0.30000000000000004"),
        ("converged", "True"),
        ("peak_gpu_mib", ""),
        ("torch_version", "2.13.0"),
        ("python_version", "3.11.2"),
        ("git_commit", "c0ffee"),
        ("git_dirty", "False"),
        ("attempt", "1"),
        ("worker", "cpu0"),
        ("host", "node1"),
        ("device", "cpu"),
        ("started_utc", "2026-01-01T00:00:00Z"),
        ("duration_s", "1.25"),
    ]


def test_a_parameter_named_like_a_provenance_column_wins() -> None:
    row = row_for(a_task(device="tpu"), {}, RUN)
    assert row["device"] == "tpu"
    assert list(row).index("device") < list(row).index("seed")


def test_texts_about_the_run_are_made_writable() -> None:
    row = row_for(a_task(), {}, Provenance(host="a\0b\ud800", device="x" * 100_000))
    assert row["host"] == "a\ufffdb\ufffd"
    assert len(row["device"]) == 32_767


def test_a_duplicate_gets_the_row_under_its_own_name() -> None:
    done, duplicate = a_task(lr=0.1), a_task(lr=0.1, phase="exp2", axes=("lr",))
    row = a_row(done, test_acc=0.5)[1] | {"other_phase_axis": "", "note": "by hand"}
    copy = copied_row(done, duplicate, row)
    assert copy == {n: c for n, c in a_row(duplicate, test_acc=0.5)[1].items() if c} | {"note": "by hand"}
    assert list(copy)[-1] == "duration_s"


@examples(40)
@given(VALUES)
@example(float("nan"))
@example("007")
@example("nan")
@example("")
@example(2**53 + 1)
@example([0.1 + 0.2, {"a": float("inf")}])
def test_every_value_matches_its_own_cell(value: Any) -> None:
    assert cell_matches(value, cell_text(value))


@examples(40)
@given(st.floats())
def test_a_float_comes_back_bit_for_bit(value: float) -> None:
    back = float(cell_text(value))
    assert back.hex() == value.hex() or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.3, "0.30"),
        (100, "100.0"),
        (100.0, "100"),
        (5e-4, "0.0005"),
        (1e-4, "1E-4"),
        (42, " 42"),
        (42, "+42.000"),
        (10**23, "1e23"),
        (True, "TRUE"),
        (False, "false"),
        (None, ""),
        (None, "null"),
        (None, "None"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        ([1, 2], "[1,2.0]"),
        ({"a": 1, "b": [True]}, '{"b": [true], "a": 1.0}'),
    ],
)
def test_a_cell_matches_a_value_however_it_is_spelled(value: Any, cell: str) -> None:
    assert cell_matches(value, cell)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("007", "7"),
        ("relu", "ReLU"),
        ("a", " a"),
        (7, "seven"),
        (0.1 + 0.2, "0.3"),
        (2**53 + 1, "9007199254740992.0"),
        (10**23, "99999999999999991611392"),
        (True, "1"),
        (1, "True"),
        (0, ""),
        ("", "null"),
        (float("nan"), ""),
        (1000, "1_000"),
        (1, "\u0661"),
        (1, "1e99999999999999999999"),
        (1, "1e999999999"),
        ([1, 2], "[1, 3]"),
        ([1], "[" * 100_000),
    ],
)
def test_a_cell_of_another_value_does_not_match(value: Any, cell: str) -> None:
    assert not cell_matches(value, cell)
