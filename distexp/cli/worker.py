"""The command line of a worker: arguments to device, connection, `Worker` and exit code."""

import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from distexp.cli.flag_types import CountOrAuto, IndexRanges, Number, OneOf
from distexp.cluster import slurm
from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import Claim, taken_slots, unclaimable
from distexp.gpu.devices import MIN_FREE_GB, GpuRequest, describe_gpus, to_mib
from distexp.system.files import make_ignored
from distexp.system.logs import is_hanging, logging_to_console_beside
from distexp.system.process import ProcessMark, adopt_orphans, end_descendants, host_name, machine_id
from distexp.task import MAX_SHARING
from distexp.wire.auth import TOKEN_VARIABLE, Token, given_token
from distexp.wire.client import Client
from distexp.workdir import Workdir
from distexp.worker.code_folder import CodeFolder
from distexp.worker.connection import HEARTBEAT_S, ManagerConnection
from distexp.worker.device import DeviceChoice, acquire_device
from distexp.worker.gpu_monitor import GpuMonitor
from distexp.worker.log_cap import MAX_LOG_MB
from distexp.worker.memory_monitor import MemoryMonitor
from distexp.worker.signals import StopRequests
from distexp.worker.task_process import DEFAULT_START_METHOD, Children
from distexp.worker.watcher import Watcher
from distexp.worker.worker import Worker
from distexp.worker.yielding import OtherUsers

MANAGER_WAIT_S = 300.0

log = logging.getLogger("distexp.worker")


class SlurmTime(click.ParamType[float]):
    """A time as Slurm writes it, such as 90 (minutes) or 1:30:00; becomes seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        try:
            return slurm.parse_time(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


AT_LEAST_ONE = click.IntRange(min=1)


@dataclass(frozen=True)
class Settings:
    """The flags of a worker, as `main` declares them."""

    host: str | None
    port: int | None
    device: DeviceChoice
    min_free_gb: float
    gpu_ids: tuple[int, ...]
    idle_only: bool
    slots_per_gpu: int | None  # None: as many as the memory of their tasks allows
    gpus: int
    give_way: bool  # --yield
    threads: int
    max_log_mb: int
    nice: int
    start_method: Literal["forkserver", "spawn"]
    manager_wait_s: float
    workdir: Path
    time_limit: float | None  # seconds
    requeue: bool
    cut_short_code: int | None
    fetch: bool
    list_gpus: bool

    @property
    def slots(self) -> int:
        """How many workers may have a GPU."""
        return self.slots_per_gpu or MAX_SHARING

    @property
    def gpu_request(self) -> GpuRequest:
        """Which GPUs will do, among those that this process may use."""
        return GpuRequest(
            min_free_mib=to_mib(self.min_free_gb),
            ids=self.gpu_ids,
            idle_only=self.idle_only or self.give_way,
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
            joins=self.slots_per_gpu is None,
        )


@click.command()
@click.argument("host", required=False)
@click.argument("port", type=int, required=False)
@click.option(
    "--device",
    type=OneOf(["auto", "gpu", "cpu", "mps"]),
    default="auto",
    show_default=True,
    help="gpu: fail without a GPU; cpu: use none; mps: that of Apple silicon.",
)
@click.option(
    "--min-free-gb",
    type=Number(is_finite=True),
    default=MIN_FREE_GB,
    show_default=True,
    metavar="GB",
    help="A GPU needs more free memory than this.",
)
@click.option(
    "--gpu-ids",
    type=IndexRanges(),
    default=(),
    metavar="IDS",
    help="Only these GPUs, the first choice first, such as 0-3,7.",
)
@click.option("--idle-only", is_flag=True, help="Share no GPU on which other users compute.")
@click.option(
    "--yield",
    "give_way",
    is_flag=True,
    help="When another user computes on the GPU, save a checkpoint, give it back and wait. "
    "Implies --idle-only.",
)
@click.option(
    "--slots-per-gpu",
    type=CountOrAuto(),
    default=1,
    show_default=True,
    metavar="K",
    help="How many workers may share a GPU; auto: as many as the measured memory of their tasks allows.",
)
@click.option(
    "--gpus",
    type=AT_LEAST_ONE,
    default=1,
    show_default=True,
    metavar="N",
    help="GPUs to claim at once; more than 1: never the CPU.",
)
@click.option(
    "--threads",
    type=AT_LEAST_ONE,
    default=1,
    show_default=True,
    metavar="N",
    help="Compute threads on the CPU.",
)
@click.option(
    "--max-log-mb",
    type=AT_LEAST_ONE,
    default=MAX_LOG_MB,
    show_default=True,
    metavar="MB",
    help="Cut the middle out of a task's log that is longer.",
)
@click.option(
    "--nice",
    type=click.IntRange(0, 19),
    default=0,
    show_default=True,
    metavar="N",
    help="Run tasks at a lower priority, as `nice` does.",
)
@click.option(
    "--start-method",
    type=OneOf(["forkserver", "spawn"]),
    default=DEFAULT_START_METHOD,
    show_default=True,
    help="How a task's process is started.",
)
@click.option(
    "--manager-wait-s",
    type=Number(),
    default=MANAGER_WAIT_S,
    show_default=True,
    metavar="S",
    help="Leave after so many seconds without a manager, or without a task that can run.",
)
@click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="Folder of results and experiments.",
)
@click.option(
    "--time-limit",
    type=SlurmTime(),
    help="Take no task that will not end in this time: minutes, or as Slurm writes it, 1:30:00. "
    "[default: that of a job of Slurm]",
)
@click.option(
    "--requeue",
    is_flag=True,
    help="In a job of Slurm: put it back in line when its time ends before the sweep does.",
)
@click.option(
    "--cut-short-code",
    type=click.IntRange(1, 125),
    metavar="N",
    help="Leave with this exit code when time ends before the sweep does, for a script to start it again.",
)
@click.option(
    "--fetch", is_flag=True, help="Run the manager's code, sent over the connection: no copy needed here."
)
@click.option("--list-gpus", is_flag=True, help="Show the GPUs and who holds them, then end.")
def main(**flags: Any) -> int:
    """Run tasks of a manager on one GPU, several, or the CPU, until none is left.

    HOST and PORT are the manager's. [default: this folder's, else localhost 5000]

    On another machine: start the manager with --host 0.0.0.0, copy the experiment's code and the
    manager's .experiment_manager/token, and type `worker HOST PORT` in that folder.

    Exit code: 0 nothing is left to do, 1 the manager stayed away, 2 it could not start.
    """
    settings = Settings(**flags)
    check_gpus(settings)
    return print_gpus(settings) if settings.list_gpus else work(settings)


def check_gpus(settings: Settings) -> None:
    """Raise UserError when GPUs are asked for together with what excludes them."""
    if settings.gpus > 1 and settings.device in ("cpu", "mps"):
        raise UserError(f"--gpus {settings.gpus} cannot be used together with --device {settings.device}")
    flags = {"--gpu-ids": settings.gpu_ids, "--idle-only": settings.idle_only, "--yield": settings.give_way}
    if settings.device in ("cpu", "mps"):
        for flag in (name for name, value in flags.items() if value):
            raise UserError(f"{flag} cannot be used together with --device {settings.device}")
    if settings.gpus > 1 and settings.slots > 1:
        slots = settings.slots_per_gpu or "auto"
        raise UserError(
            f"--gpus {settings.gpus} cannot be used together with --slots-per-gpu {slots}: "
            "a worker with several GPUs does not share them"
        )


def print_gpus(settings: Settings) -> int:
    """Show each GPU on a line: its id, then `free`, `busy` or `error`, then more."""
    try:
        gpus = settings.gpu_request.gpus()
    except NoGpuError as error:
        print(error)
    else:
        claimed = unclaimable(gpus, slots=settings.slots)
        sharing = taken_slots(gpus) if settings.slots_per_gpu is None else {}
        print("\n".join(describe_gpus(gpus, settings.gpu_request, claimed, sharing)))
    return 0


def work(settings: Settings) -> int:
    """Claim a device and work on it until nothing is left to do; return the exit code."""
    code = 2
    try:
        with logging_to_console_beside():
            code = claim_and_work(settings)
    finally:
        if is_hanging():
            os._exit(code)  # the interpreter would wait for the disk
    return code


def claim_and_work(settings: Settings) -> int:
    """Claim a device and work on it until nothing is left to do; return the exit code."""
    workdir = Workdir(settings.workdir.absolute())
    if not os.path.isdir(workdir.root):
        raise UserError(
            f"--workdir {settings.workdir}: no such folder; name that of your configs and results"
        )
    enter(workdir.root)
    workdir.make_state()
    with contextlib.closing(StopRequests()) as stop:
        stop.install()
        left_s = clock_of(seconds_left(settings))
        token = take_token()

        def client() -> Client:
            return Client(workdir, settings.host, settings.port, token=token)

        connection = ManagerConnection(client(), stop, time.monotonic, settings.manager_wait_s)
        code, is_cut_short = take_turns(settings, CodeFolder(workdir, client), connection, stop, left_s)
        return end_turn(settings, code, is_cut_short, stop)


def seconds_left(settings: Settings) -> float | None:
    """Return how many seconds this worker has; None: no end is known."""
    if settings.time_limit is not None:
        return settings.time_limit
    # with a code for its end, whoever started it has asked Slurm: there may be no program of Slurm in here
    return slurm.seconds_left() if settings.cut_short_code is None else None


def end_turn(settings: Settings, code: int, is_cut_short: bool, stop: StopRequests) -> int:
    """Put the job back in line if its time ended before the work did, or let the exit code ask for that."""
    if is_cut_short and settings.requeue:
        slurm.requeue()
    elif is_cut_short and settings.cut_short_code is not None:
        return settings.cut_short_code
    elif stop.is_warned and (settings.requeue or settings.cut_short_code is not None):
        log.warning(
            "--requeue: this job completed no task and left no checkpoint, so it is not put back "
            "in line; give it more --time"
        )
    return code


def take_turns(
    settings: Settings,
    code_folder: CodeFolder,
    connection: ManagerConnection,
    stop: StopRequests,
    left_s: Callable[[], float | None],
) -> tuple[int, bool]:
    """Claim a device and work on it, anew after each GPU that was given back to another user.

    Return the exit code and whether time ended before work did.
    """
    request = settings.gpu_request  # before a claim changes what this process may see
    while True:
        claim = acquire_device(
            settings.device,
            request=request,
            slots=settings.slots,
            gpus=settings.gpus,
            cpu_folder=code_folder.workdir.cpu_claims,
            connection=connection,
            stop=stop,
        )
        if claim is None:
            return connection.exit_code, stop.is_warned
        with claim:
            code, is_cut_short = work_on(
                claim=claim,
                settings=settings,
                code_folder=code_folder,
                connection=connection,
                stop=stop,
                left_s=left_s,
            )
        seen, stop.yields_to = stop.yields_to, ""
        if not seen or stop.wants_leave or connection.has_given_up:
            return code, is_cut_short
        log.info("Gave the GPU back to %s; waiting for one on which no other user computes", seen)


def enter(root: Path) -> None:
    """Go to the working folder: experiments and `command:` programs are found from there."""
    os.chdir(root)
    sys.path[:0] = [str(folder) for folder in (root, root / "src") if os.path.isdir(folder)]


def clock_of(left_s: float | None) -> Callable[[], float | None]:
    """Return what tells how much of `left_s` is left."""
    if left_s is None:
        return lambda: None
    end_s = time.monotonic() + left_s
    return lambda: max(0.0, end_s - time.monotonic())


def take_token() -> Token | None:
    """Return the token of the environment, and take it out of there: experiments may print theirs."""
    token = given_token()
    os.environ.pop(TOKEN_VARIABLE, None)
    return token


def work_on(
    *,
    claim: Claim,
    settings: Settings,
    code_folder: CodeFolder,
    connection: ManagerConnection,
    stop: StopRequests,
    left_s: Callable[[], float | None],
) -> tuple[int, bool]:
    """Work on a claimed device; return the exit code and whether time ended before work did."""
    workdir = code_folder.workdir
    pin(claim, settings.threads)
    adopt_orphans()  # of tasks that were killed: else nobody could tell whose they are
    uuids = [gpu.uuid for gpu in claim.gpus]
    is_sharing = settings.slots_per_gpu is None and bool(uuids)
    memory = MemoryMonitor(uuids[0], settings.gpu_request.min_free_mib) if is_sharing else None
    with contextlib.suppress(OSError):  # a folder that cannot be written has no lock in it either
        make_ignored(workdir.state)
    watcher = Watcher(workdir.task_lock(ProcessMark.own()))
    worker = Worker(
        identity={**identity_of(claim), "shared_gpu": uuids[0] if is_sharing else ""},
        workdir=workdir,
        connection=connection,
        children=children_of(claim, settings, watcher, code_folder),
        stop=stop,
        clock=time.monotonic,
        gpus=GpuMonitor(uuids, claim.renew) if uuids else None,
        memory=memory,
        left_s=left_s,
        max_log_mb=settings.max_log_mb,
        code=code_folder,
        fetches=settings.fetch,
    )
    others = OtherUsers(uuids, stop.give_way) if settings.give_way else contextlib.nullcontext()
    try:
        with others:
            return worker.run(), worker.wants_another_turn
    finally:
        watcher.close()  # with it ends a template that hangs in an import
        end_descendants()


def children_of(claim: Claim, settings: Settings, watcher: Watcher, code_folder: CodeFolder) -> Children:
    """Return what starts the processes of tasks on a claimed device."""
    return Children(
        method=settings.start_method,
        device=claim.device,
        threads=settings.threads,
        nice=settings.nice,
        gpus=[gpu.uuid for gpu in claim.gpus],
        watcher=watcher,
        code=code_folder.now,
    )


def pin(claim: Claim, threads: int) -> None:
    """Show this worker's children its device and their number of threads; before the first child."""
    os.environ.update(claim.environment())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def identity_of(claim: Claim) -> dict[str, object]:
    """Return what this worker tells the manager about itself."""
    return {
        "worker_id": claim.worker_id,
        "heartbeat_s": HEARTBEAT_S,
        "instance": uuid.uuid4().hex,
        "host": host_name(),
        "device": claim.device_name,
        "memory_mib": claim.total_mib,
        "gpus": len(claim.gpus),
        "pid": os.getpid(),
        "machine": machine_id(),
    }
