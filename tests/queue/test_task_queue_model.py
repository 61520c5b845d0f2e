"""Queue and journal against a model of a few lines, through any order of events, crashes among them.

A crash loses what was not flushed, and nothing else: whatever is acknowledged was flushed before.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.records import TaskRecord
from distexp.queue.task_queue import FAILURE_BUDGET, LOSS_BUDGET, TaskQueue
from distexp.task import Cause, State
from tests.row_cases import a_task
from tests.support import Clock, examples

TASKS = [a_task(phase=phase, width=width) for phase in ("exp1", "exp2") for width in (1, 2, 3)]
KEYS = [task.key for task in TASKS]
TWIN = {
    task.key: other.key for task in TASKS for other in TASKS if task is not other and task.work == other.work
}
OUT = (State.ASSIGNED, State.COMPLETE)
key = st.sampled_from(KEYS)
worker = st.sampled_from(["cpu0", "cpu1", "cpu2"])


@dataclass
class Known:
    """What the model knows of the tasks: one state, three counts and at most one lease each."""

    state: dict[str, State] = field(default_factory=lambda: dict.fromkeys(KEYS, State.PENDING))
    attempts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    losses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    held: dict[str, Lease] = field(default_factory=dict)  # by key

    def forget(self, key: str) -> None:
        self.attempts[key] = self.failures[key] = self.losses[key] = 0


class QueueAndJournal(RuleBasedStateMachine):
    """Each rule does one thing to the queue and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.clock = Clock()
        self.rows: set[str] = set()  # what the results files hold
        self.known = self.durable = Known()
        self.ended: list[Lease] = []
        self.lost: dict[str, str] = {}  # key -> lease whose worker may come back
        self.unheard: dict[str, str] = {}  # key -> worker that may still run it, though it was cancelled
        self.wanted = set(KEYS)
        self.was_edited = False
        self.start()
        self.flush()

    def start(self) -> None:
        self.journal = Journal(Path(self.folder.name, "journal"))
        self.queue = TaskQueue(self.clock, self.journal.record)
        self.queue.sync(TASKS)
        assert self.queue.complete_unassigned(self.rows) == set()
        self.queue.restore(self.journal.load(TaskRecord))

    @property
    def state(self) -> dict[str, State]:
        return self.known.state

    @property
    def held(self) -> dict[str, Lease]:
        return self.known.held

    def teardown(self) -> None:
        self.journal._database.close()
        self.folder.cleanup()

    # -- the world ---------------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self.journal.flush()
        self.durable = deepcopy(self.known)

    @rule(worker=worker)
    def assign(self, worker: str) -> None:
        lease = self.queue.assign(WorkerInfo(worker, 15.0))
        if lease is None:
            assert not self.free(), "a task that waits for nobody was not assigned"
            return
        assert lease.task.key in self.free()
        self.known.attempts[lease.task.key] += 1
        assert lease.attempt == self.known.attempts[lease.task.key]
        self.take(lease)
        self.flush()

    def free(self) -> set[str]:
        def waits(key: str) -> bool:
            duplicate = TWIN[key]
            return duplicate in self.wanted and self.state[duplicate] in OUT

        pending = {key for key, state in self.state.items() if state is State.PENDING}
        return {key for key in pending if key not in self.unheard and not waits(key)}

    def take(self, lease: Lease) -> None:
        self.state[lease.task.key] = State.ASSIGNED
        self.held[lease.task.key] = lease
        self.lost.pop(lease.task.key, None)

    def drop(self, key: str, state: State) -> None:
        if key in self.held:
            self.ended.append(self.held.pop(key))
        if state is State.PENDING and key not in self.wanted:
            state = State.WITHDRAWN
        self.state[key] = state

    def report(
        self, key: str, answer: Callable[[str, str], State | None], budget: Callable[[], State]
    ) -> None:
        """Report about the live lease of a task, or, in vain, about the last one that has ended."""
        live = self.held.get(key)
        old = next((lease for lease in reversed(self.ended) if lease.task.key == key), None)
        if live is None:
            assert old is None or answer(old.lease_id, key) is None
            return
        expected = budget()
        self.drop(key, expected)
        assert answer(live.lease_id, key) is self.state[key]

    @rule(key=key)
    def fail(self, key: str) -> None:
        def budget() -> State:
            self.known.failures[key] += 1
            return State.FAILED if self.known.failures[key] >= FAILURE_BUDGET else State.PENDING

        self.report(key, lambda lease, key: self.queue.fail(lease, key, Cause.ERROR, "boom"), budget)

    @rule(key=key)
    def lose(self, key: str) -> None:
        def budget() -> State:
            self.known.losses[key] += 1
            self.lost[key] = self.held[key].lease_id
            return State.FAILED if self.known.losses[key] >= LOSS_BUDGET else State.PENDING

        self.report(key, self.queue.lose, budget)

    @rule(key=key)
    def release(self, key: str) -> None:
        self.report(key, self.queue.release, lambda: State.PENDING)

    @rule(data=st.data())
    @precondition(lambda self: self.ended)
    def late_heartbeat(self, data: Any) -> None:
        lease = data.draw(st.sampled_from(self.ended))
        is_withdrawn = self.state[lease.task.key] is State.WITHDRAWN
        is_free = is_withdrawn or lease.task.key in self.free()
        comes_back = self.lost.get(lease.task.key) == lease.lease_id and is_free
        is_live = lease.lease_id in {live.lease_id for live in self.held.values()}
        assert self.queue.heartbeat(lease.lease_id, lease.task.key, lease.worker) is (comes_back or is_live)
        if comes_back:
            self.take(lease)

    @rule(key=key)
    def a_row_appears(self, key: str) -> None:
        self.rows.add(key)
        is_over = self.state[key] is State.COMPLETE
        is_unassigned = self.state[key] is State.PENDING and not self.known.attempts[key]
        assert self.queue.complete_unassigned({key}) == (set() if is_unassigned or is_over else {key})
        is_news = self.queue.complete(key) is not None
        assert is_news is not (is_over or is_unassigned)
        self.drop(key, State.COMPLETE)

    @rule(key=key)
    def cancel(self, key: str) -> None:
        can = self.state[key] in (State.PENDING, State.ASSIGNED)
        assert self.queue.cancel(key) is can
        if can and key in self.held:
            self.unheard[key] = self.held[key].worker.name
        if can:
            self.drop(key, State.CANCELLED)

    @rule(worker=worker)
    def hear_of_cancelled_tasks(self, worker: str) -> None:
        self.queue.cancelled.heard(WorkerInfo(worker, 15.0))
        self.queue.block(set())  # as each rescan does
        self.unheard = {key: name for key, name in self.unheard.items() if name != worker}

    @rule(key=key)
    def requeue(self, key: str) -> None:
        can = self.state[key] in (State.FAILED, State.CANCELLED) and key in self.wanted
        assert self.queue.requeue(key) is can
        if can:
            self.known.failures[key] = self.known.losses[key] = 0
            self.state[key] = State.PENDING

    @rule(wanted=st.sets(key, min_size=1))
    def edit(self, wanted: set[str]) -> None:
        self.wanted, self.was_edited = wanted, self.was_edited or len(wanted) < len(KEYS)
        self.queue.sync([task for task in TASKS if task.key in wanted])
        for key, state in self.state.items():
            if state is State.WITHDRAWN and key in wanted:
                self.state[key] = State.PENDING
            if state is State.PENDING and key not in wanted:
                self.state[key] = State.WITHDRAWN

    @rule(key=key)
    def a_row_vanishes_and_its_task_is_asked_for_again(self, key: str) -> None:
        can = self.state[key] is State.COMPLETE and key in self.wanted
        if can:
            self.rows.remove(key)
        assert self.queue.reset_complete(key) is can
        if can:
            self.state[key] = State.PENDING
            self.known.forget(key)
            self.lost.pop(key, None)
        self.flush()

    @rule()
    def crash_and_start_again(self) -> None:
        self.journal._database.close()
        self.ended += self.held.values()
        self.known = deepcopy(self.durable)
        self.wanted = set(KEYS)  # a new manager knows only what is wanted
        self.lost.clear()
        self.unheard.clear()
        for key, state in self.known.state.items():
            if key in self.rows:  # they win over the journal: what the task has cost is of no more interest
                self.held.pop(key, None)
                self.known.state[key] = State.COMPLETE
                self.known.forget(key)
            elif state is State.WITHDRAWN:
                self.known.state[key] = State.PENDING
        self.start()

    # -- what always holds -------------------------------------------------------------------------------

    @invariant()
    def queue_and_model_agree(self) -> None:
        for entry in self.queue.entries():
            key = entry.task.key
            assert entry.state is self.state[key]
            counts = (entry.attempts, entry.failures, entry.losses)
            assert counts == (self.known.attempts[key], self.known.failures[key], self.known.losses[key])
            assert entry.failures <= FAILURE_BUDGET
            assert entry.losses <= LOSS_BUDGET
        assert {lease.task.key: lease.lease_id for lease in self.queue.leases()} == {
            key: lease.lease_id for key, lease in self.held.items()
        }
        assert {key for key in KEYS if key in self.queue.cancelled} == self.unheard.keys()
        numbers = self.queue.counts()
        states = [entry.state for entry in self.queue.entries()]
        assert numbers == {state: states.count(state) for state in State}
        assert self.queue.is_over() is not (numbers[State.PENDING] or numbers[State.ASSIGNED])

    @invariant()
    def no_work_is_out_twice(self) -> None:
        works = [task.task.work for task in self.held.values()]
        assert (
            len(works) == len(set(works)) or self.was_edited
        )  # a running task that left holds up no duplicate


TestQueueAndJournal = QueueAndJournal.TestCase
TestQueueAndJournal.settings = examples(10, stateful_step_count=50)
