"""Claims the device that a worker computes on: GPUs or the CPU; waits while all GPUs are busy."""

import logging
import platform
import re
import sys
from pathlib import Path
from typing import Literal

from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import Claim, PlaceInLine, claim_cpu, claim_gpu, claim_gpus
from distexp.gpu.devices import GpuRequest, too_small_error
from distexp.wire.messages import Status, StatusReply
from distexp.worker.connection import ManagerConnection
from distexp.worker.signals import StopRequests

RETRY_S = 5.0  # between two tries to claim a GPU
FIRST_RETRY_S = 1.0  # the same while others are kept from the GPUs that become free

_MEMORY = re.compile(r"[\d.]+(?:/[\d.]+)? GB")  # in what people are told of a GPU

DeviceChoice = Literal["auto", "gpu", "cpu", "mps"]

log = logging.getLogger("distexp.worker")


def acquire_device(
    device: DeviceChoice,
    *,
    request: GpuRequest,
    slots: int,
    gpus: int = 1,
    cpu_folder: Path,
    connection: ManagerConnection,
    stop: StopRequests,
) -> Claim | None:
    """Return a claim on a device; None when the sweep ended, the manager left or the user stopped it first.

    `auto` takes the CPU where there is no NVIDIA driver or GPU, or each GPU is too small however free it
    becomes, and waits where all are busy. It never takes the CPU, or fewer GPUs, in place of several `gpus`.

    Raises:
        NoGpuError: There is no driver or GPU, or each is too small, and `gpu` or several were asked for.
        UserError: This host does not have so many, or not those of the request, or no GPU of Apple's for
            `mps`.
    """
    if device == "mps" and (sys.platform, platform.machine()) != ("darwin", "arm64"):
        raise UserError("--device mps: only a Mac with Apple silicon has that; use auto, gpu or cpu")
    if device in ("cpu", "mps"):
        return claim_cpu(cpu_folder, device)
    try:
        found = request.gpus()
        if gpus == 1 and all(map(request.is_too_small, found)):
            raise too_small_error(found, request)
    except NoGpuError as error:
        if device == "gpu" or gpus > 1:
            raise
        cause = str(error).removeprefix("No available GPU found: ").rpartition(";")[0]
        log.info("Running on the CPU (%s)", cause)
        return claim_cpu(cpu_folder)
    return _wait_for_gpus(gpus, request=request, slots=slots, connection=connection, stop=stop)


def _wait_for_gpus(
    count: int,
    *,
    request: GpuRequest,
    slots: int,
    connection: ManagerConnection,
    stop: StopRequests,
) -> Claim | None:
    last_problem = ""
    wanted = "a GPU" if count == 1 else f"{count} GPUs at once"
    with PlaceInLine() as place:
        while not stop.wants_leave and not connection.has_given_up:
            try:
                if count > 1:
                    return claim_gpus(count, request, place=place)
                return claim_gpu(request, slots=slots)
            except NoGpuError as error:
                problem = _MEMORY.sub("", str(error))  # that others hold changes all the time
                if problem != last_problem:
                    last_problem = problem
                    log.warning("%s. Waiting for %s", error, wanted)
            status = connection.try_request(Status(), StatusReply, "Error requesting task")
            if status is not None and (status.status.done or status.status.ending):
                log.info("No task is left" if status.status.done else "No task that is left can run")
                return None
            connection.wait(FIRST_RETRY_S if place.is_first else RETRY_S)
    return None
