"""How busy one card is now, for people who watch. Opens `gpu`, `errors`, `protocol`."""

import threading

from distexp.errors import NoGpuError
from distexp.gpu import MIB, open_nvml, read_utilization
from distexp.protocol import GpuUse

PATIENCE_S = 0.5  # a beat waits for its card no longer


class CardWatch:
    """Looks at a card from a thread of its own: a driver that hangs holds up no beat.  For one thread."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._asked, self._answered = threading.Event(), threading.Event()
        self._use: GpuUse | None = None
        self._thread: threading.Thread | None = None

    def look(self) -> GpuUse | None:
        """Return the use of the card now; None when it cannot be read, or not within `PATIENCE_S`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="card", daemon=True)
            self._thread.start()
        self._answered.clear()
        self._asked.set()
        return self._use if self._answered.wait(PATIENCE_S) else None

    def _watch(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            self._use = read_use(self._uuid)
            self._answered.set()


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
