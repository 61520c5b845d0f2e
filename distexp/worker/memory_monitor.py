"""Measures what a worker's processes hold on the GPU that it shares (`--slots-per-gpu auto`)."""

import os
import threading
import time
from collections import deque
from typing import Any, Self

from distexp.errors import NoGpuError
from distexp.gpu.devices import open_nvml
from distexp.gpu.memory import read_shared_gpu
from distexp.task import PeakMemory, SharedGpu
from distexp.worker.gpu_monitor import READ_TIMEOUT_S

SAMPLE_S = 0.1  # between two looks while a task runs; what was allocated for less may be missed
ENOUGH_SAMPLES = 3  # since a task has begun: what it holds is known then
ENOUGH_OF_NOTHING = 20  # the same of one that seems to hold nothing: it may not have come to that


class MemoryMonitor:
    """Reads one GPU in a thread of its own: on demand, and again and again while a task runs.

    What counts is held by any process below this one: tasks, what they start, and the process that stands
    by for the next. As a context manager it watches one task. For one thread.
    """

    def __init__(self, uuid: str, min_free_mib: int) -> None:
        """Watch no task yet. A task starts alone where more than `min_free_mib` are free."""
        self._uuid, self._min_free_mib = uuid, min_free_mib
        self._lock = threading.Lock()
        self._wanted, self._read_done = threading.Event(), threading.Event()
        self._seen: SharedGpu | None = None
        self._is_watching = False
        self._own_mib = self._most_mib = 0  # of the task
        self._looks_s: deque[float] = deque(maxlen=ENOUGH_OF_NOTHING)  # the last ones
        self._is_known: bool | None = None  # what it has held as a whole; None: it has no result
        self._ran_s: float | None = None  # its experiment
        self._least_mib: int | None = None  # that was in use, ever: without us, as far as that is known
        self._thread: threading.Thread | None = None

    def now(self) -> SharedGpu | None:
        """Return the GPU's memory as it is now; None when the driver does not answer in `READ_TIMEOUT_S`."""
        self._start()
        self._read_done.clear()
        self._wanted.set()
        return self._seen if self._read_done.wait(READ_TIMEOUT_S) else None

    def __enter__(self) -> Self:
        """Measure from now on what a task holds."""
        with self._lock:
            self._own_mib = self._most_mib = 0
            self._is_known, self._ran_s, self._is_watching = None, None, True
        self._start()
        self._wanted.set()
        return self

    def __exit__(self, *_: object) -> None:
        """Measure no more: the task has ended and was reported."""
        with self._lock:
            self._is_watching = False

    def ended(self, began_s: float | None, ran_s: float, torch_mib: int | None) -> None:
        """Note that the task has a result, and what torch has held, which knows of the shortest peak.

        `began_s`: by `time.monotonic`; None: it has not begun.
        """
        with self._lock:
            self._ran_s = ran_s
            looks = 0 if began_s is None else sum(each_s >= began_s for each_s in self._looks_s)
            self._is_known = looks >= (ENOUGH_SAMPLES if self._own_mib else ENOUGH_OF_NOTHING)
            if self._own_mib:
                self._own_mib = max(self._own_mib, torch_mib or 0)

    def peak(self) -> PeakMemory | None:
        """Return the most that the task has held so far; None without one, or when it is not known yet.

        Of one that has a result, what is known of it as a whole.
        """
        with self._lock:
            if not self._is_watching or self._is_known is False:
                return None
            if self._own_mib:
                return PeakMemory(mib=self._own_mib, ran_s=self._ran_s)
            grown_mib = self._most_mib - (self._least_mib or 0)
            return PeakMemory(mib=grown_mib, of_gpu=True, ran_s=self._ran_s) if self._is_known else None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="gpu-memory", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            self._wanted.wait(SAMPLE_S if self._is_watching else None)
            self._wanted.clear()
            try:
                with open_nvml() as nvml:
                    self._sample(nvml)
            except NoGpuError:  # a driver that hiccups: the next look may succeed
                self._seen = None
            self._read_done.set()

    def _sample(self, nvml: Any) -> None:
        """Read at least once, and on while a task runs: to open NVML takes some 10 ms."""
        while True:
            seen = read_shared_gpu(nvml, self._uuid, self._min_free_mib)
            self._take(seen)
            self._seen = seen
            self._read_done.set()
            if not self._is_watching:
                return
            self._wanted.wait(SAMPLE_S)
            self._wanted.clear()

    def _take(self, seen: SharedGpu) -> None:
        used_mib = seen.total_mib - seen.free_mib
        with self._lock:
            self._looks_s.append(time.monotonic())
            self._own_mib = max(self._own_mib, seen.held_by(os.getpid()))
            self._most_mib = max(self._most_mib, used_mib)
            self._least_mib = used_mib if self._least_mib is None else min(self._least_mib, used_mib)
