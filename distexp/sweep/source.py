"""The config files of a working folder as a list of tasks, read again when a file changes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from distexp.sweep.config import Phase, load_configs
from distexp.sweep.config_files import find_configs
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint

READING = "Reading the configs"  # as people are told while it lasts

Signature = tuple[tuple[str, int, int], ...]


class Sweep:
    """The config files of one working folder."""

    def __init__(self, root: Path, pattern: str) -> None:
        """Look for files that match `pattern`, relative to `root` unless absolute."""
        self._root, self._pattern = root, Path(pattern)
        self._seen: Signature | None = None
        self._included: list[str] = []
        self.phases: Sequence[Phase] = ()  # of the last load that succeeded

    def has_changed(self) -> bool:
        """Return whether a file has come, gone or changed since `load`."""
        return self._signature() + self._signature_of(self._included) != self._seen

    def load(self) -> list[GridPoint]:
        """Return every task the files ask for, in the order of files, phases and axes.

        Those of adaptive searches, which come one after the other, are not among them.

        Raises:
            ConfigError: At least one file cannot be used; all problems of all files are listed.
        """
        phases = self.load_phases()
        tasks = expand(phases)
        self.phases = phases
        return tasks

    def load_phases(self) -> Sequence[Phase]:
        """Return the phases of the files; makes no task.

        Raises:
            ConfigError: At least one file cannot be used; all problems of all files are listed.
        """
        before = self._signature()
        self._included = []
        try:
            return load_configs([self._pattern], self._root, self._included)
        finally:  # a file that is included for the first time counts as it is now
            self._seen = before + self._signature_of(self._included)

    def _signature(self) -> Signature:
        return self._signature_of(find_configs(self._pattern, self._root))

    def _signature_of(self, names: Iterable[str]) -> Signature:
        found = []
        for name in names:
            path = self._root / name
            try:
                status = path.stat()
            except OSError:
                continue  # it went away between two looks; the next one tells
            found.append((str(path), status.st_mtime_ns, status.st_size))
        return tuple(found)
