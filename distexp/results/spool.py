"""Results that could not be handed over, kept on local disk until they are.

One file per result: a digest of the rest on its first line, so that a torn or foreign file is told apart.
"""

import hashlib
import logging
import re
from pathlib import Path

from distexp.errors import ResultsUnwritable
from distexp.system.files import PRIVATE, make_ignored, read_bytes, replace_durably

SUFFIX = ".result"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

_log = logging.getLogger(__name__)


class Spool:
    """A folder of results, made on demand. Processes may share it; one `name` belongs to one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warned: set[str] = set()

    def put(self, name: str, payload: bytes) -> None:
        """Keep `payload`, durably, in place of what had this name.

        Raises:
            ResultsUnwritable: It was not kept. One line: folder, cause.
            ValueError: The name is not made of letters, digits, dot, dash and underscore.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"spool name {name!r}: may hold only letters, digits, dot, dash and underscore")
        try:
            make_ignored(self._folder)
            replace_durably(self._folder / (name + SUFFIX), _digest(payload) + b"\n" + payload, PRIVATE)
        except OSError as error:
            raise ResultsUnwritable(f"{self._folder}: cannot be written now ({error.strerror})") from error

    def path(self, name: str) -> Path:
        """Where the payload of this name lies."""
        return self._folder / (name + SUFFIX)

    def items(self) -> list[tuple[str, bytes]]:
        """Return name and payload of all that is kept, oldest first; what is no such file is left alone."""
        kept: list[tuple[int, str, bytes]] = []
        for path in self._folder.glob("[!.]*"):
            try:
                modified_ns, (digest, _, payload) = (
                    path.stat().st_mtime_ns,
                    read_bytes(path).partition(b"\n"),
                )
            except OSError:
                continue  # handed over by another process at this moment, or a folder
            if path.suffix == SUFFIX and digest == _digest(payload):
                kept.append((modified_ns, path.stem, payload))
            elif path.name not in self._warned:
                self._warned.add(path.name)
                _log.warning("%s: torn, or no spooled result; left as it is", path)
        return [(name, payload) for _, name, payload in sorted(kept)]

    def remove(self, name: str) -> None:
        """Forget what was handed over; a name that is not there is fine."""
        (self._folder / (name + SUFFIX)).unlink(missing_ok=True)


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode()
