"""The command line of a worker: arguments to device, connection, `Worker` and exit code."""

import argparse
import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from distexp.cluster import slurm
from distexp.errors import DistexpError, NoGpuError, UserError
from distexp.gpu.claim import Claim, unclaimable
from distexp.gpu.devices import MIN_FREE_GB, describe_gpus, list_gpus, to_mib
from distexp.system.logs import log_to_console
from distexp.system.process import end_descendants, host_name, machine_id
from distexp.wire.auth import TOKEN_VARIABLE, Token, given_token
from distexp.wire.client import Client
from distexp.workdir import Workdir
from distexp.worker import provenance
from distexp.worker.connection import HEARTBEAT_S, ManagerConnection
from distexp.worker.device import acquire_device
from distexp.worker.gpu_monitor import GpuMonitor
from distexp.worker.signals import StopRequests
from distexp.worker.task_process import DEFAULT_START_METHOD, Children
from distexp.worker.worker import Worker

MANAGER_WAIT_S = 300.0

log = logging.getLogger("distexp.worker")


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0 nothing is left to do, 1 the manager stayed away, 2 it could not start."""
    settings = parse(words)
    try:
        check_gpus(settings)
        if settings.list_gpus:
            return print_gpus(settings)
        return work(settings)
    except DistexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the settings of a worker."""
    parser = argparse.ArgumentParser(
        prog="experiment_runner_gpu.py",
        description="Run tasks of a manager on one GPU, several, or the CPU, until none is left.",
    )
    parser.add_argument("host", nargs="?", help="of the manager (default: localhost)")
    parser.add_argument(
        "port", nargs="?", type=int, help="(default: that of this folder's manager, else 5000)"
    )
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto", help="(auto)")
    parser.add_argument(
        "--min-free-gb",
        type=float,
        default=MIN_FREE_GB,
        metavar="GB",
        help="a GPU needs more free memory than this, in GB (%(default)g)",
    )
    parser.add_argument(
        "--slots-per-gpu", type=at_least_one, default=1, metavar="K", help="workers that share a GPU (1)"
    )
    parser.add_argument(
        "--gpus", type=at_least_one, default=1, metavar="N", help="GPUs to claim at once (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=at_least_one, default=1, metavar="N", help="compute threads on the CPU (1)"
    )
    parser.add_argument(
        "--start-method",
        choices=("forkserver", "spawn"),
        default=DEFAULT_START_METHOD,
        help="how a task's process is started (default: %(default)s)",
    )
    parser.add_argument(
        "--manager-wait-s",
        type=float,
        default=MANAGER_WAIT_S,
        metavar="S",
        help="leave after S seconds without a manager (%(default)g)",
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path(), help="folder of results and experiments (default: .)"
    )
    parser.add_argument(
        "--time-limit",
        type=slurm_time,
        metavar="TIME",
        help="take no task that will not end in this time: minutes, or as Slurm writes it, 1:30:00 "
        "(default: that of a job of Slurm)",
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="in a job of Slurm: put it back in line when its time ends before the sweep does",
    )
    parser.add_argument("--list-gpus", action="store_true", help="show the GPUs and who holds them, then end")
    return parser.parse_args(words)


def at_least_one(text: str) -> int:
    """Return a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1 (it is {text})")
    return number


def slurm_time(text: str) -> float:
    """Return the seconds of a time as Slurm writes it."""
    try:
        return slurm.parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_gpus(settings: argparse.Namespace) -> None:
    """Raise UserError when several GPUs are asked for together with what excludes them."""
    if settings.gpus > 1 and settings.device == "cpu":
        raise UserError(f"--gpus {settings.gpus} cannot be used together with --device cpu")
    if settings.gpus > 1 and settings.slots_per_gpu > 1:
        raise UserError(
            f"--gpus {settings.gpus} cannot be used together with --slots-per-gpu {settings.slots_per_gpu}: "
            "a worker with several GPUs does not share them"
        )


def print_gpus(settings: argparse.Namespace) -> int:
    """Show each card on a line: its id, then `free`, `busy` or `error`, then more."""
    try:
        gpus = list_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except NoGpuError as error:
        print(error)
    else:
        claimed = unclaimable(gpus, slots=settings.slots_per_gpu)
        print("\n".join(describe_gpus(gpus, to_mib(settings.min_free_gb), claimed)))
    return 0


def work(settings: argparse.Namespace) -> int:
    """Claim a device and work on it until nothing is left to do."""
    log_to_console()
    workdir = Workdir(settings.workdir.absolute())
    if not workdir.root.is_dir():
        raise UserError(
            f"--workdir {settings.workdir}: no such folder; name that of your configs and results"
        )
    os.chdir(workdir.root)  # experiments and `command:` programs are found from here
    sys.path.insert(0, str(workdir.root))
    with contextlib.closing(StopRequests()) as stop:
        stop.install()
        left_s = clock_of(slurm.seconds_left() if settings.time_limit is None else settings.time_limit)
        client = Client(workdir, settings.host, settings.port, token=take_token())
        connection = ManagerConnection(client, stop, time.monotonic, settings.manager_wait_s)
        claim = acquire_device(
            settings.device,
            min_free_mib=to_mib(settings.min_free_gb),
            slots=settings.slots_per_gpu,
            gpus=settings.gpus,
            cpu_folder=workdir.cpu_claims,
            connection=connection,
            stop=stop,
        )
        if claim is None:
            code, is_cut_short = int(connection.has_given_up), stop.is_warned
        else:
            with claim:
                code, is_cut_short = work_on(
                    claim=claim,
                    settings=settings,
                    workdir=workdir,
                    connection=connection,
                    stop=stop,
                    left_s=left_s,
                )
        if settings.requeue and is_cut_short:
            slurm.requeue()
        elif settings.requeue and stop.is_warned:
            log.warning("--requeue: found no task completed and no checkpoint; give the job more --time")
        return code


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
    settings: argparse.Namespace,
    workdir: Workdir,
    connection: ManagerConnection,
    stop: StopRequests,
    left_s: Callable[[], float | None],
) -> tuple[int, bool]:
    """Work on a claimed device; return the exit code and whether time ended before work did."""
    pin(claim, settings.threads)
    uuids = [gpu.uuid for gpu in claim.gpus]
    monitor = GpuMonitor(uuids) if uuids else None
    code = provenance.Code(workdir.root)
    worker = Worker(
        identity=identity_of(claim),
        workdir=workdir,
        connection=connection,
        children=Children(
            method=settings.start_method, device=claim.device, threads=settings.threads, gpus=uuids
        ),
        stop=stop,
        clock=time.monotonic,
        gpu_usage=monitor.usage if monitor else lambda: None,
        free_mib=monitor.free_mib if monitor else None,
        provenance=lambda is_imported: code.facts(is_imported=is_imported),
        left_s=left_s,
    )
    try:
        return worker.run(), worker.wants_another_turn
    finally:
        end_descendants()  # a template that hangs in an import, too


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
