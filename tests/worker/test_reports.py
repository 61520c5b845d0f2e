"""No report ends a task: what can be carried is, the rest is left out with one warning."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from distexp.context import Context
from distexp.wire.framing import MAX_MESSAGE_BYTES, encode
from distexp.wire.messages import Heartbeat, Progress
from distexp.worker.reports import Reported, Reporter
from tests.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sent() -> list[Reported]:
    return []


@pytest.fixture
def reporter(sent: list[Reported], clock: Clock) -> Reporter:
    return Reporter(record=lambda step, total, metrics: None, send=sent.append, clock=clock)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ((3, 10, {"loss": 0.1}), Reported(3, 10, {"loss": 0.1})),
        ((3.0, 10, {}), Reported(3.0, 10, {})),
        ((3.5, 10, {}), Reported(3.5, 10, {})),
        ((3, None, {"loss": 1}), Reported(3, None, {"loss": 1})),
        ((3, 10, {"loss": None, "t": "a\0\ud800"}), Reported(3, 10, {"loss": None, "t": "a\ufffd\ufffd"})),
        ((np.int64(3), 10, {"loss": np.float32(0.5)}), Reported(3, 10, {"loss": 0.5})),
        ((3, 10, {"loss": math.nan}), Reported(3, 10, {"loss": "nan"})),
        ((3, math.inf, {}), Reported(3, None, {})),
        ((Decimal("3"), Fraction(10), {"loss": Decimal("0.5"), "z": 1j}), Reported(3.0, 10.0, {"loss": 0.5})),
        ((3, 10, {"loss": [1, 2], "acc": 1}), Reported(3, 10, {"acc": 1})),
        ((3, 10, {"huge": 2**5000, "big": 2**70}), Reported(3, 10, {"big": float(2**70)})),
    ],
)
def test_a_report_carries_numbers_none_and_text(
    reporter: Reporter, sent: list[Reported], report: tuple[Any, Any, dict[str, Any]], message: Reported
) -> None:
    reporter.report(*report)
    assert sent == [message]


@pytest.mark.parametrize("step", ["epoch 3", None, math.nan, [3], 2**60])
def test_a_report_without_a_step_is_left_out(
    reporter: Reporter, sent: list[Reported], step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.report(step, 10, {"loss": 1})
    assert sent == []
    assert "warning: context.report left out all of it: the step is " in capsys.readouterr().out


def test_values_without_a_name_are_numbered(reporter: Reporter, sent: list[Reported]) -> None:
    Context(seed=42, on_report=reporter.report).report(3, 10, 0.5, acc=1)
    assert sent == [Reported(3, 10, {"value1": 0.5, "acc": 1})]


def test_what_is_left_out_is_said_once(reporter: Reporter, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(5):
        reporter.report(step, 10, {"losses": [1, 2]})
    assert capsys.readouterr().out == (
        "warning: context.report left out losses, which is neither number nor text but list; "
        "it says so once\n"
    )


def test_a_report_of_megabytes_fits_into_a_heartbeat(reporter: Reporter, sent: list[Reported]) -> None:
    reporter.report(1, 2, {"text": "\x01" * 2_000_000, **{f"m{i}" * 100: "y" * 2000 for i in range(5000)}})
    (message,) = sent
    assert message.metrics["text"] == "\x01" * 1000
    progress = Progress(step=message.step, total=message.total, metrics=message.metrics)
    assert len(encode(Heartbeat(worker_id="cpu0", progress=progress))) < MAX_MESSAGE_BYTES / 8


def test_one_report_a_second_is_sent_and_the_last(
    reporter: Reporter, sent: list[Reported], clock: Clock
) -> None:
    for step in (1, 2):
        reporter.report(step, 10, {})
    clock.advance(1.0)
    for step in (3, 4, 10):
        reporter.report(step, 10, {})
    assert [message.step for message in sent] == [1, 3, 10]
