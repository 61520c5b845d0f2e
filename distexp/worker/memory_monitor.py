"""Measures what a worker's processes hold on the GPU that it shares (`--slots-per-gpu auto`)."""

import os
import threading
from typing import Any, Self

from distexp.errors import NoGpuError
from distexp.gpu.devices import open_nvml
from distexp.gpu.memory import read_shared_gpu
from distexp.task import PeakMemory, SharedGpu
from distexp.worker.gpu_monitor import READ_TIMEOUT_S

SAMPLE_S = 0.2  # between two looks while a task runs; what was allocated for less may be missed
ENOUGH_SAMPLES = 3  # of a task that seems to hold nothing: it may not have come to that


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
        self._samples = self._own_mib = self._most_mib = 0  # of the task
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
            self._samples = self._own_mib = self._most_mib = 0
            self._is_watching = True
        self._start()
        self._wanted.set()
        return self

    def __exit__(self, *_: object) -> None:
        """Measure no more: the task has ended and was reported."""
        with self._lock:
            self._is_watching = False

    def note(self, mib: int | None) -> None:
        """Note what torch has held: it knows of the shortest peak."""
        with self._lock:
            if mib is not None and self._own_mib:
                self._own_mib = max(self._own_mib, mib)

    def peak(self) -> PeakMemory | None:
        """Return the most that the task has held so far; None without one, or when it is not known yet."""
        with self._lock:
            if not self._is_watching or (not self._own_mib and self._samples < ENOUGH_SAMPLES):
                return None
            if self._own_mib:
                return PeakMemory(mib=self._own_mib)
            return PeakMemory(mib=self._most_mib - (self._least_mib or 0), of_gpu=True)

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
            self._samples += 1
            self._own_mib = max(self._own_mib, seen.held_by(os.getpid()))
            self._most_mib = max(self._most_mib, used_mib)
            self._least_mib = used_mib if self._least_mib is None else min(self._least_mib, used_mib)
