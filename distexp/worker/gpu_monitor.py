"""Reads utilization and free memory of a worker's GPUs, without waiting for a driver that hangs."""

from collections.abc import Callable, Sequence

from distexp.errors import NoGpuError
from distexp.gpu.devices import MIB, open_nvml, read_utilization
from distexp.system.beside import Beside
from distexp.wire.messages import GpuUse

READ_TIMEOUT_S = 0.5  # a heartbeat waits for the driver no longer


class GpuMonitor:
    """Reads a worker's GPUs in another thread: a driver that hangs delays no heartbeat.  For one thread."""

    def __init__(self, uuids: Sequence[str], on_look: Callable[[], None] = lambda: None) -> None:
        """Call `on_look` at each look, in that thread."""
        self._uuids, self._on_look = uuids, on_look
        self._look: Beside[list[GpuUse | None]] | None = None  # the last one, which may still hang

    def usage(self) -> GpuUse | None:
        """Return the use of all GPUs now, their utilization averaged; None when one cannot be read.

        That takes `READ_TIMEOUT_S` at most.
        """
        uses = [use for use in self._read() if use is not None]
        if len(uses) < len(self._uuids):
            return None
        busy = [use.utilization_pct for use in uses if use.utilization_pct is not None]
        return GpuUse(
            used_mib=sum(use.used_mib for use in uses),
            free_mib=sum(use.free_mib for use in uses),
            utilization_pct=round(sum(busy) / len(busy)) if len(busy) == len(uses) else None,
        )

    def free_mib(self) -> int:
        """Return the free memory of the fullest GPU; 0 when one cannot be read within `READ_TIMEOUT_S`."""
        return min((use.free_mib if use else 0 for use in self._read()), default=0)

    def _read(self) -> list[GpuUse | None]:
        if self._look is None or self._look.is_over():  # one that has hung tells of then
            self._look = Beside(self._read_all)
        return self._look.result() if self._look.is_over(READ_TIMEOUT_S) else []

    def _read_all(self) -> list[GpuUse | None]:
        self._on_look()
        return [read_use(uuid) for uuid in self._uuids]


def read_use(uuid: str) -> GpuUse | None:
    """Return the use of the device with this UUID; None when it cannot be read: nothing depends on it.

    It opens NVML anew, which takes some 10 ms: a driver or GPU that comes back is found again.
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
