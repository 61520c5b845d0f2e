"""Every task of the sweep: one table of states, an injected clock, no I/O.

Every state change goes through `_move`, which refuses what the table `TRANSITIONS` does not hold; beside it
stand `complete_unlent`, for a million tasks at once, and `readmit`, which starts a complete task all over
again. What must outlive the manager leaves through `on_change`, called under the lock, in the order of the
changes.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace

from distexp.errors import IllegalTransition
from distexp.queue.entry import TRANSITIONS, Entry, Lease, WorkerInfo
from distexp.queue.register import Register
from distexp.sweep.grid import Planned
from distexp.task import Cause, State, TaskRecord

FAILURE_BUDGET = 3  # failures of the experiment before the task stands as failed
LOSS_BUDGET = 5  # losses of the worker: not the task's fault, so more patience, but a killer task must end
RECONNECT_S = 10.0  # a broken connection may be a hiccup of the network
REATTACH_S = 60.0  # after a restart of the manager, each known lease gets this long to show up


class TaskQueue(Register):
    """Every task of the sweep and who runs it.  Safe from any thread."""

    def __init__(self, clock: Callable[[], float], on_change: Callable[[TaskRecord], None]) -> None:
        """Read time (seconds, monotonic) from `clock`; hand every change to `on_change` under the lock."""
        super().__init__(clock)
        self._on_change = on_change

    def sync(self, tasks: Sequence[Planned]) -> tuple[int, int]:
        """Make `tasks` the sweep and return how many joined it and how many pending ones left it.

        A task that left while it was running finishes first; ended ones keep their state.
        """
        with self._lock:
            known = {task.key: task for task in tasks if task.key in self._entries}
            left = [entry for key, entry in self._entries.items() if key not in known]
            self._begin([task for task in tasks if task.key not in known])
            joined = len(tasks) - len(known) + sum([self._take_over(task) for task in known.values()])
            gone = [entry for entry in left if entry.state is State.PENDING]
            for entry in left:
                entry.is_wanted = False
            for entry in gone:
                self._transition(entry, State.WITHDRAWN)
            self._labels = None
            self._scheduler.sync(tasks)
            return joined, len(gone)

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

    def _begin(self, tasks: Sequence[Planned]) -> None:
        """Take new tasks up, in few steps: there may be a million."""
        self._entries.update([(task.key, Entry(task)) for task in tasks])
        self._counts[State.PENDING] += len(tasks)
        self._scheduler.join(tasks)

    def restore(self, records: Iterable[TaskRecord], *, retry_failed: bool = False) -> None:
        """Take over what an earlier manager knew about tasks of this sweep; call before the first request.

        Each live lease gets `REATTACH_S` to show up; one without beats, which shows up only when it is done,
        its full time. Failures by import are forgotten (the module may be mended), with `retry_failed` all.
        """
        with self._lock:
            for record in records:
                entry = self._entries.get(record.key)
                if entry is None or entry.state is not State.PENDING:
                    if entry is not None and record.lease is not None:  # its row came meanwhile
                        self._on_change(entry.record())
                    continue
                if record.attempts:
                    self._scheduler.push_retry(record.key)
                if record.cause == Cause.IMPORT or (retry_failed and record.state == State.FAILED):
                    entry.attempts = record.attempts
                    continue
                entry.recall(record)
                if (held := record.lease) is not None:
                    worker = WorkerInfo(held.worker, held.heartbeat_s, held.memory_mib, None, held.instance)
                    term_s = REATTACH_S if worker.heartbeat_s else worker.term_s
                    self._assign(entry, held.lease_id, worker, term_s)
                elif record.state in (State.FAILED, State.CANCELLED):
                    self._settle(entry, State(record.state))

    def _settle(self, entry: Entry, state: State) -> None:
        """Reach an ended state by moves of the table, though nobody holds the task."""
        if state is State.FAILED:
            self._transition(entry, State.ASSIGNED)
        self._transition(entry, state)

    # -- assigning -----------------------------------------------------------------------------------------

    def assign(self, worker: WorkerInfo) -> Lease | None:
        """Assign a pending task, or return None when none is free for this worker."""
        with self._lock:
            if (entry := self._scheduler.take(worker)) is None:
                return None
            entry.attempts += 1
            return self._assign(entry, secrets.token_hex(8), worker, worker.term_s, self._clock())

    def _assign(
        self, entry: Entry, lease_id: str, worker: WorkerInfo, term_s: float, since_s: float | None = None
    ) -> Lease:
        until_s = self._clock() + term_s
        entry.lease = Lease(lease_id, entry.task, worker, entry.attempts, until_s, since_s)
        entry.last_worker = worker.name
        entry.lost_lease_id = ""
        self._leases[lease_id] = entry.key
        self._transition(entry, State.ASSIGNED)
        return entry.lease

    def heartbeat(self, lease_id: str, key: str, worker: WorkerInfo) -> bool:
        """Return whether the attempt may go on; extends its lease.

        A worker that was given up comes back to its task when nobody else has it or its duplicate. A task
        that was withdrawn meanwhile finishes, too.
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
            until_s = self._clock() + worker.term_s
            entry.lease = replace(entry.lease, worker=worker, until_s=until_s)
            return True

    def disconnect(self, connection: int) -> list[Lease]:
        """Shorten the leases of a broken connection to `RECONNECT_S` and return them.

        A worker that never beats may disconnect: its lease stays as it is.
        """
        with self._lock:
            shortened = []
            until_s = self._clock() + RECONNECT_S
            for lease in self.leases():
                if lease.worker.connection == connection and lease.worker.heartbeat_s is not None:
                    entry = self._entries[lease.task.key]
                    entry.lease = replace(lease, until_s=min(lease.until_s, until_s))
                    shortened.append(entry.lease)
            return shortened

    # -- endings -----------------------------------------------------------------------------------------

    def complete_unassigned(self, keys: Set[str]) -> set[str]:
        """Mark pending tasks, never assigned, as complete, in few steps; return the keys of others."""
        others, done, pending, complete = set[str](), 0, State.PENDING, State.COMPLETE
        with self._lock:
            for entry in self._known(keys):
                if entry.state is pending and not entry.attempts:
                    entry.state = complete
                    done += 1
                elif entry.state is not complete:
                    others.add(entry.key)
            self._counts.update({pending: -done, complete: done})
        return others

    def complete(self, key: str) -> Entry | None:
        """Mark a task whose row is on disk as complete; None when it is no news.

        Legal from any other state: the first valid row wins, whoever wrote it. Returns the entry before that.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.state is State.COMPLETE:
                return None
            before = entry.copy()
            entry.cause = entry.error = ""
            self._end_lease(entry)
            self._transition(entry, State.COMPLETE)
            return before

    def fail(self, lease_id: str, key: str, cause: Cause, error: str, *, retry: bool = True) -> State | None:
        """Charge a failure of the experiment and return the task's new state; None when that lease has ended.

        Without `retry`, or when the budget is spent, the task stands as failed.
        """
        with self._lock:
            entry = self._held(lease_id, key)
            if entry is None:
                return None
            entry.failures += 1
            entry.cause, entry.error = cause.value, error
            if cause is Cause.OUT_OF_MEMORY and entry.lease is not None:
                entry.oom_at_mib = max(entry.oom_at_mib, entry.lease.worker.memory_mib)
            spent = not retry or entry.failures >= FAILURE_BUDGET
            return self._give_back(entry, State.FAILED if spent else State.PENDING)

    def lose(self, lease_id: str, key: str) -> State | None:
        """Charge a loss of the worker and return the task's new state; None when that lease has ended."""
        with self._lock:
            entry = self._held(lease_id, key)
            if entry is None:
                return None
            entry.losses += 1
            entry.lost_lease_id = lease_id
            spent = entry.losses >= LOSS_BUDGET
            if spent:
                entry.cause = Cause.CRASH.value
                entry.error = f"{LOSS_BUDGET} workers were lost while running it"
            return self._give_back(entry, State.FAILED if spent else State.PENDING)

    def fail_unplaceable(self, largest_mib: Callable[[int], int | None]) -> list[Entry]:
        """Fail, and return, the tasks that no device has the memory for, once nothing else is left.

        `largest_mib`: of the largest device of so many cards; None: such a task waits for one.
        """
        with self._lock:
            if self._counts[State.ASSIGNED]:
                return []
            pending, number = self._scheduler.retries(), self._counts[State.PENDING]
            if len(pending) < number or not all(e.is_beyond(largest_mib(e.need.gpus)) for e in pending):
                return []
            for entry in pending:
                self._settle(entry, State.FAILED)
            return [entry.copy() for entry in pending]

    def release(self, lease_id: str, key: str) -> State | None:
        """Take a task back that was returned on purpose, without cost; None when that lease has ended."""
        with self._lock:
            entry = self._held(lease_id, key)
            return None if entry is None else self._give_back(entry, State.PENDING)

    def cancel(self, key: str, *, cause: str = "", error: str = "cancelled by the user") -> bool:
        """Cancel a pending or assigned task; False when it has ended already."""
        with self._lock:
            entry = self._entry(key)
            if entry.state not in (State.PENDING, State.ASSIGNED):
                return False
            entry.cause, entry.error = cause, error
            self._end_lease(entry)
            self._transition(entry, State.CANCELLED)
            return True

    def requeue(self, key: str) -> bool:
        """Give a failed or cancelled task new budgets; False in any other state, or if it left the sweep."""
        with self._lock:
            entry = self._entry(key)
            if entry.state not in (State.FAILED, State.CANCELLED) or not entry.is_wanted:
                return False
            entry.failures = entry.losses = entry.oom_at_mib = 0
            entry.cause = entry.error = ""
            self._transition(entry, State.PENDING)
            return True

    def reset_complete(self, key: str) -> bool:
        """Start a complete task whose row has vanished all over again; False as for `requeue`."""
        with self._lock:
            entry = self._entry(key)
            if entry.state is not State.COMPLETE or not entry.is_wanted:
                return False
            self._counts[State.COMPLETE] -= 1
            self._begin([entry.planned])
            self._on_change(self._entries[key].record())
            self._scheduler.wake_duplicates(entry)
            return True

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

    # -- the table ---------------------------------------------------------------------------------------

    def _transition(self, entry: Entry, state: State) -> None:
        if state not in TRANSITIONS[entry.state]:
            raise IllegalTransition(f"{entry.task.task_id}: {entry.state} -> {state} is not in the table")
        was, entry.state = entry.state, state
        self._counts[was] -= 1
        self._counts[state] += 1
        self._failed_ever += state is State.FAILED
        if state is State.PENDING:
            self._scheduler.push_retry(entry.key)
        if state not in (State.ASSIGNED, State.COMPLETE):
            self._scheduler.wake_duplicates(entry)
        if entry.attempts or State.CANCELLED in (was, state):  # what never was assigned has no history
            self._on_change(entry.record())
