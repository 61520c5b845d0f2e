"""What must survive the manager, as its journal keeps it: a later record of one key replaces the earlier."""

from typing import ClassVar

import msgspec

from distexp.task import State, Value


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A live lease as it survives the manager."""

    lease_id: str
    worker: str
    attempt: int
    heartbeat_s: float | None
    memory_mib: int = 0
    instance: str = ""
    machine: str = ""  # the boot and the pid namespace that the pid is of
    pid: int = 0  # of the worker; 0: not on the manager's host
    started: float = 0.0  # as the kernel stored it, see `ProcessMark`
    host: str = ""
    unseen_s: float = 0.0  # for which managers have served and waited for its worker
    is_unstarted: bool = False  # its worker has not said yet that it has the task
    shared_gpu: str = ""  # see `WorkerRequest`


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What must survive the manager about one task."""

    key: str
    state: str
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    oom_at_mib: int = msgspec.field(default=0, name="floor_mib")  # as journals of version 0.1.0 call it
    last_worker: str = ""
    cause: str = ""
    error: str = ""
    superseded: str = ""  # the code of its row, which no longer completes it; empty: every row does
    runs_alone: bool = False  # on its GPU: it ran out of memory beside others
    full_disks: int = 0
    lease: LeaseRecord | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the task's row says all that a later manager has to know."""
        return self.state in (State.COMPLETE, State.PRUNED) and not self.superseded


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The priority that somebody asked for, and the one that the configs stated then."""

    is_settled: ClassVar[bool] = False
    phase: str
    priority: int
    stated: int

    @property
    def key(self) -> str:
        """One record a phase."""
        return self.phase


class PauseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody has paused the sweep."""

    key: ClassVar[str] = "pause"
    since_utc: str
    is_settled: bool = False  # it was resumed


class DrainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is to leave after its task."""

    worker: str
    instance: str  # of its process; empty for a client without one
    is_settled: bool = False  # it has left

    @property
    def key(self) -> str:
        """One record a process."""
        return self.instance or self.worker


class PeakRecord(msgspec.Struct, frozen=True):
    """The most memory that a task of a phase has held on a shared GPU."""

    is_settled: ClassVar[bool] = False
    phase: str
    peak_mib: float

    @property
    def key(self) -> str:
        """One record a phase."""
        return self.phase


class SuggestionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that a search has chosen; a later one of the same number replaces it."""

    phase: str
    number: int
    config: dict[str, Value]  # the parameters that the search sets
    is_settled: bool = False  # nobody has to know of it any more

    @property
    def key(self) -> str:
        """One record a number."""
        return f"{self.phase}/{self.number}"
