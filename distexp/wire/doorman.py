"""How many strangers may stand at the manager's door, and how loud they may be.

A stranger is a peer that has not shown the secret (yet).
"""

import logging
import sys
import threading
import time
from collections import Counter

MAX_UNAUTHENTICATED = 1000  # from one address: all workers of a large host, at once
MAX_REFUSALS = 3  # of one stranger: a typing error, not a search, and not a browser that sends a form
WARNINGS_PER_MINUTE = 60  # about refusals: a flood of them must not fill the disk
WANTED_FILES = 65536  # one a connection
SPARE_FILES = 64  # for configs, results, journal and log, however many connections there are

log = logging.getLogger("distexp.server")


class ConnectionLimits:
    """Knows how many peers are in, and which of them are strangers.  Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._room = _allow_many_files() - SPARE_FILES
        self._inside = 0
        self._unauthenticated: Counter[str] = Counter()  # by address
        self._begun_s = time.monotonic()
        self._said = self._kept = 0

    def let_in(self, address: str) -> bool:
        """Return whether one more may enter; it has then, as a stranger, until `forget`."""
        with self._lock:
            if self._inside >= self._room or self._unauthenticated[address] >= MAX_UNAUTHENTICATED:
                return False
            self._inside += 1
            self._unauthenticated[address] += 1
            return True

    def recognise(self, address: str) -> None:
        """Learn that one of the strangers of this address has shown the secret."""
        with self._lock:
            self._close_unauthenticated(address)

    def forget(self, address: str, *, is_unauthenticated: bool) -> None:
        """Learn that one who was let in has left."""
        with self._lock:
            self._inside -= 1
            if is_unauthenticated:
                self._close_unauthenticated(address)

    def _close_unauthenticated(self, address: str) -> None:
        self._unauthenticated[address] -= 1
        if not self._unauthenticated[address]:
            del self._unauthenticated[address]

    def complain(self, peer: str, problem: object) -> None:
        """Put a refusal into the log, or count it when there were too many of late."""
        with self._lock:
            if time.monotonic() >= self._begun_s + 60:
                self._say_what_was_kept()
            is_loud = self._said < WARNINGS_PER_MINUTE
            self._said += is_loud
            self._kept += not is_loud
        if is_loud:
            log.warning("%s: refused: %s", peer, problem)

    def close(self) -> None:
        """Say what was not logged."""
        with self._lock:
            self._say_what_was_kept()

    def _say_what_was_kept(self) -> None:
        if self._kept:
            log.warning("%d more refusals were not logged", self._kept)
        self._begun_s, self._said, self._kept = time.monotonic(), 0, 0


def _allow_many_files() -> int:
    """Return how many files this process may open, after asking for as many as the system grants."""
    if sys.platform == "win32":
        return WANTED_FILES  # sockets are no files there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
