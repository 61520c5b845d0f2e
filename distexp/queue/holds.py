"""Holds a phase whose tasks all fail, so that a broken experiment costs a few attempts, not the sweep.

A phase is proven once one of its tasks has succeeded. It is held when different tasks of it have failed and
none has succeeded; then each worker that is new to it gets one trial. A success, `resume` or an edit ends the
hold. Pure, apart from what it remembers; nothing of it outlives the manager.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from distexp.queue.entry import Entry, WorkerInfo
from distexp.task import Cause
from distexp.text import last_line, without_numbers

HOLD_AFTER = 5  # different tasks failed, none succeeded
SPREAD_AFTER = 2  # failures; then tasks are drawn from all over the phase: one bad value is not all of it
SPREAD_FAILED = 2  # tasks drawn so that must be among those that failed
BEFORE_BEGIN = (Cause.IMPORT, Cause.SETUP)  # no fault of a task: charged to the phase, or to a worker
COUNTED = (Cause.ERROR, Cause.CRASH, Cause.TIMEOUT)
DECIDING_S = 30.0  # how long a worker waits for the attempt that may show the phase to be broken
GOLDEN = 0.618034  # places at its multiples are spread evenly, however many there are


@dataclass
class _Phase:
    is_proven: bool = False
    failed: dict[str, str] = field(default_factory=dict)  # key -> last line of the error
    spread: dict[str, None] = field(default_factory=dict)  # keys of tasks drawn from all over the phase
    tried: set[tuple[str, str]] = field(default_factory=set)  # workers that had a task of it
    begun_s: dict[str, float] = field(default_factory=dict)  # key -> when the attempt began that runs
    trials: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> worker, of its first task of it
    code_version: int = 0


class PhaseHolds:
    """Which phases are proven, and which are held.

    `explain`, `closed`, `closed_to`, `unable`, `end_all`, `code_version` are safe from any thread; else
    the caller holds the lock.
    """

    def __init__(self, lock: threading.RLock, *, keep_going: bool = False) -> None:
        """Share the queue's lock; with `keep_going` no phase is ever held."""
        self._lock, self._keep_going = lock, keep_going
        self._phases: defaultdict[str, _Phase] = defaultdict(_Phase)
        self.held: dict[str, str] = {}  # phase -> why
        self._doubted: set[str] = set()  # phases that one more failure would hold
        self._unable: dict[tuple[str, str], set[str]] = {}  # worker -> phases whose setup failed on its host

    # -- what happens --------------------------------------------------------------------------------------

    def assigned(self, phase: str, key: str, worker: WorkerInfo, now_s: float) -> None:
        """Note that a task was assigned."""
        about = self._phases[phase]
        if about.is_proven:
            return
        me = (worker.name, worker.instance)
        if me not in about.tried:
            about.tried.add(me)
            about.trials[key] = me
        about.begun_s[key] = now_s
        if len(about.failed) >= SPREAD_AFTER:
            about.spread[key] = None

    def ended(self, phase: str, key: str) -> None:
        """Note that an attempt has ended, however."""
        about = self._phases[phase]
        about.begun_s.pop(key, None)
        about.trials.pop(key, None)

    def taken_back(self, phase: str, key: str) -> None:
        """Note that an attempt ends which says nothing of the phase: it was no trial of its worker."""
        about = self._phases[phase]
        if (worker := about.trials.get(key)) is not None:
            about.tried.discard(worker)

    def failed(self, phase: str, key: str, cause: Cause, error: str) -> list[str]:
        """Note a failure; when the phase is held from now on, return the keys of the tasks that failed."""
        about = self._phases[phase]
        if about.is_proven or phase in self.held or self._keep_going or cause not in COUNTED:
            return []
        about.failed[key] = last_line(error)
        if len(about.failed) == HOLD_AFTER - 1:
            self._doubted.add(phase)
        if len(about.failed) < HOLD_AFTER or len(about.failed.keys() & about.spread.keys()) < SPREAD_FAILED:
            return []
        self.held[phase] = why_held([*about.failed.values()])
        return [*about.failed]

    def not_begun(self, phase: str, cause: Cause, error: str, worker: WorkerInfo) -> bool:
        """Hold the phase, since this worker cannot begin its tasks; False when no phase is ever held.

        One on whose host the setup has failed gets no task of it before `end_all`, though others may.
        """
        if self._keep_going:
            return False
        me = (worker.name, worker.instance)
        about = self._phases[phase]
        about.tried.add(me)
        if cause is Cause.SETUP:
            self._unable.setdefault(me, set()).add(phase)
        if phase not in self.held:
            about.is_proven = False
            self.held[phase] = error
        return True

    def recall(self, phase: str, failed: Sequence[Entry]) -> None:
        """Hold a phase that an earlier manager held, by what is known of its tasks that failed.

        They tell it: failures cost nothing in a phase that is held, and there alone.
        """
        entries = [each for each in failed if each.cause in COUNTED]
        if broken := next((each.error for each in failed if each.cause in BEFORE_BEGIN), ""):
            self.held[phase] = broken
        elif len(entries) >= HOLD_AFTER and any(each.failures == 0 for each in entries):
            self.held[phase] = why_held([last_line(each.error) for each in entries])

    def succeeded(self, phase: str) -> None:
        """Note a success: the phase is proven, and not held."""
        about = self._phases[phase]
        if not about.is_proven:
            about.is_proven = True
            about.failed, about.spread, about.tried, about.begun_s, about.trials = {}, {}, set(), {}, {}
            self.held.pop(phase, None)
            self._doubted.discard(phase)

    def end_all(self) -> list[str]:
        """End every hold and start to count anew; return the phases that were held.

        Workers import the code of those phases anew, as `code_version` says.
        """
        with self._lock:
            ended = list(self.held)
            anew = self.closed()
            self.held.clear()
            self._doubted.clear()
            self._unable.clear()
            for phase in self._phases.keys() | anew:
                version = self._phases[phase].code_version + (phase in anew)
                self._phases[phase] = _Phase(code_version=version)
            return ended

    # -- what follows --------------------------------------------------------------------------------------

    def explain(self) -> dict[str, str]:
        """Return the held phases, and why."""
        with self._lock:
            return dict(self.held)

    def closed(self) -> set[str]:
        """Return the phases that are held, or whose setup has failed on some host."""
        with self._lock:
            return {*self.held}.union(*self._unable.values())

    def unable(self, worker: WorkerInfo) -> frozenset[str]:
        """Return the phases whose setup has failed on the host of this worker."""
        with self._lock:
            return frozenset(self._unable.get((worker.name, worker.instance), ()))

    def closed_to(self, worker: WorkerInfo, now_s: float) -> frozenset[str]:
        """Return the phases of which this worker gets no task now.

        These are held ones of which it has had its trial, those whose setup has failed on its host, and those
        of which an attempt has just begun that may show them to be broken.
        """
        if not (self.held or self._doubted or self._unable):
            return frozenset()  # without the lock: each of a thousand workers that wait is asked about
        me = (worker.name, worker.instance)
        with self._lock:
            tried = [phase for phase in self.held if me in self._phases[phase].tried]
            deciding = [phase for phase in self._doubted if self._is_deciding(phase, now_s)]
            return frozenset([*tried, *deciding, *self._unable.get(me, ())])

    def _is_deciding(self, phase: str, now_s: float) -> bool:
        begun_s = self._phases[phase].begun_s.values()
        return phase not in self.held and any(now_s - each < DECIDING_S for each in begun_s)

    def lets_retries_wait(self, phase: str) -> bool:
        """Return whether first attempts come before retries: tasks of it failed, and none succeeded."""
        about = self._phases[phase]
        return not about.is_proven and bool(about.failed or phase in self.held)

    def code_version(self, phase: str) -> int:
        """Return a number that changes when workers have to import the phase's code anew."""
        with self._lock:
            return self._phases[phase].code_version

    def spread_place(self, phase: str) -> float | None:
        """Return where in the phase to draw the next task from, 0 to 1; None: from its front."""
        about = self._phases[phase]
        if about.is_proven or len(about.failed) < SPREAD_AFTER:
            return None
        return (len(about.spread) + 1) * GOLDEN % 1


def why_held(errors: Sequence[str]) -> str:
    """Return how many tasks failed, and with which error most of them, numbers in it apart."""
    common, number = Counter(map(without_numbers, errors)).most_common(1)[0]
    times = "each" if number == len(errors) else f"{number} times" if number > 1 else "one of them"
    common = next(each for each in errors if without_numbers(each) == common)
    return f"{len(errors)} different tasks failed and none succeeded ({times}: {common})"
