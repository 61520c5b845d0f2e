"""Every request and reply between manager, workers and clients, as frozen types.

`docs/protocol.md` lists every field; `framing` turns them into bytes and back.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from distexp.task import (
    MAX_PRIORITY,
    Bookmark,
    Halving,
    Number,
    PeakMemory,
    Provenance,
    Reportable,
    RowRule,
    SharedGpu,
    Task,
    Value,
)

DEFAULT_PORT = 5000
MAX_WAIT_S = 30.0  # that a request for a task waits; then its worker asks again, or may be gone
SORTED_BY = ("task", "state", "phase", "attempts", "worker", "error")
PAGE = 100  # tasks a reply of `tasks` holds at most: keeps it far below the limit of a message

WorkerId = Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f]{1,100}\Z")]  # it stands in log lines and in rows
WorkerName = Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f]{1,356}\Z")]  # perhaps with its host before a slash
HostName = Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f]{0,255}\Z")]  # so does this; empty: unknown
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{0,64}\Z")]  # and this; empty: unknown, or no repository
Natural = Annotated[int, Meta(ge=0, lt=2**53)]  # what every JSON library reads exactly
Text = Annotated[str, Meta(max_length=20_000)]  # a traceback, cut by its sender


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Any request. `token` is the secret of the folder, for hand-written clients on loopback."""

    token: str | None = None
    version: str | None = None  # of the client's distexp; named, fields that are not known here are ignored


class Status(Request, frozen=True, kw_only=True, tag="status"):
    """How far is the sweep?"""


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a task is, as its experiment last reported."""

    step: Number
    total: Number | None = None  # None: not known
    metrics: dict[str, Reportable] = {}


class GpuUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How busy a worker's GPU is, with everything that runs on it, not only this worker's task."""

    used_mib: Natural
    free_mib: Natural
    utilization_pct: Annotated[int, Meta(ge=0, le=100)] | None = None  # None: the driver does not tell


class WorkerRequest(Request, frozen=True, kw_only=True):
    """Who sends a request. Only `worker_id` is needed; the rest describes the worker."""

    worker_id: WorkerId
    heartbeat_s: Annotated[float, Meta(gt=0, le=3600)] | None = None  # None: none, may disconnect
    instance: str = ""  # of this process: a request that is repeated gets the same lease again
    host: HostName = ""
    device: str = ""  # name of the GPU, or "cpu"
    memory_mib: Natural = 0  # of the device; of the smallest of several GPUs
    gpus: Natural = 0  # that it holds
    pid: Natural = 0
    machine: str = ""  # boot id and PID namespace: the same on the same host alone
    left_s: Annotated[float, Meta(ge=0)] | None = None  # until it has to end; None: no limit is known
    git_commit: Commit = ""  # of the folder that the worker imports from
    nonce: str = ""  # as read in the manager's folder, proves that the worker shares it
    shared_gpu: str = ""  # UUID of the GPU that it shares by the memory of its tasks; empty: it does not


class RequestTask(WorkerRequest, frozen=True, kw_only=True, tag="request_task"):
    """Assign me a task; if there is none, answer once there is, or after `wait_s`."""

    wait_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0  # the manager may answer earlier
    free_mib: Natural | None = None  # on the fullest of its GPUs, now; None: it has none
    fetches: bool = False  # it runs the manager's code, also where that is not frozen
    memory: SharedGpu | None = None  # of its shared GPU, now; None: it cannot tell


class Heartbeat(WorkerRequest, frozen=True, kw_only=True, tag="heartbeat"):
    """I am alive; with a lease: and still run this task."""

    lease_id: str = ""
    key: str = ""
    progress: Progress | None = None
    gpu: GpuUse | None = None
    peak: PeakMemory | None = None  # of this attempt so far, on a shared GPU


class Rung(WorkerRequest, frozen=True, kw_only=True, tag="rung"):
    """The task has reached a rung: shall it go on?"""

    lease_id: str
    key: str
    step: Number
    value: float | None = None  # of the phase's metric; null: it was no number
    last: bool = False  # the task ends here anyway


class Report(WorkerRequest, frozen=True, kw_only=True):
    """Names an attempt: by `lease_id` and `key` as assigned, or by `task_id` alone."""

    task_id: str = ""
    lease_id: str = ""
    key: str = ""
    peak: PeakMemory | None = None  # of this attempt, on a shared GPU


class TaskComplete(Report, frozen=True, kw_only=True, tag="task_complete"):
    """The row is in its file; or here is the `result`, write the row for me."""

    result: dict[str, Value] | None = None
    run: Provenance | None = None
    sweep_id: str = ""  # as assigned: a result kept for another sweep is refused
    next: bool = False  # assign me the next task in the same round trip
    free_mib: Natural | None = None  # as in `RequestTask`; None: as it was
    memory: SharedGpu | None = None  # with `next`: as in `RequestTask`
    stopped_at: Number | None = None  # the step at which the task was stopped early; None: it was not


class TaskFailed(Report, frozen=True, kw_only=True, tag="task_failed"):
    """The experiment failed, or with `import` and `setup` could not be begun."""

    cause: Literal["error", "crash", "timeout", "out_of_memory", "import", "setup"] = "error"
    error: Text


class TaskReleased(Report, frozen=True, kw_only=True, tag="task_released"):
    """I give the task back on purpose; it costs nothing, or for a full disk nothing before the third time."""

    reason: Text = ""
    cause: Literal["", "disk_full"] = ""


class Workers(Request, frozen=True, kw_only=True, tag="workers"):
    """Who works for this sweep?"""


class Tasks(Request, frozen=True, kw_only=True, tag="tasks", omit_defaults=True):
    """Which tasks are there? All filters must hold; at most `PAGE` from `offset` on."""

    state: str | None = None
    phase: str | None = None
    where: dict[str, Value] = {}
    text: str = ""  # words that stand in its id, its worker or its error
    sort: str = ""  # one of `SORTED_BY` or a parameter, after `-` downwards; empty: as in the sweep
    superseded: bool = False
    offset: Annotated[int, Meta(ge=0)] = 0


class Show(Request, frozen=True, kw_only=True, tag="show"):
    """Everything about one task, and why it is not running."""

    task: str


class Logs(Request, frozen=True, kw_only=True, tag="logs"):
    """What has this task printed, from `offset` on? One piece of it."""

    task: str
    offset: Natural = 0


class Code(Request, frozen=True, kw_only=True, tag="code"):
    """One piece of a copy of the manager's code, from `offset` on."""

    copy: str  # as a task names it
    offset: Natural = 0


class View(Request, frozen=True, kw_only=True, tag="view"):
    """All that a live view shows: counts, forecast, workers, last failures."""


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """End these tasks without a result; those that run must stop."""

    tasks: list[str]


class Requeue(Request, frozen=True, kw_only=True, tag="requeue"):
    """Run these again: by id, all that `failed`, whose row is `missing`, or that ran `other_code`."""

    tasks: list[str] = []
    failed: bool = False
    missing: bool = False
    other_code: bool = False


class Pause(Request, frozen=True, kw_only=True, tag="pause"):
    """Assign nothing until `resume`; what runs goes on."""


class Resume(Request, frozen=True, kw_only=True, tag="resume"):
    """Assign again."""


class Drain(Request, frozen=True, kw_only=True, tag="drain"):
    """Assign nothing more to this worker: it leaves after its current task."""

    worker_id: WorkerName


class Prioritize(Request, frozen=True, kw_only=True, tag="prioritize"):
    """Assign the tasks of this phase before those of phases with a lower priority."""

    phase: str
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None  # None: above all


class TaskReply(Task, frozen=True, kw_only=True, tag_field="type", tag="task"):
    """A task, assigned. With `writes_row` the worker appends the row itself, else it sends the result."""

    lease_id: str
    attempt: int
    writes_row: bool
    sweep_id: str
    seen: Bookmark | None = None  # up to here, the results file holds no row of this task
    code_version: int = 0  # of the phase; another one than before: import its code anew
    copy: str = ""  # of the manager's code that the task runs from, see `code`; empty: the worker's folder
    rule: RowRule | None = None  # which rows are rows of it, beyond its own values
    halving: Halving | None = None  # where it is compared with others; null: nowhere


class NoTask(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="no_task"):
    """No task for you now: others still run or paused (`wait`), none is left (`done`), or `restarting`.

    `no_time` is for a worker that gave `left_s`: no task that is left fits into it.
    """

    reason: Literal["wait", "done", "restarting", "no_time"]
    retry_after_s: float = 1.0
    message: str = ""
    cannot_run: bool = False  # what is left cannot run here until somebody acts: a hold, say


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ack", omit_defaults=True):
    """Done as asked. `count` says of how many tasks; `next` answers a `task_complete` that asked for it."""

    message: str = ""
    count: int | None = None
    next: TaskReply | NoTask | None = None


class HeartbeatReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """Whether the attempt may go on; `stop` means: end it, no row is wanted from it."""

    stop: bool


class CodeReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="code"):
    """One piece of a tar file of that code."""

    data: str  # base64
    size: int  # of the whole file, in bytes


class RungReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="rung"):
    """Whether the task may go on, or is to stop here: then its row is what it has reported."""

    verdict: Literal["go", "stop"]


class SweepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sweep is: its tasks by state, and what keeps them from running."""

    total: int
    pending: int
    assigned: int
    complete: int
    failed: int
    cancelled: int
    pruned: int = 0  # stopped early, with a row that says so
    progress: str  # "45/240 (18.8%)": complete and pruned ones, of all
    done: bool
    paused: bool
    workers: int  # that are connected
    benched: str = ""  # the former name of `excluded_workers`
    excluded_workers: str = ""  # names with blanks between; cut where there are many
    held_phases: str = ""  # likewise
    problems: int = 0  # results files that cannot be written now: their tasks wait
    ending: bool = False  # the manager is about to leave, since nothing that is left can run


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker: who it is, what it runs, how it has done."""

    worker: str
    host: str
    device: str
    memory_mib: int
    connected: bool
    age_s: float  # since it was last heard
    task: str | None
    task_s: float | None  # since its task was assigned
    progress: tuple[Number, Number | None] | None  # step and total
    metrics: dict[str, Reportable]
    gpu: GpuUse | None
    completed: int
    failed: int
    drained: bool
    benched: str = ""  # the former name of `excluded`
    excluded: str = ""  # why it gets no more tasks
    git_commit: str = ""
    other_commit: bool = False
    usual_s: float | None = None  # that its task should take, by those that were completed


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One task: what it is, where it stands, what it has cost."""

    task_id: str
    key: str
    phase: str
    config: dict[str, Value]
    seed: int
    output_dir: str
    gpus: int | None = None
    min_free_gb: float | None = None
    gpu_model: tuple[str, ...] = ()
    state: str
    attempts: int
    failures: int
    losses: int
    worker: str
    cause: str
    error: str
    superseded: str = ""


class FailureStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last attempt that failed, or whose worker was lost, for one cause."""

    at_utc: str  # ISO 8601, seconds, ending in Z; empty: not known
    task_id: str
    worker: str
    why: str  # cause and last line
    state: str  # of the task since
    count: int = 1  # attempts that have ended so since the manager began


class PhaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One phase: its tasks by state, and why it is held."""

    phase: str
    tasks: dict[str, int]  # by state; those that have none are left out
    held: str = ""


class StatusReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """Never longer than `MAX_STATUS_BYTES`, newline included."""

    status: SweepStatus


class WorkersReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="workers"):
    """One mapping a worker."""

    workers: list[WorkerStatus]


class TasksReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="tasks"):
    """A page of tasks, and how many there are in all that match."""

    tasks: list[TaskStatus]
    total: int


class RungStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A task at a rung; or, as `again`, that it was asked for again after it had been stopped."""

    rung: int
    step: Number
    value: float | None
    verdict: str
    rank: int
    of: int


class ShowReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="show"):
    """One task: as `tasks` lists it, and what it waits for, how it ended, what it printed last."""

    task: TaskStatus
    why: str
    running_s: float | None
    row: dict[str, str] | None
    run_dir: str = ""
    log_path: str
    log: list[str]
    rungs: list[RungStatus] = []


class LogsReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="logs"):
    """A piece of a log, and where the next one begins; `absent` says why there is no log here."""

    text: str
    offset: int
    size: int
    state: str
    absent: str = ""


class ViewReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="view"):
    """A sweep at a glance. At most `PAGE` workers: those that run a task first; as many phases."""

    status: SweepStatus
    per_hour: float | None
    eta_s: float | None
    why_no_eta: str
    workers: list[WorkerStatus]
    failures: list[FailureStatus]
    phases: list[PhaseStatus] = []
    unwritable: dict[str, str] = {}  # folder of results -> why its file cannot be written now


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The request was refused; nothing changed. With `again`, the same request may succeed later."""

    error: str
    again: bool = False


AnyRequest = (
    Status
    | RequestTask
    | Heartbeat
    | Rung
    | TaskComplete
    | TaskFailed
    | TaskReleased
    | Workers
    | Tasks
    | Show
    | Logs
    | Code
    | View
    | Cancel
    | Requeue
    | Pause
    | Resume
    | Drain
    | Prioritize
)
AnyReply = (
    TaskReply
    | NoTask
    | Ack
    | HeartbeatReply
    | RungReply
    | StatusReply
    | WorkersReply
    | TasksReply
    | ShowReply
    | LogsReply
    | CodeReply
    | ViewReply
    | ErrorReply
)
