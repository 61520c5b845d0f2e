"""What several test files need. Nothing here stands in for a part of the product."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(TESTS.parent)
}  # of a child process that imports the product, or a test file

MORE = int(os.environ.get("DISTEXP_EXAMPLES", "1"))  # times as many random examples as usual


def examples(number: int, **more: Any) -> settings:
    """Settings of a property that `number` examples show every day, and many more when asked for.

    No machine is too slow for it.
    """
    return settings(
        max_examples=number * MORE,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        **more,
    )


class Clock:
    """A clock that moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@contextmanager
def silent_port() -> Iterator[int]:
    """A port of this host at which nobody listens, and nobody else may meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def poll(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Return once `condition` holds; for what sends no event.

    Raises:
        AssertionError: It did not hold in time; names `what`.
    """
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
