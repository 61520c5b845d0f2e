"""Does what may hang, such as a write to a disk, beside the worker's loop, which beats and hears signals."""

import logging
import queue
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from distexp.errors import DiskHangs
from distexp.wire.messages import TaskReply
from distexp.worker.connection import ManagerConnection
from distexp.worker.signals import StopRequests

SHORT_S = 0.02  # of most steps: as long as nobody waits for a heartbeat, or for Ctrl+C to be heard
LOOK_S = 1.0  # between two looks whether a step is still waited for
GRACE_S = 10.0  # for a step when the worker is to leave: its disk may only be slow
KILL_GRACE_S = 1.0  # the same after the third Ctrl+C, and for what can be done without

HANG_S = 30.0  # of silence of a disk, until the log says so

T = TypeVar("T")

log = logging.getLogger("distexp.worker")


class Beside(Generic[T]):
    """A step in another thread.  For one thread."""

    def __init__(self, step: Callable[[], T]) -> None:
        """Begin it."""
        self._step = step
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._is_over = False
        self.news, self._over = Pipe(duplex=False)  # `news` becomes readable once it is over
        _run_in_thread(self._run)

    def _run(self) -> None:
        try:
            self._result.append(self._step())
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._error = error
        finally:
            self._is_over = True
            self._over.close()

    def is_over(self, wait_s: float = 0.0) -> bool:
        """Return whether it has ended, after waiting so long at most."""
        if not self._is_over and wait_s:
            wait([self.news], wait_s)
        return self._is_over

    def result(self) -> T:
        """Return what it brought, or raise what it raised. It is over."""
        self.news.close()
        if self._error is not None:
            raise self._error
        return self._result[0]


_idle: list["queue.SimpleQueue[Callable[[], None]]"] = []  # of threads that wait for their next step


def _run_in_thread(step: Callable[[], None]) -> None:
    """Run a step in a thread that no other step keeps; those that hang keep theirs for good."""
    try:
        steps = _idle.pop()
    except IndexError:
        steps = queue.SimpleQueue()
        threading.Thread(target=_run_steps, args=(steps,), daemon=True, name="disk").start()
    steps.put(step)


def _run_steps(steps: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        steps.get()()
        _idle.append(steps)


class Latest(Generic[T]):
    """What a step that may hang last brought.  For one thread."""

    def __init__(self, step: Callable[[], T], first: T) -> None:
        """Take `first` for what it brought before it was ever tried."""
        self._step, self._value = step, first
        self._trial: Beside[T] | None = None

    def read(self, wait_s: float) -> T:
        """Return what it brings now; if that takes longer, what it brought before."""
        is_hanging = self._trial is not None
        trial = self._trial = self._trial or Beside(self._step)
        if trial.is_over(0.0 if is_hanging else wait_s):
            self._value, self._trial = trial.result(), None
        return self._value


class DiskSteps:
    """Waits for steps that need a disk, as long as that makes sense.  For one thread."""

    def __init__(
        self,
        *,
        connection: ManagerConnection,
        stop: StopRequests,
        clock: Callable[[], float],
        heartbeat: Callable[[TaskReply], bool],
    ) -> None:
        """Send heartbeats with `heartbeat`, which returns False when the task is not wanted any more."""
        self._connection, self._stop, self._clock = connection, stop, clock
        self._heartbeat = heartbeat

    def wait(
        self,
        step: Callable[[], T],
        task: TaskReply | None,
        is_given_up: Callable[[float], bool] | None = None,
    ) -> T:
        """Return what the step brings; send heartbeats for the task meanwhile.

        Args:
            is_given_up: Called with the seconds that were waited; by default, when this worker is to leave
                and the disk has had its time, or when the task is not wanted any more.

        Raises:
            DiskHangs: It was given up. The step goes on in its thread.
        """
        beside, began_s, is_fenced, is_told = Beside(step), self._clock(), False, is_given_up is not None
        while not beside.is_over(SHORT_S):
            now_s = self._clock()
            waited_s = now_s - began_s
            if is_given_up(waited_s) if is_given_up else is_fenced or self._has_no_patience(waited_s):
                raise DiskHangs(f"the disk has not answered for {waited_s:.0f} s")
            if waited_s >= HANG_S and not is_told:
                is_told = True
                log.warning("The disk has not answered for %.0f s; this worker waits for it", waited_s)
            if task is not None and now_s >= self._connection.next_heartbeat_s:
                is_fenced = not self._heartbeat(task) or is_fenced
            until_s = self._connection.next_heartbeat_s if task else now_s + LOOK_S
            self._connection.wait(min(LOOK_S, max(0.0, until_s - self._clock())), [beside.news])
        return beside.result()

    def _has_no_patience(self, waited_s: float) -> bool:
        grace_s = KILL_GRACE_S if self._stop.wants_kill else GRACE_S
        return self._stop.wants_checkpoint and waited_s >= grace_s

    def try_(self, step: Callable[[], T], task: TaskReply | None, otherwise: T) -> T:
        """Return what the step brings, or `otherwise` after `GRACE_S`, or a moment when asked to stop."""

        def is_given_up(waited_s: float) -> bool:
            return waited_s >= (KILL_GRACE_S if self._stop.wants_checkpoint else GRACE_S)

        try:
            return self.wait(step, task, is_given_up)
        except DiskHangs:
            return otherwise
