"""Watches a worker's GPUs for other users, for a worker that gives way to them (`--yield`)."""

import threading
from collections.abc import Callable, Sequence
from typing import Self

from distexp.errors import NoGpuError
from distexp.gpu.devices import list_gpus

LOOK_S = 2.0  # between two looks: NVML tells of no process by itself


class OtherUsers:
    """Looks at some GPUs, in a thread of its own, until another user computes on one of them.

    A process whose user cannot be told (of another container) is passed over: it may be our own task's.
    As a context manager it looks until its end.
    """

    def __init__(self, uuids: Sequence[str], on_seen: Callable[[str], None]) -> None:
        """Call `on_seen` once, with user and GPU in words for people, from that thread."""
        self._uuids, self._on_seen = uuids, on_seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="other-users", daemon=True)

    def _loop(self) -> None:
        while not self._ended.wait(LOOK_S):
            if seen := self.look():
                if not self._ended.is_set():  # else it is another worker's GPU by now
                    self._on_seen(seen)
                return

    def look(self) -> str:
        """Return which other user computes on which of the GPUs now, `ann on gpu0`; empty for nobody."""
        try:
            gpus = [gpu for gpu in list_gpus() if gpu.uuid in self._uuids]
        except NoGpuError:
            return ""  # a driver that hiccups is no user
        return next((f"{user} on {gpu.label}" for gpu in gpus for user in gpu.others if user), "")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
