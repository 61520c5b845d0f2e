"""Any result is kept: what is returned becomes metrics that a row can hold, and nothing is refused."""

import dataclasses
import datetime
import enum
import json
import math
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from distexp.results.conversion import MAX_METRICS, MAX_ROW_BYTES, MAX_TEXT_CHARS, convert, whole_json
from distexp.results.row import row_for
from distexp.task import Provenance
from tests.row_cases import a_task
from tests.support import examples


@dataclasses.dataclass
class Scores:
    """A result as a class of the user's."""

    acc: float
    loss: float


class Pair(NamedTuple):
    """A result as a named tuple."""

    acc: float
    loss: float


class Level(enum.IntEnum):
    """Numbers with names."""

    HIGH = 2


@pytest.mark.parametrize(
    ("result", "metrics"),
    [
        ({"acc": 0.5, "n": 10, "ok": True, "best": "a,b"}, {"acc": 0.5, "n": 10, "ok": True, "best": "a,b"}),
        ({"acc": 0.9, "early_stop_epoch": None}, {"acc": 0.9, "early_stop_epoch": ""}),
        ({"test": {"acc": 0.9, "by": {"cat": 1}}}, {"test.acc": 0.9, "test.by.cat": 1}),
        ({"test": {}}, {"test": "{}"}),
        ({"history": [0.5, None, {"a": np.float32(1)}]}, {"history": '[0.5, null, {"a": 1.0}]'}),
        ({"curve": np.arange(3), "one": np.array([0.25])}, {"curve": "[0, 1, 2]", "one": 0.25}),
        ({"acc": np.float32(0.5), "ok": np.bool_(True)}, {"acc": 0.5, "ok": True}),
        ({"loss": math.nan, "worst": -math.inf}, {"loss": "nan", "worst": "-inf"}),
        ({"last": deque([1, 2]), "all": {1: 0.5}.values()}, {"last": "[1, 2]", "all": "[0.5]"}),
        ({"level": Level.HIGH, Level.HIGH: b"raw"}, {"level": 2, "2": "b'raw'"}),
        ({"tags": ("a", "b"), "only": {3}}, {"tags": '["a", "b"]', "only": "[3]"}),
        ({"day": datetime.date(2026, 1, 2), "file": Path("a/b")}, {"day": "2026-01-02", "file": "a/b"}),
        ({7: 1, (1, 2): 3, " acc ": 4, "": 5}, {"7": 1, "(1, 2)": 3, "acc": 4, "result": 5}),
        ({"big": 2**64, "small": -(2**63)}, {"big": str(2**64), "small": -(2**63)}),
        ({"text": "a\0b\ud800c"}, {"text": "a\ufffdb\ufffdc"}),
        ({"a\0b\n\ud800": 1}, {"a\ufffdb \ufffd": 1}),
        (Scores(0.5, 2.0), {"acc": 0.5, "loss": 2.0}),
        (Pair(0.5, 2.0), {"acc": 0.5, "loss": 2.0}),
        (0.9, {"result": 0.9}),
        (np.float64(0.9), {"result": 0.9}),
        (True, {"result": True}),
        ("done", {"result": "done"}),
        ([1, 2], {"result": "[1, 2]"}),
        (None, {}),
        ({}, {}),
    ],
)
def test_any_result_becomes_metrics(result: Any, metrics: dict[str, Any]) -> None:
    found = convert(a_task(), result).metrics
    assert found == metrics
    assert [type(value) for value in found.values()] == [type(value) for value in metrics.values()]


@pytest.mark.parametrize("name", ["width", "seed", "task_id", "duration_s", "git_commit"])
def test_a_metric_called_like_another_column_gets_result_at_its_end(name: str) -> None:
    converted = convert(a_task(), {f"{name}_result": 1, name: 2})
    assert converted.metrics == {f"{name}_result": 1, f"{name}_result_result": 2}
    assert converted.notes == (
        f"metric '{name}' is called like another column, and stands in column '{name}_result_result'",
    )


def test_a_result_without_metrics_is_said_in_one_line() -> None:
    for result in (None, {}):
        assert convert(a_task(), result).notes == ("returned no metrics; its row holds none",)
    command = structs.replace(a_task(), command="python train.py")
    (note,) = convert(command, None).notes
    assert note.startswith("printed no JSON object, so its row has no metrics: ")
    assert convert(a_task(), {"acc": 1}).notes == ()


def test_what_holds_itself_or_raises_is_kept_as_text() -> None:
    class Odd:
        def __str__(self) -> str:
            raise KeyError("no text")

    endless: dict[str, Any] = {}
    endless["again"] = endless
    loop: list[Any] = []
    loop.append(loop)
    converted = convert(a_task(), {"odd": Odd(), "huge": 2**20_000, "loop": loop, "endless": endless})
    assert converted.metrics["odd"] == "<Odd>"
    assert str(converted.metrics["huge"]).startswith("0x1000")
    assert converted.metrics["loop"] == "[[...]]"
    assert whole_json({"loop": loop})


def test_a_result_whose_parts_raise_is_kept_as_far_as_it_can_be_read() -> None:
    class Name:
        def __str__(self) -> str:
            raise KeyError("no text")

    class Closed(dict[str, int]):
        def items(self) -> Any:
            raise OSError("closed")

    incomplete = Scores(0.5, 2.0)
    del incomplete.loss
    assert convert(a_task(), {Name(): 1, "ok": 2}).metrics == {"<Name>": 1, "ok": 2}
    assert convert(a_task(), Closed(a=1)).metrics == {"result": "{'a': 1}"}
    assert convert(a_task(), incomplete).metrics == {"acc": 0.5, "loss": ""}


def test_a_long_text_is_cut_in_the_row_and_whole_in_json() -> None:
    result = {"acc": 1, "log": "x" * (MAX_TEXT_CHARS + 1)}
    converted = convert(a_task(), result)
    assert converted.metrics == {"acc": 1, "log": "x" * MAX_TEXT_CHARS}
    assert converted.is_cut
    assert converted.notes == ("too long for its row, and cut there: log; result.json holds all of it",)
    assert json.loads(whole_json(result)) == result


@pytest.mark.parametrize("letter", ["x", "\U0001f600", "\x01", '"'])
def test_of_many_long_texts_the_longest_are_cut_until_all_fit_into_a_message(letter: str) -> None:
    converted = convert(a_task(), {f"t{i}": letter * 32_760 for i in range(20)} | {"short": "whole"})
    assert converted.metrics["short"] == "whole"
    assert all(converted.metrics.values())
    assert (
        0.9 * MAX_ROW_BYTES < len(json.dumps(converted.metrics, ensure_ascii=False).encode()) <= MAX_ROW_BYTES
    )


def test_of_very_many_metrics_the_first_stand_in_the_row() -> None:
    converted = convert(a_task(), {f"m{i}": i for i in range(MAX_METRICS + 5)})
    assert list(converted.metrics) == [f"m{i}" for i in range(MAX_METRICS)]
    assert converted.is_cut


@pytest.mark.parametrize("letter", ["x", "\U0001f600", "\x01"])
def test_of_metrics_with_long_names_the_first_stand_in_a_row_that_fits_into_a_message(letter: str) -> None:
    result = {letter * 190 + str(i): "text" * 100 for i in range(MAX_METRICS)}
    converted = convert(a_task(), result)
    assert list(converted.metrics) == list(result)[: len(converted.metrics)]
    assert 50 < len(converted.metrics) < MAX_METRICS
    assert all(converted.metrics.values())
    assert len(json.dumps(converted.metrics, ensure_ascii=False).encode()) <= MAX_ROW_BYTES
    assert converted.is_cut
    assert all(len(note) < 500 for note in converted.notes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@examples(60)
@given(JSON | st.dictionaries(st.sampled_from(["width", "seed", "a", "a.b", "seed_result"]), JSON))
def test_a_converted_result_stays_as_it_is_and_stands_in_its_row(result: Any) -> None:
    task = a_task()
    metrics = convert(task, result).metrics
    assert convert(task, metrics).metrics == metrics
    row = row_for(task, metrics, Provenance())
    assert (row["width"], row["seed"]) == ("4", str(task.seed)) or row["width"] == str(task.config["width"])
    "".join(row.values()).encode()
    assert "\0" not in "".join(row.values())
