"""Which host is this, and is that process still there?"""

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


def host_name() -> str:
    """Return the host's short name, as it stands in rows and log lines."""
    return socket.gethostname().split(".")[0]


def machine_id() -> str:
    """Return a text that two processes share only on one boot of one host, seeing each other's pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{platform.node()}/{int(psutil.boot_time())}"


@dataclass(frozen=True)
class ProcessMark:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: float  # as the system tells it; never compared with a clock

    @classmethod
    def of(cls, pid: int) -> "ProcessMark | None":
        """Return the mark of a live process of this host, or None when there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except (psutil.Error, OSError):  # the latter when no file can be opened
            return None

    def is_gone(self) -> bool:
        """Return whether the process has ended. A zombie, which waits for its parent alone, has."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() != self.started or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, OSError):
            return False  # it is there, but we cannot look at it now
