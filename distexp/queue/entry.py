"""The queue's record of one task: state, lease, history; the table of states; who a worker is."""

import copy
from dataclasses import dataclass, replace

import msgspec

from distexp.queue.records import LeaseRecord, TaskRecord
from distexp.queue.versions import EarlierVersion
from distexp.sweep.grid import Planned
from distexp.system.process import ProcessMark
from distexp.task import Need, State, Task

MISSED_HEARTBEATS = 4  # one may get lost; after four the worker is gone
RECONNECT_S = 10.0  # a broken connection may be a hiccup of the network
REATTACH_S = 60.0  # of serving time that each lease of an earlier manager gets for its worker to show up
UNSTARTED_S = 10.0  # for the heartbeat by which a worker that waited begins a task: it comes at once
SILENT_LEASE_S = 7200.0  # a worker without heartbeats may be silent for two hours


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset(
        {State.ASSIGNED, State.COMPLETE, State.CANCELLED, State.WITHDRAWN, State.PRUNED}
    ),
    State.ASSIGNED: frozenset({State.PENDING, State.COMPLETE, State.FAILED, State.CANCELLED, State.PRUNED}),
    State.FAILED: frozenset({State.PENDING, State.COMPLETE, State.PRUNED}),
    State.CANCELLED: frozenset({State.PENDING, State.COMPLETE, State.PRUNED}),
    State.WITHDRAWN: frozenset({State.PENDING, State.COMPLETE, State.PRUNED}),
    State.PRUNED: frozenset({State.PENDING, State.COMPLETE}),
    State.COMPLETE: frozenset(),
}


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Who a worker is, as of its last request."""

    name: str  # as it stands in log lines, rows and replies
    heartbeat_s: float | None = None  # None: it sends no heartbeats, and may disconnect
    memory_mib: int = 0  # of its device; 0 when unknown
    connection: int | None = None  # None: not connected
    instance: str = ""  # of its process: two processes may have one name
    too_long: frozenset[str] = frozenset()  # phases whose tasks take longer than it has time
    is_alone: bool = False  # no other worker is connected
    gpus: int = 0  # that it holds
    free_mib: int = 0  # on the fullest of them, when it last asked for a task; 0 when unknown
    host: str = ""
    device: str = ""
    shares_folder: bool = False  # on the manager's host and folder: it writes its rows itself
    machine: str = ""  # the boot and the pid namespace that its pid is of
    process: ProcessMark | None = None  # only where the manager can see it
    pid: int = 0  # on its own host
    shared_gpu: str = ""  # UUID of the GPU that it shares by the memory of its tasks; empty: it does not
    phases: frozenset[str] | None = None  # those that fit beside what runs there; None: it would run alone
    earlier: EarlierVersion | None = None  # it is of an earlier version; None: it knows every task

    @classmethod
    def of(cls, held: LeaseRecord) -> "WorkerInfo":
        """Return the worker of an earlier manager's lease, which has no connection yet."""
        return cls(
            name=held.worker,
            heartbeat_s=held.heartbeat_s,
            memory_mib=held.memory_mib,
            instance=held.instance,
            machine=held.machine,
            host=held.host,
            process=ProcessMark(held.pid, held.started) if held.pid else None,
            pid=held.pid,
            shared_gpu=held.shared_gpu,
        )

    def meets(self, need: Need) -> bool:
        """Return whether its devices have what a task needs."""
        return need.is_met_by(self.gpus, self.free_mib, self.device)

    @property
    def term_s(self) -> float:
        """How long a lease lasts after a sign of life."""
        return SILENT_LEASE_S if self.heartbeat_s is None else MISSED_HEARTBEATS * self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Lease:
    """A task assigned to a worker until a time on the queue's clock."""

    lease_id: str
    task: Task
    worker: WorkerInfo
    attempt: int
    until_s: float
    since_s: float | None = None  # when it was assigned, on the queue's clock; None: by an earlier manager
    earlier_worker: str = ""  # that had the task before
    unseen_s: float = 0.0  # for which managers have waited for its worker to show up
    is_unstarted: bool = False  # given to a worker that waited, which has not said yet that it has it

    @property
    def is_unseen(self) -> bool:
        """Whether an earlier manager assigned it, and its worker has not shown up since."""
        is_from_earlier = self.since_s is None and self.worker.connection is None
        return is_from_earlier and self.worker.heartbeat_s is not None

    def disconnected(self, connection: int, now_s: float) -> "Lease":
        """Return it with the time to reconnect, if its worker sends heartbeats and was on this connection."""
        if self.worker.connection != connection or self.worker.heartbeat_s is None:
            return self
        return replace(self, until_s=min(self.until_s, now_s + RECONNECT_S))

    def extended(self, paused_s: float, now_s: float) -> "Lease":
        """Return it with a fresh term: the manager has slept for so long, and heard nobody."""
        until_s = self.until_s + paused_s if self.is_unseen else now_s + self.worker.term_s
        return replace(self, until_s=until_s)

    def waited(self, now_s: float) -> "Lease":
        """Return it with the time for which its worker has been waited for until now."""
        unseen_s = REATTACH_S - max(0.0, self.until_s - now_s)
        return replace(self, unseen_s=unseen_s) if self.is_unseen else self


class Entry(msgspec.Struct, gc=False):
    """A task and its history.  Caller holds the lock.  Made for each of a million tasks."""

    planned: Planned
    state: State = State.PENDING
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    oom_at_mib: int = 0  # after out-of-memory: only a device with more memory than this
    last_worker: str = ""
    cause: str = ""
    error: str = ""
    lease: Lease | None = None
    lost_lease_id: str = ""  # of the lease that was lost last, so that its worker may come back
    is_wanted: bool = True  # False once the configs no longer ask for it
    wants_more: bool = False  # was pruned, and runs again: the row that it has is to be replaced
    superseded: str = ""  # the code of its row, which no longer completes it
    runs_alone: bool = False  # it ran out of memory beside other tasks on its GPU
    full_disks: int = 0  # how often it was given back free since a disk was full

    @property
    def key(self) -> str:
        """The task's key."""
        return self.planned.key

    @property
    def task(self) -> Task:
        """The task, spelled out at each call."""
        return self.planned.task

    @property
    def assigned_task(self) -> Task:
        """The task as its worker knows it: an edit may have moved its folder since it was assigned."""
        return self.lease.task if self.lease else self.planned.task

    @property
    def need(self) -> Need:
        """What its device must have."""
        return self.planned.need

    def fits(self, worker: WorkerInfo) -> bool:
        """Return whether the worker's device has more memory than the one on which the task ran out.

        And whether it would be alone there, if it has to be, and the worker's version knows such tasks. What
        the task needs by its config is another matter: see `WorkerInfo.meets`.
        """
        if worker.earlier is not None and not worker.earlier.can_run(self.planned):
            return False
        is_beside_others = worker.phases is not None
        has_more = self.oom_at_mib == 0 or worker.memory_mib > self.oom_at_mib
        return has_more and not (self.runs_alone and is_beside_others)

    def may_go_back(self, worker: WorkerInfo) -> bool:
        """Return whether a worker named as the last one may have it before others: that one was lost.

        After a second loss only where there is no other, for it may be the worker's machine that kills it.
        """
        return self.lost_lease_id != "" and (self.losses <= 1 or worker.is_alone)

    def is_beyond(self, largest_mib: int | None) -> bool:
        """Return whether it ran out of memory on a device as large as this; None: there is no device."""
        return self.oom_at_mib > 0 and largest_mib is not None and self.oom_at_mib >= largest_mib

    def recall(self, record: TaskRecord) -> None:
        """Take over what an earlier manager knew, but for state and lease."""
        for name in (
            "attempts",
            "failures",
            "losses",
            "oom_at_mib",
            "last_worker",
            "cause",
            "error",
            "superseded",
            "runs_alone",
            "full_disks",
        ):
            setattr(self, name, getattr(record, name))

    def copy(self) -> "Entry":
        """Return an equal one."""
        return copy.copy(self)

    def record(self) -> TaskRecord:
        """Return what must survive the manager."""
        lease = None
        if self.lease is not None:
            process = self.lease.worker.process
            lease = LeaseRecord(
                lease_id=self.lease.lease_id,
                worker=self.lease.worker.name,
                attempt=self.lease.attempt,
                heartbeat_s=self.lease.worker.heartbeat_s,
                memory_mib=self.lease.worker.memory_mib,
                instance=self.lease.worker.instance,
                machine=self.lease.worker.machine,
                host=self.lease.worker.host,
                unseen_s=self.lease.unseen_s,
                is_unstarted=self.lease.is_unstarted,
                pid=process.pid if process else 0,
                started=process.started if process else 0.0,
                shared_gpu=self.lease.worker.shared_gpu,
            )
        return TaskRecord(
            key=self.key,
            state=self.state.value,
            attempts=self.attempts,
            failures=self.failures,
            losses=self.losses,
            oom_at_mib=self.oom_at_mib,
            last_worker=self.last_worker,
            cause=self.cause,
            error=self.error,
            superseded=self.superseded,
            runs_alone=self.runs_alone,
            full_disks=self.full_disks,
            lease=lease,
        )
