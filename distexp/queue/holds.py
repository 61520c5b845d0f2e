"""Holds a phase whose tasks all fail, so that a broken experiment costs a few attempts, not the sweep.

A phase is proven once one of its tasks has succeeded. It is held when different tasks of it have failed and
none has succeeded; then each worker that is new to it gets one trial. A success, `resume` or an edit ends the
hold. Pure, apart from what it remembers; nothing of it outlives the manager.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

from distexp.queue.entry import WorkerInfo
from distexp.task import Cause

HOLD_AFTER = 5  # different tasks failed, none succeeded
SPREAD_AFTER = 2  # failures; then tasks are drawn from all over the phase: one bad value is not all of it
SPREAD_FAILED = 2  # tasks drawn so that must be among those that failed
COUNTED = (Cause.ERROR, Cause.CRASH, Cause.TIMEOUT)
GOLDEN = 0.618034  # places at its multiples are spread evenly, however many there are


@dataclass
class _Phase:
    is_proven: bool = False
    failed: dict[str, str] = field(default_factory=dict)  # key -> last line of the error
    spread: dict[str, None] = field(default_factory=dict)  # keys of tasks drawn from all over the phase
    error: str = ""  # why it is held; empty: it is not
    tried: set[tuple[str, str]] = field(default_factory=set)  # workers that had a task of it
    code_version: int = 0


class PhaseHolds:
    """Which phases are proven, and which are held.

    `explain`, `end_all` and `code_version` are safe from any thread; else the caller holds the lock.
    """

    def __init__(self, lock: threading.RLock, *, keep_going: bool = False) -> None:
        """Share the queue's lock; with `keep_going` no phase is ever held."""
        self._lock, self._keep_going = lock, keep_going
        self._phases: dict[str, _Phase] = {}
        self.held: dict[str, str] = {}  # phase -> why

    def _of(self, phase: str) -> _Phase:
        if phase not in self._phases:
            self._phases[phase] = _Phase()
        return self._phases[phase]

    # -- what happens --------------------------------------------------------------------------------------

    def assigned(self, phase: str, key: str, worker: WorkerInfo) -> None:
        """Note that a task was assigned."""
        about = self._of(phase)
        if about.is_proven:
            return
        about.tried.add((worker.name, worker.instance))
        if len(about.failed) >= SPREAD_AFTER:
            about.spread[key] = None

    def failed(self, phase: str, key: str, cause: Cause, error: str) -> list[str]:
        """Note a failure; when the phase is held from now on, return the keys of the tasks that failed."""
        about = self._of(phase)
        if about.is_proven or about.error or self._keep_going or cause not in COUNTED:
            return []
        about.failed[key] = last_line(error)
        if len(about.failed) < HOLD_AFTER or len(about.failed.keys() & about.spread.keys()) < SPREAD_FAILED:
            return []
        common, number = Counter(about.failed.values()).most_common(1)[0]
        failed = list(about.failed)
        times = "each" if number == len(failed) else f"{number} times"
        self._hold(phase, f"{len(failed)} different tasks failed and none succeeded ({times}: {common})")
        return failed

    def not_imported(self, phase: str, error: str) -> bool:
        """Hold the phase, since its experiment cannot be imported; False when it is held or never is."""
        if self._of(phase).error or self._keep_going:
            return False
        self._hold(phase, error)
        return True

    def _hold(self, phase: str, error: str) -> None:
        self._of(phase).error = self.held[phase] = error

    def succeeded(self, phase: str) -> None:
        """Note a success: the phase is proven, and not held."""
        about = self._of(phase)
        if not about.is_proven:
            about.is_proven, about.error = True, ""
            about.failed, about.spread, about.tried = {}, {}, set()
            self.held.pop(phase, None)

    def end_all(self) -> list[str]:
        """End every hold and start to count anew; return the phases that were held.

        Workers import the code of those phases anew, as `code_version` says.
        """
        with self._lock:
            ended = list(self.held)
            self.held.clear()
            for phase, about in self._phases.items():
                self._phases[phase] = _Phase(code_version=about.code_version + (phase in ended))
            return ended

    # -- what follows --------------------------------------------------------------------------------------

    def explain(self) -> dict[str, str]:
        """Return the held phases, and why."""
        with self._lock:
            return dict(self.held)

    def closed_to(self, worker: WorkerInfo) -> frozenset[str]:
        """Return the held phases of which this worker has had its trial."""
        if not self.held:
            return frozenset()
        me = (worker.name, worker.instance)
        return frozenset(phase for phase in self.held if me in self._phases[phase].tried)

    def lets_retries_wait(self, phase: str) -> bool:
        """Return whether first attempts come before retries: tasks of it failed, and none succeeded."""
        about = self._phases.get(phase)
        return about is not None and not about.is_proven and bool(about.failed or about.error)

    def code_version(self, phase: str) -> int:
        """Return a number that changes when workers have to import the phase's code anew."""
        with self._lock:
            about = self._phases.get(phase)
            return about.code_version if about else 0

    def spread_place(self, phase: str) -> float | None:
        """Return where in the phase to draw the next task from, 0 to 1; None: from its front."""
        about = self._phases.get(phase)
        if about is None or about.is_proven or len(about.failed) < SPREAD_AFTER:
            return None
        return (len(about.spread) + 1) * GOLDEN % 1


def last_line(error: str) -> str:
    """Return the last line of a traceback, which says most."""
    return (error.strip().splitlines() or ["no message"])[-1]
