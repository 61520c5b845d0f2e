"""What browsers are told once a second, the sweep at a glance; and how busy GPUs were in the last minutes.

While no browser listens, the manager is asked once in `IDLE_S`, so that the next one sees the last minutes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping

import msgspec

from distexp.errors import DistexpError
from distexp.task import Number, Reportable
from distexp.web.source import Source
from distexp.wire.messages import View, ViewReply, WorkerStatus

EVERY_S, IDLE_S = 1.0, 15.0  # between two views; workers send a heartbeat each 15 s
SAMPLE_S = 10.0  # between two samples of a GPU
SAMPLES = 60  # kept of each GPU: ten minutes
CURVE_POINTS = 300  # kept of each metric of a running task; more are thinned


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What is told."""

    view: ViewReply | None  # None: neither manager nor files answer
    problem: str  # why the manager does not answer; empty: it does
    at_s: float  # when it was asked, in seconds since 1970


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A GPU at a moment."""

    at_s: float
    used_mib: int
    utilization_pct: int | None


class Feed:
    """Asks again and again.  For one event loop."""

    def __init__(self, source: Source) -> None:
        """Ask nothing yet."""
        self._source = source
        self._update = b""
        self._version = 0
        self._changed = asyncio.Condition()
        self._wanted = asyncio.Event()  # somebody listens
        self._listeners = 0
        self.gpus: dict[str, deque[Sample]] = {}  # by worker
        self._curves: dict[str, dict[str, list[tuple[Number, float]]]] = {}  # of running tasks

    async def run(self) -> None:
        """Ask until the task is cancelled."""
        while True:
            update = await asyncio.to_thread(self._look)
            if update.view is not None:
                self._remember(update.view.workers, update.at_s)
            async with self._changed:
                self._update, self._version = msgspec.json.encode(update), self._version + 1
                self._changed.notify_all()
            if self._listeners:
                await asyncio.sleep(EVERY_S)
                continue
            self._wanted.clear()
            try:
                await asyncio.wait_for(self._wanted.wait(), IDLE_S)
            except TimeoutError:
                continue

    def _look(self) -> Update:
        try:
            view = self._source.look(View(), ViewReply)
        except DistexpError as error:
            return Update(view=None, problem=self._source.problem or str(error), at_s=time.time())
        return Update(view=view, problem=self._source.problem, at_s=time.time())

    async def updates(self) -> AsyncIterator[bytes]:
        """Yield the newest update, then each that is newer than the one before; slow readers miss some."""
        self._listeners += 1
        self._wanted.set()
        seen = 0
        try:
            while True:
                async with self._changed:
                    while self._version == seen:
                        await self._changed.wait()
                    seen, update = self._version, self._update
                yield update
        finally:
            self._listeners -= 1

    def curves_of(self, task_id: str) -> Mapping[str, list[tuple[Number, float]]]:
        """Return what a running task has reported while it was looked at: (step, value) by metric.

        A copy.  Safe from any thread.
        """
        return {name: points.copy() for name, points in self._curves.get(task_id, {}).copy().items()}

    def _remember(self, workers: list[WorkerStatus], now_s: float) -> None:
        for worker in workers:
            if worker.gpu is not None:
                samples = self.gpus.setdefault(worker.worker, deque(maxlen=SAMPLES))
                if not samples or now_s - samples[-1].at_s >= SAMPLE_S:
                    samples.append(Sample(round(now_s), worker.gpu.used_mib, worker.gpu.utilization_pct))
            if worker.task is not None and worker.progress is not None:
                _add(self._curves.setdefault(worker.task, {}), worker.progress[0], worker.metrics)
        present, running = {each.worker for each in workers}, {each.task for each in workers}
        self.gpus = {name: kept for name, kept in self.gpus.items() if name in present}
        self._curves = {task: kept for task, kept in self._curves.items() if task in running}


def _add(
    curves: dict[str, list[tuple[Number, float]]], step: Number, metrics: Mapping[str, Reportable]
) -> None:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        points = curves.setdefault(name, [])
        if points and step <= points[-1][0]:
            if step == points[-1][0]:
                continue
            points.clear()  # another attempt
        points.append((step, value))
        if len(points) > CURVE_POINTS:
            del points[1:-1:2]
