"""Notices that the manager itself was stopped or starved, which is no fault of its workers."""

import threading
import time
from collections.abc import Callable

TICK_S = 1.0
LATE_S = 5.0  # a thread that does nothing else wakes so late only when the whole process did not run


class PauseWatch:
    """A clock thread that does nothing but tick; when it is late, the manager has slept."""

    def __init__(self, on_pause: Callable[[float], None]) -> None:
        """Call `on_pause(seconds)` before `is_awake` is true again."""
        self._on_pause = on_pause
        self._is_over = threading.Event()
        self._ticked_s = time.monotonic()
        self._thread = threading.Thread(target=self._tick, name="clock", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._ticked_s = time.monotonic()
        self._thread.start()

    def is_awake(self) -> bool:
        """Return whether leases may be judged by the time that was read before this call."""
        return time.monotonic() - self._ticked_s <= TICK_S + LATE_S

    def stop(self) -> None:
        """Tick no more."""
        self._is_over.set()

    def _tick(self) -> None:
        while not self._is_over.wait(TICK_S):
            now_s = time.monotonic()  # read once: a stop that begins after this line shows at the next tick
            late_s = now_s - self._ticked_s
            if late_s > TICK_S + LATE_S:
                self._on_pause(late_s)
            self._ticked_s = now_s
