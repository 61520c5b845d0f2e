"""How busy one card is now, for people who watch. Opens `gpu`, `errors`, `protocol`."""

from distexp.errors import NoGpuError
from distexp.gpu import MIB, open_nvml, read_utilization
from distexp.protocol import GpuUse


def read_use(uuid: str) -> GpuUse | None:
    """Return the use of the device with this UUID; None when it cannot be read: nothing depends on it.

    It opens NVML anew, which takes some 10 ms: a driver or card that comes back is met again.
    """
    try:
        with open_nvml() as nvml:
            device = nvml.nvmlDeviceGetHandleByUUID(uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(device)
            return GpuUse(
                used_mib=(memory.total - memory.free) // MIB,
                free_mib=memory.free // MIB,
                utilization_pct=read_utilization(nvml, device),
            )
    except NoGpuError:
        return None
