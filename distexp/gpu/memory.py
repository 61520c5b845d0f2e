"""Reads who holds how much of the memory of one GPU, for workers that share it by that."""

from typing import Any

from distexp.gpu.devices import MIB
from distexp.system.process import ancestors
from distexp.task import SharedGpu


def read_shared_gpu(nvml: Any, uuid: str, min_free_mib: int) -> SharedGpu:
    """Return the memory of a GPU, or MIG instance, and what the tree of each process there holds.

    Where the driver tells nothing of processes, or of those of another container, nobody holds any.

    Args:
        nvml: As `open_nvml` yields it.
        uuid: Of the device.
        min_free_mib: See `SharedGpu`.

    Raises:
        NVMLError: The device does not answer; `open_nvml` turns it into NoGpuError.
    """
    device = nvml.nvmlDeviceGetHandleByUUID(uuid)
    before = _processes(nvml, device)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    after = _processes(nvml, device)
    held: dict[int, int] = {}
    for pid in before.keys() & after.keys():  # what was taken or freed meanwhile must not count as held
        for each in ancestors(pid):
            held[each] = held.get(each, 0) + min(before[pid], after[pid])
    return SharedGpu(
        total_mib=memory.total // MIB,
        free_mib=memory.free // MIB,
        min_free_mib=min_free_mib,
        held_mib=held,
    )


def _processes(nvml: Any, device: Any) -> dict[int, int]:
    """Return MiB by pid, rounded up; a process that computes and draws is listed twice, with all it holds."""
    found: dict[int, int] = {}
    for kind in ("Compute", "MPSCompute", "Graphics"):  # the second: clients of the daemon of CUDA MPS
        try:
            processes = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")(device)
        except nvml.NVMLError:
            continue  # WSL, some MIG drivers and old ones do not tell
        for process in processes:
            if process.usedGpuMemory is not None:  # Windows keeps it to itself
                found[process.pid] = max(found.get(process.pid, 0), -(-process.usedGpuMemory // MIB))
    return found
