"""Chooses which pending task a worker gets next: the order of the sweep, retries, needs, duplicates.

It looks at states and changes none; that is for `task_queue`, which calls it under its lock. Two tasks are
duplicates when they ask for the same work: while one runs or is complete, the other waits. Tasks wait in
lines by need and phase, so that those that do not fit a worker, or its time, block no others.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence, Set

from distexp.queue.counts import StateCounts
from distexp.queue.entry import Entry, WorkerInfo
from distexp.queue.holds import PhaseHolds
from distexp.queue.priorities import Priorities
from distexp.sweep.grid import Grid, GridPoint, Planned, duplicates_among
from distexp.task import MAX_PRIORITY, Need, State

EARLIER_LOOK = 1000  # first attempts looked at for a worker of an earlier version, which few tasks suit
RETRY_LOOK = 128  # retries looked at per request and line: assigning costs the same however many wait


class TaskLines:
    """Keys of tasks of one need and phase; stale ones are dropped when met."""

    def __init__(self) -> None:
        self.fresh: deque[str] = deque()  # in the order of the sweep
        self.retry: deque[str] = deque()  # came back: assigned before, withdrawn, duplicates, edited


RankedLines = tuple[tuple[int, Need], str, TaskLines]  # priority and need, phase, its tasks


class Scheduler:
    """The pending tasks, in two lines for each need and phase.  Caller holds the lock."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        holds: PhaseHolds,
        priorities: Priorities,
        waits_for_row: Collection[str] = (),
        cancelled: Container[str] = (),
    ) -> None:
        """Look into these, of which `entries` are by key; they change meanwhile.

        Tasks with keys in `waits_for_row`, or that were `cancelled` and may still run, are passed over.
        """
        self._entries, self._holds, self._waits_for_row = entries, holds, waits_for_row
        self._cancelled = cancelled
        self._priorities = priorities
        self._lines: dict[tuple[Need, str], TaskLines] = {}  # by need and phase, as phases joined
        self._duplicates: dict[str, list[str]] = {}  # key -> keys of the same work, where there are several
        self._phases: set[str] = set()  # of the sweep
        self._not_copied: set[tuple[str, str]] = set()  # of a task, and a complete duplicate that it ignores
        self._blocked: Set[str] = frozenset()  # folders whose results file cannot be written
        self._parked: dict[str, list[str]] = {}  # by folder, keys of tasks of those, out of their lines
        self._waiting: list[str] = []  # keys of tasks that wait for a row, or an end, out of their lines
        self._looked_at: object = None  # when it was last looked for what is free
        self._has_free = False  # and whether something was

    def push(self, task: Planned) -> None:
        """Add a task at the end of its phase."""
        self._of(task.need, task.phase).fresh.append(task.key)

    def push_retry(self, key: str) -> None:
        """Put a task that is pending again, or has another need, among the retries."""
        entry = self._entries[key]
        self._of(entry.need, entry.planned.phase).retry.append(key)

    def push_front(self, entry: Entry) -> None:
        """Put a pending task where it was taken from: an assignment was undone."""
        lines = self._of(entry.need, entry.planned.phase)
        (lines.retry if entry.attempts else lines.fresh).appendleft(entry.key)

    def retries(self) -> list[Entry]:
        """Return the pending tasks among the retries, by a walk; not those that wait for a duplicate."""
        keys = dict.fromkeys(itertools.chain.from_iterable(lines.retry for lines in self._lines.values()))
        return [entry for key in keys if (entry := self._entries[key]).state is State.PENDING]

    def _of(self, need: Need, phase: str) -> TaskLines:
        if (need, phase) not in self._lines:
            self._lines[need, phase] = TaskLines()
        return self._lines[need, phase]

    def sync(self, tasks: Sequence[Planned], growing: Iterable[Grid] = ()) -> None:
        """Put what has never been assigned into the order of these tasks, which are the sweep now.

        Of the `growing` grids more will come. Priorities and duplicates are found anew; those whose
        duplicate has left wait for nobody now.
        """
        stated = {grid.phase: grid.priority for grid in growing}
        for lines in self._lines.values():
            lines.fresh.clear()
        for kind, group in itertools.groupby(tasks, lambda t: t.grid if isinstance(t, GridPoint) else t):
            stated[kind.phase] = kind.priority if isinstance(kind, Grid) else 0
            fresh = [task.key for task in group if self._entries[task.key].state is State.PENDING]
            self._of(kind.need, kind.phase).fresh.extend(fresh)
        for key in self._take_parked([*self._parked]):
            if self._entries[key].attempts:  # the others are in line again
                self.push_retry(key)
        self._looked_at = None
        self._priorities.sync(stated)
        for key in self._duplicates:
            self.push_retry(key)
        self._duplicates = duplicates_among(tasks)
        self._not_copied.clear()
        self._phases = {*stated}

    def grow(self, tasks: Sequence[Planned]) -> None:
        """Add tasks at the end of a phase, and find their duplicates in others."""
        for task in tasks:
            self.push(task)
            keys = [key for phase in self._phases if self._is_wanted(key := task.task.key_in(phase))]
            if len(keys) > 1:
                self._duplicates |= dict.fromkeys(keys, keys)

    def _is_wanted(self, key: str) -> bool:
        return key in self._entries and self._entries[key].is_wanted

    def block(self, folders: Set[str]) -> None:
        """Pass over tasks whose rows go to these folders; those of other folders wait as before."""
        self._blocked = frozenset(folders)
        for key in self._take_parked([folder for folder in self._parked if folder not in folders]):
            entry = self._entries[key]
            if entry.attempts:
                self.push_retry(key)
            else:
                self._of(entry.need, entry.planned.phase).fresh.append(key)

    def _take_parked(self, folders: Sequence[str]) -> list[str]:
        """Return, and forget, what is out of its line for these folders, a row or an end."""
        taken, self._waiting = self._waiting, []
        return taken + [key for folder in folders for key in self._parked.pop(folder)]

    def can_run(self, counts: StateCounts) -> bool:
        """Return whether a task is pending, or to come, and neither held nor blocked."""
        if counts[State.PENDING] and self.has_free(counts.changes):
            return True
        coming = counts.coming() - {*self._holds.held}
        return bool(coming and coming - self.phases_ahead())  # those wait, too

    def unplaceable(self, is_beyond: Callable[[Entry], bool]) -> list[Entry]:
        """Return the tasks that are free and `is_beyond` all devices; none while another task is free."""
        if not any(entry.oom_at_mib for entry in self.retries()):
            return []  # without a walk
        free = list[Entry]()
        for entry in self._free():
            if not is_beyond(entry):
                return []
            free.append(entry)
        return free

    def has_free(self, changes: int) -> bool:
        """Return whether a pending task is neither of a held phase nor of a blocked folder.

        By a walk, unless nothing else has happened since the last: `changes` tells how often a state changed.
        """
        held, blocked, waits_for_row = frozenset(self._holds.held), self._blocked, self._waits_for_row
        now = changes, held, blocked, frozenset(waits_for_row)
        if now != self._looked_at:
            self._has_free = next(self._free(), None) is not None
            self._looked_at = now
        return self._has_free

    def _free(self) -> Iterator[Entry]:
        """Return the pending tasks that are neither of a held phase nor of a blocked folder, by a walk."""
        held, blocked, waits_for_row = frozenset(self._holds.held), self._blocked, self._waits_for_row
        for entry in self._entries.values():
            if entry.state is State.PENDING:
                each = entry.planned
                if (
                    each.phase not in held
                    and each.output_dir not in blocked
                    and each.key not in waits_for_row
                ):
                    yield entry

    def unmet_needs(self, is_met: Callable[[Need], bool], coming: Set[str]) -> list[tuple[str, Need]]:
        """Return phase and need of the tasks that are free, by a walk.

        None where one of the needs is met, or tasks of one of the `coming` phases join soon.
        """
        if coming - {*self._holds.held} - self.phases_ahead():
            return []
        found: dict[tuple[str, Need], None] = {}
        for entry in self._free():
            one = entry.planned.phase, entry.need
            if one not in found:
                if is_met(entry.need):
                    return []
                found[one] = None
        return [*found]

    def phases_ahead(self) -> set[str]:
        """Return the phases of which a task waits that has never been assigned, by a walk."""
        waiting = (
            each for each in self._entries.values() if each.state is State.PENDING and not each.attempts
        )
        return {each.planned.phase for each in waiting}

    def pop_next(self, worker: WorkerInfo, now_s: float) -> Entry | None:
        """Take the next task for this worker out of its line; None when none is free for it.

        The highest priority comes first, then the greatest need that it meets: others can do the rest.
        Retries go first to workers other than the one that had them, see `Entry.may_go_back`; when nothing
        else is left, to anyone.
        In a phase of which tasks have failed and none has succeeded, they wait behind the first attempts.
        """
        closed = worker.too_long | self._holds.closed_to(worker, now_s)
        met = [
            (rank, phase, lines)
            for rank, phase, lines in self._ranked()
            if worker.meets(rank[1]) and phase not in closed
        ]
        if worker.phases is not None:
            met = self._with_room(met, worker.phases)

        def is_for_me(entry: Entry) -> bool:
            return (entry.last_worker != worker.name or entry.may_go_back(worker)) and entry.fits(worker)

        for (_, need), group in itertools.groupby(met, lambda each: each[0]):
            some = [(lines, phase, self._holds.lets_retries_wait(phase)) for _, phase, lines in group]
            retries = (self._first(lines.retry, need, is_for_me) for lines, _, wait in some if not wait)
            fresh = (self._first_fresh(lines.fresh, need, phase, worker) for lines, phase, _ in some)
            late = (self._first(lines.retry, need, is_for_me) for lines, _, wait in some if wait)
            found = (entry for entry in itertools.chain(retries, fresh, late) if entry is not None)
            if (entry := next(found, None)) is not None:
                return entry
        left = (self._first(lines.retry, need, lambda e: e.fits(worker)) for (_, need), _, lines in met)
        return next((entry for entry in left if entry is not None), None)

    def _with_room(self, lines: Sequence[RankedLines], phases: Set[str]) -> list[RankedLines]:
        """Return those of these phases, which alone fit beside what runs on a GPU.

        Without those of lower priority than a phase that does not fit: its tasks wait until the GPU is free.
        """
        waiting = [
            rank for rank, phase, each in lines if phase not in phases and self._has_fresh(rank[1], each)
        ]
        highest = max((priority for priority, _ in waiting), default=-MAX_PRIORITY)
        return [each for each in lines if each[1] in phases and each[0][0] >= highest]

    def _has_fresh(self, need: Need, lines: TaskLines) -> bool:
        entry = self._first(lines.fresh, need)
        if entry is not None:
            lines.fresh.appendleft(entry.key)
        return entry is not None

    def _ranked(self) -> list[RankedLines]:
        """Return the lines with priority, need and phase: highest priority, then greatest need first."""
        lines = self._lines.items()
        ranked = [((self._priorities.of(phase), need), phase, each) for (need, phase), each in lines]
        return sorted(ranked, key=lambda each: each[0], reverse=True)

    def _first_fresh(self, line: deque[str], need: Need, phase: str, worker: WorkerInfo) -> Entry | None:
        """Return the first that has never been assigned; one from all over a phase that only fails."""
        if worker.earlier is not None:
            return self._first_known_to(worker, line, need)
        place = self._holds.spread_place(phase)
        if place is None:
            return self._first(line, need)
        skipped = int(place * len(line))
        line.rotate(-skipped)
        entry = self._first(line, need)
        line.rotate(min(skipped, len(line)))
        return entry

    def _first_known_to(self, worker: WorkerInfo, line: deque[str], need: Need) -> Entry | None:
        """Return the first, never assigned, that the worker's version knows; the others keep their places."""
        passed, found = list[str](), None
        while len(passed) < EARLIER_LOOK and (entry := self._first(line, need)) is not None:
            if entry.fits(worker):
                found = entry
                break
            passed.append(entry.key)
        line.extendleft(reversed(passed))
        return found

    def is_short_of_time(self, worker: WorkerInfo) -> bool:
        """Return whether a task waits that this worker would be assigned if it had the time."""
        return any(
            self._has_one_for(worker, need, lines)
            for (need, phase), lines in self._lines.items()
            if phase in worker.too_long and worker.meets(need)
        )

    def is_short_of_memory(self, worker: WorkerInfo) -> bool:
        """Return whether a task waits that this worker could be assigned if more of its GPUs were free."""
        return any(
            self._has_one_for(worker, need, lines)
            for (need, phase), lines in self._lines.items()
            if phase not in self._holds.held
            if need.is_met_by(worker.gpus, worker.memory_mib, worker.device)
            if worker.shared_gpu or not worker.meets(need)
        )

    def _has_one_for(self, worker: WorkerInfo, need: Need, lines: TaskLines) -> bool:
        """Return whether a pending task of these lines is for this worker, its time and memory aside."""
        if (entry := self._first_known_to(worker, lines.fresh, need)) is not None:
            lines.fresh.appendleft(entry.key)
            return True
        if (entry := self._first(lines.retry, need, lambda e: e.fits(worker))) is not None:
            lines.retry.appendleft(entry.key)
            return True
        return False

    def _first(
        self, line: deque[str], need: Need, accept: Callable[[Entry], bool] | None = None
    ) -> Entry | None:
        """Return the first that is accepted; without `accept`, the first that has never been assigned."""
        looked = 0
        while line and looked < RETRY_LOOK:
            key = line.popleft()
            entry = self._entries[key]
            if entry.state is not State.PENDING or entry.need != need:
                continue  # stale; it comes back to its line when it is pending again, or its need changes
            if accept is None and entry.attempts:
                continue  # stale; it stands among the retries
            if (folder := entry.planned.output_dir) in self._blocked:
                self._parked.setdefault(folder, []).append(key)
                continue
            if key in self._waits_for_row or key in self._cancelled:
                self._waiting.append(key)
                continue
            if self.waits_for_duplicate(entry):
                continue  # it comes back to its line when it becomes eligible
            if accept is None or accept(entry):
                return entry
            looked += 1
            line.append(key)
        return None

    def waits_for_duplicate(self, entry: Entry) -> bool:
        """Return whether a duplicate runs or is complete."""
        return self.duplicate_ahead(entry) is not None

    def duplicate_ahead(self, entry: Entry) -> Entry | None:
        """Return the duplicate that runs, or is complete and to be copied."""
        ahead = (
            each
            for each in self._duplicates_of(entry)
            if each.state is State.ASSIGNED
            or (each.state is State.COMPLETE and (entry.key, each.key) not in self._not_copied)
        )
        return next(ahead, None)

    def run_beside(self, key: str, duplicate: str) -> None:
        """Let a task run although a duplicate is complete: its row is not to be copied.  Until `sync`."""
        if (key, duplicate) not in self._not_copied:
            self._not_copied.add((key, duplicate))
            self.push_retry(key)

    def before(self, entry: Entry) -> int:
        """Return how many pending tasks of its need are looked at first, by a walk; for people."""
        same = [(rank, lines) for rank, _, lines in self._ranked() if rank[1] == entry.need]
        in_order = list[deque[str]]()
        for _, group in itertools.groupby(same, lambda each: each[0]):
            some = [lines for _, lines in group]
            in_order += [*(each.retry for each in some), *(each.fresh for each in some)]
        keys = dict.fromkeys(itertools.chain(*in_order))  # a key may stand in two, or twice
        ahead = itertools.takewhile(entry.key.__ne__, keys)
        return sum(self._entries[key].state is State.PENDING for key in ahead)

    def wake_duplicates(self, entry: Entry) -> None:
        """Let the duplicates of a task that neither runs nor is complete be assigned."""
        for duplicate in self._duplicates_of(entry):
            if duplicate.state is State.PENDING:
                self.push_retry(duplicate.key)

    def _duplicates_of(self, entry: Entry) -> Iterator[Entry]:
        keys = self._duplicates.get(entry.key, ())
        return (self._entries[key] for key in keys if key != entry.key)

    def duplicate_copies(self) -> list[tuple[Planned, Planned]]:
        """Return (complete task, pending duplicate) pairs: the latter's row may be a copy of the other's."""
        pairs = list[tuple[Planned, Planned]]()
        for keys in {id(keys): keys for keys in self._duplicates.values()}.values():
            duplicates = [self._entries[key] for key in keys]
            if done := [entry.planned for entry in duplicates if entry.state is State.COMPLETE]:
                pending = [entry.planned for entry in duplicates if entry.state is State.PENDING]
                pairs += itertools.product(done, pending)
        return pairs
