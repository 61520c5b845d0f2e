"""How busy cards are now, and how much memory they have free. Opens `gpu`, `errors`, `protocol`."""

import threading
from collections.abc import Sequence

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


class CardsWatch:
    """Looks at all cards of a worker.  For one thread."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self._watches = [CardWatch(uuid) for uuid in uuids]

    def look(self) -> GpuUse | None:
        """Return the use of all cards, in the mean how busy they are; None when one cannot be read."""
        uses = [use for watch in self._watches if (use := watch.look()) is not None]
        busy = [use.utilization_pct for use in uses if use.utilization_pct is not None]
        if len(uses) < len(self._watches):
            return None
        return GpuUse(
            used_mib=sum(use.used_mib for use in uses),
            free_mib=sum(use.free_mib for use in uses),
            utilization_pct=round(sum(busy) / len(busy)) if len(busy) == len(uses) else None,
        )

    def free_mib(self) -> int:
        """Return the free memory of the fullest card; 0 when one cannot be read."""
        uses = [watch.look() for watch in self._watches]
        return min(use.free_mib if use else 0 for use in uses)


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
