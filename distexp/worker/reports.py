"""Takes what an experiment passes to `context.report`: keeps what can be carried, sends one report a second.

Runs in the task's child. No report ends a task: what cannot be carried is dropped, with one warning.
"""

import math
import numbers
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from distexp.results.conversion import number_of
from distexp.task import Number, Reportable
from distexp.text import clean_text
from distexp.worker.output import warn

REPORT_EVERY_S = 1.0  # each report wakes the worker, which sends the latest with its next heartbeat
MAX_REPORT_BYTES = 16 * 1024  # of all metrics: a heartbeat carries them, every 3 s at most
MAX_TEXT_CHARS = 1000  # of one metric
MAX_NAME_CHARS = 200
MAX_STEP = 2**53  # what every JSON library reads exactly


class Reported(msgspec.Struct, frozen=True, tag="reported"):
    """From the child: what the experiment passed to `context.report`."""

    step: Number
    total: Number | None = None  # None: not known
    metrics: dict[str, Reportable] = {}


class Reporter:
    """Receives the reports of one attempt.  Safe from any thread."""

    def __init__(
        self,
        record: Callable[[Number, Number | None, Mapping[str, Reportable]], None],
        send: Callable[[Reported], None],
        clock: Callable[[], float] = time.monotonic,
        pass_report: Callable[[Reported], None] = lambda reported: None,
        last_step: Number | None = None,
    ) -> None:
        """Pass every report to `record`; to `send`, one every `REPORT_EVERY_S` seconds, and the last step.

        Then each goes to `pass_report`, which may wait, at a rung. The last step is the report's total, or
        `last_step`.
        """
        self._record, self._send, self._clock = record, send, clock
        self._lock = threading.Lock()
        self._sent_s, self._pass, self._last_step = -math.inf, pass_report, last_step
        self._has_warned = False
        self._pid = os.getpid()

    def report(self, step: Any, total: Any, metrics: Mapping[str, Any]) -> None:
        """Take one report; in a fork of the task, such as a worker of a DataLoader, do nothing."""
        if os.getpid() != self._pid:
            return
        reported, dropped = cleaned(step, total, metrics)
        with self._lock:
            if dropped and not self._has_warned:
                self._has_warned = True
                warn(f"context.report left out {dropped}; it says so once")
            if reported is None:
                return
            self._record(reported.step, reported.total, reported.metrics)
            ends = [end for end in (reported.total, self._last_step) if end is not None]
            is_last = any(reported.step >= end for end in ends)
            if is_last or self._clock() - self._sent_s >= REPORT_EVERY_S:
                self._sent_s = self._clock()
                self._send(reported)
            self._pass(reported)


def cleaned(step: Any, total: Any, metrics: Mapping[str, Any]) -> tuple[Reported | None, str]:
    """Return what can be carried of a report, None without a step, and what was left out, for a warning."""
    plain_step, plain_total = _number(step), _number(total)
    if plain_step is None:
        found = str(step) if isinstance(step, float) else type(step).__name__
        return None, f"all of it: the step is {found}, no number below 2**53"
    dropped = [] if total is None or plain_total is not None else ["the total, which is no number"]
    kept: dict[str, Reportable] = {}
    left = MAX_REPORT_BYTES
    for name, value in metrics.items():
        plain_name, plain = clean_text(name)[:MAX_NAME_CHARS], _metric(value)
        size = len(plain_name.encode()) + len(str(plain).encode())
        if value is not None and plain is None:
            dropped.append(f"{plain_name}, which is neither number nor text but {type(value).__name__}")
        elif size > left:
            dropped.append(f"{plain_name}: more than {MAX_REPORT_BYTES} bytes in one report")
        else:
            left -= size
            kept[plain_name] = plain
            if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
                dropped.append(f"the end of {plain_name}, a text of more than {MAX_TEXT_CHARS} characters")
    return Reported(plain_step, plain_total, kept), "; ".join(dropped[:3])


def _plain(value: Any) -> Any:
    """Return any kind of real number, such as a Decimal, as one of Python's own; anything else as it is."""
    plain = number_of(value)
    if isinstance(plain, numbers.Number) and not isinstance(plain, int | float):
        with suppress(TypeError, ValueError, OverflowError):  # a complex one, or a user's own kind
            return float(plain)  # type: ignore[arg-type]
    return plain


def _number(value: Any) -> Number | None:
    plain = _plain(value)
    if isinstance(plain, bool | int) and abs(plain) < MAX_STEP:
        return int(plain)
    return float(plain) if isinstance(plain, float) and math.isfinite(plain) else None


def _metric(value: Any) -> Reportable:
    plain = _plain(value)
    if isinstance(plain, str):
        return clean_text(plain[:MAX_TEXT_CHARS])
    if isinstance(plain, bool) or plain is None:
        return plain
    if isinstance(plain, int):
        return int(plain) if abs(plain) < MAX_STEP else float(plain) if plain.bit_length() < 1024 else None
    if isinstance(plain, float):
        return float(plain) if math.isfinite(plain) else str(float(plain))
    return None
