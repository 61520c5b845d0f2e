"""Config files on disk -> the tasks of the sweep, read again when they change."""

import glob
from pathlib import Path

from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint

DEFAULT_CONFIGS = "configs/config_exp*.yaml"

Signature = tuple[tuple[str, int, int], ...]


class Sweep:
    """The config files of one working folder."""

    def __init__(self, root: Path, pattern: str) -> None:
        """Look for files that match `pattern`, relative to `root` unless absolute."""
        self._root, self._pattern = root, pattern
        self._seen: Signature | None = None

    def has_changed(self) -> bool:
        """Return whether a file has come, gone or changed since `load`."""
        return self._signature() != self._seen

    def load(self) -> list[GridPoint]:
        """Return every task the files ask for, in the order of files, phases and axes.

        Raises:
            ConfigError: At least one file cannot be used; all problems of all files are listed.
        """
        self._seen = self._signature()
        return expand(load_configs([Path(self._pattern)], self._root))

    def _paths(self) -> list[Path]:
        if (self._root / self._pattern).is_file():  # a name with [brackets] may be meant as it stands
            return [self._root / self._pattern]
        return [self._root / name for name in sorted(glob.glob(self._pattern, root_dir=self._root))]

    def _signature(self) -> Signature:
        found = []
        for path in self._paths():
            try:
                status = path.stat()
            except OSError:
                continue  # it went away between two looks; the next one tells
            found.append((str(path), status.st_mtime_ns, status.st_size))
        return tuple(found)
