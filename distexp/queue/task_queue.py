"""Every task of the sweep: its state, its lease, what it has cost. An injected clock, no I/O.

Every state change goes through `_transition`, which refuses what `TRANSITIONS` does not hold; beside it stand
`complete_unassigned`, for a million tasks at once, and `reset_complete`. What must outlive the manager leaves
through `on_change`, called under the lock, in the order of the changes.
"""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace

from distexp.errors import IllegalTransition, UnknownTask
from distexp.queue.cancelled import CancelledAttempts
from distexp.queue.counts import StateCounts
from distexp.queue.entry import REATTACH_S, TRANSITIONS, UNSTARTED_S, Entry, Lease, WorkerInfo
from distexp.queue.holds import BEFORE_BEGIN, COUNTED, PhaseHolds
from distexp.queue.lookup import Labels
from distexp.queue.priorities import Priorities
from distexp.queue.queries import Queries
from distexp.queue.records import TaskRecord
from distexp.queue.scheduler import Scheduler
from distexp.sweep.grid import Grid, Planned
from distexp.task import Cause, State

FAILURE_BUDGET = 3  # failures of the experiment before the task stands as failed
LOSS_BUDGET = 5  # losses of the worker: not the task's fault, so more patience, but a killer task must end


class TaskQueue:
    """Every task of the sweep and who runs it.  Safe from any thread."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_change: Callable[[TaskRecord], None],
        *,
        keep_going: bool = False,
        waits_for_row: Collection[str] = (),
        priorities: Priorities | None = None,
    ) -> None:
        """Read time (seconds, monotonic) from `clock`; call `on_change` under the lock with every change.

        With `keep_going` no phase is held. Keys in `waits_for_row`, which may change, are not assigned.
        """
        self._clock, self._on_change = clock, on_change
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self.holds = PhaseHolds(self._lock, keep_going=keep_going)
        self.priorities = priorities or Priorities()
        self.cancelled = CancelledAttempts(self._lock, clock)
        self._scheduler = Scheduler(self._entries, self.holds, self.priorities, waits_for_row, self.cancelled)
        self._leases: dict[str, str] = {}  # live lease id -> key
        self._labels: Labels | None = None  # of the sweep; made when first asked for
        self._counts = StateCounts()
        self.queries = Queries(self._lock, self._entries, self._scheduler, self._counts)
        self._failed_ever = 0

    # -- the sweep -----------------------------------------------------------------------------------------

    def sync(self, tasks: Sequence[Planned], to_come: Mapping[Grid, int] = {}) -> tuple[int, int]:
        """Make `tasks` the sweep and return how many joined it and how many pending ones left it.

        A task that left while it ran finishes first; ended ones keep their state. More are `to_come`.
        """
        with self._lock:
            known = {task.key: task for task in tasks if task.key in self._entries}
            left = [entry for key, entry in self._entries.items() if key not in known]
            new = [(task.key, Entry(task)) for task in tasks if task.key not in known]  # a million, perhaps
            self._entries.update(new)
            self._counts.add_each(Counter(entry.planned.phase for _, entry in new), State.PENDING)
            joined = len(new) + sum([self._take_over(task) for task in known.values()])
            gone = [entry for entry in left if entry.state is State.PENDING]
            for entry in left:
                entry.is_wanted = False
            for entry in gone:
                self._transition(entry, State.WITHDRAWN)
            self._scheduler.sync(tasks, to_come)
            self._counts.to_come, self._labels = {grid.phase: n for grid, n in to_come.items()}, None
            return joined, len(gone)

    def grow(self, phase: str, tasks: Sequence[Planned], to_come: int) -> None:
        """Let new tasks of a phase join, of which so many more are to come: the sweep is not over before."""
        with self._lock:
            for task in tasks:
                if task.key in self._entries:  # an earlier edit took it out of the sweep
                    self._take_over(task)
                else:
                    self._entries[task.key] = Entry(task)
                    self._counts.add_each({phase: 1}, State.PENDING)
            self._scheduler.grow(tasks)
            self._counts.to_come, self._labels = {**self._counts.to_come, phase: to_come}, None

    def _take_over(self, task: Planned) -> bool:
        """Return whether a task of the sweep before was out of it, and is back."""
        entry = self._entries[task.key]
        needed, entry.planned, entry.is_wanted = entry.need, task, True  # label and folder may have moved
        if entry.state is State.PENDING and entry.need != needed:
            self._scheduler.push_retry(task.key)
        if entry.state is State.WITHDRAWN:
            self._transition(entry, State.PENDING)
            return True
        return False

    def restore(self, records: Iterable[TaskRecord], *, retry_failed: bool = False) -> None:
        """Take over what an earlier manager knew about tasks of this sweep; call before the first request.

        Each live lease gets what is left of `REATTACH_S`; one without heartbeats its full time, as it shows
        up only when it is done. Failures before a begin are forgotten, with `retry_failed` all.
        """
        with self._lock:
            for record in records:
                entry = self._entries.get(record.key)
                if entry is None or entry.state is not State.PENDING:
                    if entry is not None and not record.is_settled:  # its row came meanwhile
                        self._on_change(entry.record())
                    continue
                if record.attempts:
                    self._scheduler.push_retry(record.key)
                entry.recall(record)
                is_retried = retry_failed and record.state == State.FAILED
                if is_forgotten := is_retried or record.cause in BEFORE_BEGIN:
                    entry.failures = entry.losses = entry.oom_at_mib = entry.full_disks = 0
                if (held := record.lease) is not None:
                    worker = WorkerInfo.of(held)
                    term_s = max(0.0, REATTACH_S - held.unseen_s) if worker.heartbeat_s else worker.term_s
                    self._assign(entry, held.lease_id, worker, term_s, is_unstarted=held.is_unstarted)
                elif record.state in (State.FAILED, State.CANCELLED) and not is_forgotten:
                    if record.state == State.FAILED:
                        self._transition(entry, State.ASSIGNED)  # by way of the table
                    self._transition(entry, State(record.state))

    # -- assigning -----------------------------------------------------------------------------------------

    def assign(self, worker: WorkerInfo, *, is_unstarted: bool = False) -> Lease | None:
        """Assign a pending task, or return None when none is free for this worker.

        With `is_unstarted` the worker has waited, and may be gone: its first heartbeat for the task, without
        which a loss costs nothing, has to come within `UNSTARTED_S`.
        """
        with self._lock:
            now_s = self._clock()
            if (entry := self._scheduler.pop_next(worker, now_s)) is None:
                return None
            entry.attempts += 1
            self.holds.assigned(entry.planned.phase, entry.key, worker, now_s)
            lease_id = secrets.token_hex(8)
            term_s = min(UNSTARTED_S, worker.term_s) if is_unstarted else worker.term_s
            return self._assign(entry, lease_id, worker, term_s, now_s, is_unstarted=is_unstarted)

    def _assign(
        self,
        entry: Entry,
        lease_id: str,
        worker: WorkerInfo,
        term_s: float,
        since_s: float | None = None,
        *,
        is_unstarted: bool = False,
    ) -> Lease:
        about = lease_id, entry.task, worker, entry.attempts, self._clock() + term_s, since_s
        entry.lease = Lease(*about, earlier_worker=entry.last_worker, is_unstarted=is_unstarted)
        entry.last_worker = worker.name
        entry.lost_lease_id = ""
        self._leases[lease_id] = entry.key
        self._transition(entry, State.ASSIGNED)
        return entry.lease

    def heartbeat(self, lease_id: str, key: str, worker: WorkerInfo) -> bool:
        """Return whether the attempt may go on; extends its lease.

        A worker that was thought to be lost comes back to its task, also a withdrawn one, when nobody else
        has it or its duplicate.
        """
        with self._lock:
            entry = self._entry(key)
            is_back = entry.lost_lease_id == lease_id != "" and not self._scheduler.waits_for_duplicate(entry)
            if is_back and entry.state is State.WITHDRAWN:
                self._transition(entry, State.PENDING)
            if is_back and entry.state is State.PENDING:
                self._assign(entry, lease_id, worker, worker.term_s)
            if entry.lease is None or entry.lease.lease_id != lease_id:
                return False
            lease, until_s = entry.lease, self._clock() + worker.term_s
            entry.lease = replace(lease, worker=worker, until_s=until_s, unseen_s=0.0, is_unstarted=False)
            if lease.unseen_s > 0 or lease.is_unstarted:
                self._on_change(entry.record())
            return True

    def disconnect(self, connection: int) -> list[Lease]:
        """Shorten the leases of a broken connection and return them; not of a worker without heartbeats."""
        return self.update_leases(lambda lease: lease.disconnected(connection, self._clock()))

    def update_leases(self, update: Callable[[Lease], Lease], *, is_recorded: bool = False) -> list[Lease]:
        """Replace each live lease by what `update` makes of it; return those that are new."""
        with self._lock:
            pairs = [(lease, update(lease)) for lease in self.leases()]
            changed = [new for lease, new in pairs if new is not lease]
            self.cancelled.update(update)
            for lease in changed:
                entry = self._entries[lease.task.key]
                entry.lease = lease
                if is_recorded:
                    self._on_change(entry.record())
            return changed

    # -- endings -----------------------------------------------------------------------------------------

    def complete_unassigned(self, keys: Set[str]) -> set[str]:
        """Mark pending tasks, never assigned, as complete, in few steps; return the keys of others."""
        others, done, pending, complete = set[str](), Counter[str](), State.PENDING, State.COMPLETE
        with self._lock:
            for entry in self._known(keys):
                if entry.state is pending and not entry.attempts:
                    entry.state = complete
                    done[entry.planned.phase] += 1
                elif entry.state is not complete:
                    others.add(entry.key)
            self._counts.move_each(done, pending, complete)
        return others

    def complete(self, key: str, state: State = State.COMPLETE, *, is_reported: bool = False) -> Entry | None:
        """Mark a task whose row is on disk as complete, or as pruned; None when that row does not end it.

        Complete is legal from any other state, pruned from any but complete: the first valid row wins,
        whoever wrote it. A row that says pruned ends no task that runs again because more is wanted, unless
        its worker has reported it.
        Returns the entry before that.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or state not in TRANSITIONS[entry.state]:
                return None
            if state is State.PRUNED and entry.wants_more and not is_reported:
                return None
            before = entry.copy()
            if entry.attempts:
                self.holds.succeeded(entry.planned.phase)
            entry.cause, entry.error, entry.superseded, entry.wants_more = "", "", "", False
            self._end_lease(entry)
            self._transition(entry, state)
            return before

    def fail(self, lease_id: str, key: str, cause: Cause, error: str, *, retry: bool = True) -> State | None:
        """Charge a failure of the experiment and return the task's new state; None when that lease has ended.

        Without `retry`, or when the budget is spent, the task stands as failed. While its phase is held, a
        failure is not charged; those that led to the hold are taken back.
        """
        with self._lock:
            if (entry := self._held(lease_id, key)) is None:
                return None
            phase = entry.planned.phase
            free = [entry] if phase in self.holds.held and cause in COUNTED else []
            entry.failures += 1
            entry.cause, entry.error = cause.value, error
            free += [self._entries[each] for each in self.holds.failed(phase, key, cause, error)]
            for each in free:
                each.failures = max(0, each.failures - 1)
                self._on_change(each.record())
            if cause is Cause.OUT_OF_MEMORY and entry.lease is not None:
                entry.oom_at_mib = max(entry.oom_at_mib, entry.lease.worker.memory_mib)
            spent = not retry or entry.failures >= FAILURE_BUDGET
            return self._give_back(entry, State.FAILED if spent else State.PENDING)

    def lose(self, lease_id: str, key: str) -> State | None:
        """Charge a loss of the worker and return the task's new state; None when that lease has ended."""
        with self._lock:
            if (entry := self._held(lease_id, key)) is None:
                return None
            entry.losses += 1
            entry.lost_lease_id = lease_id
            self.holds.taken_back(entry.planned.phase, key)
            if spent := entry.losses >= LOSS_BUDGET:
                entry.cause, entry.error = Cause.CRASH, f"{LOSS_BUDGET} workers were lost while running it"
            return self._give_back(entry, State.FAILED if spent else State.PENDING)

    def fail_unplaceable(self, largest_mib: Callable[[int], int | None]) -> list[Entry]:
        """Fail, and return, the tasks that no device has the memory for, once nothing else is left to run.

        `largest_mib`: of the largest device of so many GPUs; None: such a task waits for one.
        """
        with self._lock:
            if self._counts[State.ASSIGNED] or self._counts.coming() - {*self.holds.held}:
                return []
            pending = self._scheduler.unplaceable(lambda e: e.is_beyond(largest_mib(e.need.gpus)))
            for entry in pending:
                self._transition(entry, State.ASSIGNED)  # by way of the table
                self._transition(entry, State.FAILED)
            return [entry.copy() for entry in pending]

    def not_begun(self, lease_id: str, key: str, cause: Cause, error: str) -> bool:
        """Take a task back, free, that cannot be begun, and hold its phase; False when nothing changes."""
        with self._lock:
            if (entry := self._held(lease_id, key)) is None or entry.lease is None:
                return False
            if not self.holds.not_begun(entry.planned.phase, cause, error, entry.lease.worker):
                return False
            entry.cause, entry.error = cause.value, error
            self._give_back(entry, State.PENDING)
            return True

    def release(
        self, lease_id: str, key: str, *, runs_alone: bool = False, met_full_disk: bool = False
    ) -> State | None:
        """Take a task back without cost, perhaps to run alone on its GPU; None when that lease has ended."""
        with self._lock:
            if (entry := self._held(lease_id, key)) is None:
                return None
            entry.runs_alone = entry.runs_alone or runs_alone
            entry.full_disks += met_full_disk
            self.holds.taken_back(entry.planned.phase, key)
            return self._give_back(entry, State.PENDING)

    def unassign(self, lease: Lease) -> None:
        """Undo an assignment that nobody has heard of: it counts as no attempt."""
        with self._lock:
            if (entry := self._held(lease.lease_id, lease.task.key)) is None:
                return
            entry.attempts -= 1
            self.holds.taken_back(entry.planned.phase, entry.key)
            entry.last_worker = lease.earlier_worker
            self._give_back(entry, State.PENDING)
            self._on_change(entry.record())  # also of a first attempt: it replaces the record of the lease
            self._scheduler.push_front(entry)

    def take_back_unstarted(self, lease: Lease) -> bool:
        """Undo an assignment to a worker that left before it began; False when it has begun, or has ended."""
        with self._lock:
            entry = self._held(lease.lease_id, lease.task.key)
            if entry is None or entry.lease is None or not entry.lease.is_unstarted:
                return False
            self.unassign(lease)
            return True

    def cancel(self, key: str, *, cause: str = "", error: str = "cancelled by the user") -> bool:
        """Cancel a pending or assigned task; False when it has ended already."""
        with self._lock:
            if (entry := self._entry(key)).state not in (State.PENDING, State.ASSIGNED):
                return False
            entry.cause, entry.error = cause, error
            if entry.lease is not None:
                self.cancelled.add(entry.lease)
                self.holds.taken_back(entry.planned.phase, key)
            self._end_lease(entry)
            self._transition(entry, State.CANCELLED)
            return True

    def requeue(self, key: str) -> bool:
        """Give a failed, cancelled or pruned task new budgets; False if it is none, or left the sweep."""
        with self._lock:
            entry = self._entry(key)
            if entry.state not in (State.FAILED, State.CANCELLED, State.PRUNED) or not entry.is_wanted:
                return False
            entry.wants_more = entry.wants_more or entry.state is State.PRUNED
            entry.failures = entry.losses = entry.oom_at_mib = entry.full_disks = 0
            entry.cause = entry.error = ""
            self._transition(entry, State.PENDING)
            return True

    def reset_complete(self, key: str, superseded: str = "") -> bool:
        """Start a complete task all over again; False as for `requeue`.

        Its row has vanished, or was made with the code `superseded` and counts no more.
        """
        with self._lock:
            entry = self._entry(key)
            if entry.state is not State.COMPLETE or not entry.is_wanted:
                return False
            self._counts.move(entry.planned.phase, State.COMPLETE, State.PENDING)
            self._entries[key] = Entry(entry.planned, superseded=superseded)
            self._scheduler.push(entry.planned)
            self._on_change(self._entries[key].record())
            self._scheduler.wake_duplicates(entry)
            return True

    def run_beside(self, key: str, duplicate: str) -> None:
        """Let a task run although this duplicate of it is complete, until the next `sync`."""
        with self._lock:
            self._scheduler.run_beside(key, duplicate)

    def _held(self, lease_id: str, key: str) -> Entry | None:
        entry = self._entry(key)
        return entry if entry.lease is not None and entry.lease.lease_id == lease_id else None

    def _give_back(self, entry: Entry, state: State) -> State:
        self._end_lease(entry)
        self._transition(entry, state)
        if state is State.PENDING and not entry.is_wanted:
            self._transition(entry, State.WITHDRAWN)
        return entry.state

    def _end_lease(self, entry: Entry) -> None:
        if entry.lease is not None:
            del self._leases[entry.lease.lease_id]
            entry.lease = None
            self.holds.ended(entry.planned.phase, entry.key)

    # -- looking -------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Return the time on the queue's clock, by which leases are counted."""
        return self._clock()

    def counts(self) -> dict[State, int]:
        """Return the number of tasks in each state; those that are to come count as pending."""
        with self._lock:
            return self._counts.in_all()

    def failed_ever(self) -> int:
        """Return how often a task has become failed: unlike the number of failed ones, it never falls."""
        return self._failed_ever

    def entry(self, key: str) -> Entry:
        """Return a copy of the entry.

        Raises:
            UnknownTask: No task has this key.
        """
        with self._lock:
            return self._entry(key).copy()

    def knows(self, key: str) -> bool:
        """Return whether a task has this key."""
        return key in self._entries

    def key_of(self, task_id: str) -> str:
        """Return the key of the task that has this label now, or of the one that has this key.

        Raises:
            UnknownTask: None has.
        """
        with self._lock:
            if self._labels is None:
                self._labels = Labels([each.planned for each in self._entries.values() if each.is_wanted])
            key = task_id if task_id in self._entries else self._labels.key_of(task_id)
            if key is None:
                raise UnknownTask(f"task {task_id!r} is not in this sweep; `tasks` lists those that are")
            return key

    def entries(self, state: State | None = None) -> list[Entry]:
        """Return copies of all entries, or of those in one state, in the order of the sweep."""
        with self._lock:
            return [entry.copy() for entry in self._entries.values() if state in (None, entry.state)]

    def block(self, folders: Set[str]) -> None:
        """Assign no task whose row goes to one of these folders, until they are no longer among them."""
        with self._lock:
            self._scheduler.block(folders)

    def can_run(self, stuck: int = 0) -> bool:
        """Return whether a task runs, other than `stuck` ones, or is pending and neither held nor blocked."""
        with self._lock:
            return self._counts[State.ASSIGNED] > stuck or self._scheduler.can_run(self._counts)

    def is_over(self) -> bool:
        """Return whether every task of the sweep is complete, failed, cancelled or pruned."""
        with self._lock:
            return self._counts.are_over()

    def overdue(self, now_s: float) -> list[Lease]:
        """Return the leases whose time is up; `lose` ends them, once their results file has been read."""
        return [lease for lease in self.leases() if lease.until_s <= now_s]

    def leases(self) -> list[Lease]:
        """Return the live leases."""
        with self._lock:
            return [lease for key in self._leases.values() if (lease := self._entries[key].lease)]

    def is_live(self, lease: Lease) -> bool:
        """Return whether the lease has not ended."""
        return lease.lease_id in self._leases

    # -- the table ---------------------------------------------------------------------------------------

    def _transition(self, entry: Entry, state: State) -> None:
        if state not in TRANSITIONS[entry.state]:
            raise IllegalTransition(f"{entry.task.task_id}: {entry.state} -> {state} is not in the table")
        was, entry.state = entry.state, state
        self._counts.move(entry.planned.phase, was, state)
        self._failed_ever += state is State.FAILED
        if state is State.PENDING:
            self._scheduler.push_retry(entry.key)
        if state not in (State.ASSIGNED, State.COMPLETE):
            self._scheduler.wake_duplicates(entry)
        if entry.attempts or State.CANCELLED in (was, state):  # what never was assigned has no history
            self._on_change(entry.record())

    def _known(self, keys: Set[str]) -> list[Entry]:
        """Return the entries of those keys that there are.  Caller holds the lock."""
        if len(keys) > len(self._entries) / 8:  # memory is read much faster in its order
            return [entry for key, entry in self._entries.items() if key in keys]
        return [self._entries[key] for key in keys if key in self._entries]

    def _entry(self, key: str) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise UnknownTask(f"task {key} is not in this sweep; `tasks` lists those that are")
        return entry
