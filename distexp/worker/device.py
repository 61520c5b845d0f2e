"""Claims the device that a worker computes on: GPUs or the CPU; waits while all GPUs are busy."""

import logging
import os
from pathlib import Path
from typing import Literal

from distexp.errors import NoGpuError
from distexp.gpu.claim import Claim, claim_cpu, claim_gpu, claim_gpus
from distexp.gpu.devices import list_gpus
from distexp.wire.messages import Status, StatusReply
from distexp.worker.connection import ManagerConnection
from distexp.worker.signals import StopRequests

RETRY_S = 5.0  # between two tries to claim a GPU

log = logging.getLogger("distexp.worker")


def acquire_device(
    device: Literal["auto", "gpu", "cpu"],
    *,
    min_free_mib: int,
    slots: int,
    gpus: int = 1,
    cpu_folder: Path,
    connection: ManagerConnection,
    stop: StopRequests,
) -> Claim | None:
    """Return a claim on a device; None when the sweep ended, the manager left or the user stopped it first.

    `auto` takes the CPU where there is no NVIDIA driver or GPU, and waits where all GPUs are busy. It never
    takes the CPU, or fewer GPUs, in place of several `gpus`.

    Raises:
        NoGpuError: There is no driver or GPU, and `gpu` or several were asked for.
        UserError: This host does not have so many.
    """
    if device == "cpu":
        return claim_cpu(cpu_folder)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        list_gpus(visible)
    except NoGpuError as error:
        if device == "gpu" or gpus > 1:
            raise
        log.info("Running on the CPU: %s", error)
        return claim_cpu(cpu_folder)
    last_problem = ""
    wanted = "a GPU" if gpus == 1 else f"{gpus} GPUs at once"
    while not stop.wants_leave and not connection.has_given_up:
        try:
            if gpus > 1:
                return claim_gpus(gpus, min_free_mib, visible=visible)
            return claim_gpu(min_free_mib, slots=slots, visible=visible)
        except NoGpuError as error:
            if str(error) != last_problem:
                last_problem = str(error)
                log.warning("%s. Waiting for %s", last_problem, wanted)
        status = connection.try_request(Status(), StatusReply, "Error requesting task")
        if status is not None and status.status.done:
            log.info("No task is left")
            return None
        connection.wait(RETRY_S)
    return None
