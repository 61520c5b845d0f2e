"""Steps that may hang, such as a look at a network drive, in threads beside that of their caller."""

import queue
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Generic, TypeVar

T = TypeVar("T")


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
