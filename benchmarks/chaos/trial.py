"""One run: the sweep starts, the plan happens, everything heals, the sweep ends, the evidence is gathered.

At the end the manager is stopped and started once more, and a fresh worker in each folder hands over what
earlier ones could not: what is then missing is lost.
"""

import heapq
import itertools
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks.chaos.checks import Evidence
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.findings import gather
from benchmarks.chaos.plan import Event, Placement, Plan
from benchmarks.chaos.stage import Actor, Stage
from distexp.errors import DistexpError
from distexp.wire.client import Client
from distexp.wire.messages import View, ViewReply

LOOK_S = 0.05  # between two looks at the processes
START_S = 60.0  # for a manager to serve, on a busy machine
END_S = 300.0  # for the sweep to end once everything is healed, on a busy machine ...
LEASES_S = 480.0  # ... and, of the product's time, for leases of workers that are gone to end
GONE_S = 20.0  # for processes to end that have nothing left to do, on a busy machine
MOMENT_S = 3.0  # that an event waits for its line; then it happens all the same
SLOW_S = 90.0  # a run that lasts longer prints what everybody waits for
STACKS_S = 2.0  # for the processes to print theirs
REPLACED_S = 0.5  # until a worker that left is replaced

Action = Callable[[], object]


@dataclass
class Trial:
    """A run of one plan."""

    plan: Plan
    stage: Stage
    faults: Faults
    due: list[tuple[float, int, Action]] = field(default_factory=list)  # a heap
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    waiting: list[tuple[Event, int, float]] = field(default_factory=list)  # since which line, until when
    is_manager_away: bool = False
    slow_at_s: float = field(default_factory=lambda: time.monotonic() + SLOW_S)

    def run(self) -> Evidence:
        """Return what the run left behind; all its processes are gone."""
        try:
            self._start()
            self._happen()
            overdue = self._end()
            return gather(self.stage, self.faults.tears, self.faults.deleted_s, overdue)
        finally:
            self.stage.close()

    def _start(self) -> None:
        manager = self.stage.start_manager()
        for placement in self.plan.workers:
            self._start_worker(placement)
        self._wait_for(lambda: manager.serves, START_S)
        began_s = time.monotonic()
        for event in self.plan.events:
            self._at(began_s + event.at_s, lambda event=event: self._await_moment(event))  # type: ignore[misc]

    def _happen(self) -> None:
        while self.due:
            at_s = self.due[0][0]
            if at_s <= time.monotonic():
                heapq.heappop(self.due)[2]()
            else:
                self.stage.news.wait(max(0.0, min(LOOK_S, at_s - time.monotonic())))
            self._meet_moments()
            self._keep_up()
            self._look_at_clock()

    def _meet_moments(self) -> None:
        """Strike where the line has come that an event waited for; nothing waits longer than `MOMENT_S`."""
        self.stage.news.clear()
        for event, since, until_s in list(self.waiting):
            lines = self.stage.lines[since:]
            if time.monotonic() >= until_s or any(event.moment in line.text for line in lines):
                self.waiting.remove((event, since, until_s))
                self._strike(event)

    def _await_moment(self, event: Event) -> None:
        if event.moment:
            until_s = time.monotonic() + MOMENT_S
            self.waiting.append((event, len(self.stage.lines), until_s))
            self._at(until_s, lambda: None)  # the plan is not over before
        else:
            self._strike(event)

    def _strike(self, event: Event) -> None:
        undo = self.faults.strike(event)
        self._at(time.monotonic() + event.for_s, undo)

    def _keep_up(self) -> None:
        """Start what ended again: the manager after a while, a worker where there were more."""
        manager = self.stage.manager
        if manager is not None and not manager.is_alive and not self.is_manager_away:
            self.is_manager_away = True
            self._at(time.monotonic() + REPLACED_S, self._restart_manager)
        for worker in [each for each in self.stage.workers if not each.is_alive]:
            self.stage.workers.remove(worker)
            if worker.placement is not None:
                self._at(time.monotonic() + REPLACED_S, partial(self._start_worker, worker.placement))

    def _restart_manager(self) -> None:
        if self.stage.is_broken or self.stage.is_state_away:  # it would refuse a broken config
            self._at(time.monotonic() + REPLACED_S, self._restart_manager)
            return
        self.is_manager_away = False
        self.stage.start_manager()

    def _start_worker(self, placement: Placement) -> None:
        if len(self.stage.workers) >= len(self.plan.workers):
            return
        if self.stage.is_ready_for(placement):
            self.stage.start_worker(placement)
        else:
            self._at(time.monotonic() + REPLACED_S, lambda: self._start_worker(placement))

    def _at(self, at_s: float, action: Action) -> None:
        heapq.heappush(self.due, (at_s, next(self.numbers), action))

    # -- the end -------------------------------------------------------------------------------------------

    def _end(self) -> str:
        """Let the sweep end; return what did not."""
        manager = self.stage.manager
        assert manager is not None
        if not self._wait_for(lambda: manager.serves, START_S):
            return f"{manager.name} did not serve within {START_S:g} s"
        manager.signal(signal.SIGINT)
        if not self._wait([manager], GONE_S):
            return f"{manager.name} did not stop within {GONE_S:g} s"
        last = self.stage.start_manager()
        for far in range(len(self.stage.folders)):
            self.stage.start_worker(Placement(far, "forkserver"))
        patience_s = END_S + LEASES_S / self.stage.speed
        if not self._wait(self.stage.workers, patience_s):
            late = [worker.name for worker in self.stage.workers if worker.is_alive]
            return f"{', '.join(late)} did not leave within {patience_s:g} s"
        last.signal(signal.SIGINT)
        if not self._wait([last], GONE_S):
            return f"{last.name} did not stop within {GONE_S:g} s"
        if not self._wait([self.stage.start_manager("--exit-when-done")], START_S):
            return f"the sweep has not ended for a manager that leaves with it, within {START_S:g} s"
        return ""

    def _wait(self, actors: list[Actor], timeout_s: float) -> bool:
        return self._wait_for(lambda: not any(actor.is_alive for actor in actors), timeout_s)

    def _wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= until_s:
                return False
            self._look_at_clock()
            time.sleep(LOOK_S)
        return True

    def _look_at_clock(self) -> None:
        """Print, once, what every process of a slow run waits for."""
        if time.monotonic() < self.slow_at_s:
            return
        self.slow_at_s, since = math.inf, len(self.stage.lines)
        steps = f"{len(self.due)} steps of the plan are to come"
        if self.due:
            steps += f", the next in {self.due[0][0] - time.monotonic():.1f} s"
        moments = ", ".join(f"{event.kind} at {event.moment!r}" for event, _, _ in self.waiting)
        print(f"seed {self.plan.seed}: still runs after {SLOW_S:g} s; {steps}; waiting: {moments or 'none'}")
        print(*_leases(self.stage), sep="\n")
        live = [actor for actor in self.stage.actors if actor.is_alive]
        for actor in live:
            print(f"  {actor.name}: {_sockets(actor)}; last line: {(actor.said or ['none'])[-1][:150]}")
            actor.signal(signal.SIGUSR1)
        time.sleep(STACKS_S)
        for line in self.stage.lines[since:]:
            print(f"  {line.who}: {line.text}")
        sys.stdout.flush()


def _leases(stage: Stage) -> list[str]:
    """Return what the manager says of its workers: who holds which task, and when it was last heard."""
    try:
        with Client(stage.workdir, "localhost", stage.port) as client:
            view = client.call(View(), ViewReply)
    except DistexpError as error:
        return [f"  the manager tells no leases: {error}"]
    return [
        f"  {each.worker}: {each.task or 'no task'}, heard {each.age_s:.0f} s ago" for each in view.workers
    ]


def _sockets(actor: Actor) -> str:
    with suppress(psutil.Error):
        states = Counter(each.status for each in psutil.Process(actor.process.pid).net_connections("tcp"))
        return ", ".join(f"{count} {state}" for state, count in states.items()) or "no socket"
    return "gone"


def run_plan(plan: Plan, root: Path, speed: float) -> tuple[Evidence, Faults]:
    """Run a plan in the folder `root`; return the evidence, and the faults that hit."""
    stage = Stage(root, speed, plan.far_hosts, plan.config)
    faults = Faults(stage, plan.config)
    return Trial(plan, stage, faults).run(), faults
