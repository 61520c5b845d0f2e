"""The phases that the configs of a folder ask for, and the folders that their tasks write to."""

import threading
from collections.abc import Sequence
from pathlib import Path

from distexp.errors import ConfigError
from distexp.results.results_file import RESULTS_FILE
from distexp.results.store import folders_of, folders_with_results
from distexp.sweep.config import Phase
from distexp.sweep.source import Sweep
from distexp.workdir import Workdir


class KnownPhases:
    """What the configs asked for when they were read last."""

    def __init__(self, root: Path, phases: Sequence[Phase]) -> None:
        """Find the folders of their tasks.

        Raises:
            ConfigError: One leaves the working folder.
        """
        self.phases = phases
        self._root = root
        self._folders = {each.name: folders_of(root, each) for each in phases if each.space is None}

    def folders(self, phase: Phase, file: str = RESULTS_FILE) -> list[str]:
        """Return where tasks of a phase write to; of an adaptive search the folders that hold such a file."""
        if phase.space is None:
            return self._folders[phase.name]
        return folders_of(self._root, phase, file)

    def metrics(self) -> dict[str, str]:
        """Return, by name of their phase, the metrics that the configs name."""
        return {each.name: each.metric.name for each in self.phases if each.metric}

    def results_files(self) -> list[Path]:
        """Return all files whose rows may count, whether or not they are there."""
        own = (folder for phase in self.phases for folder in self.folders(phase))
        folders = dict.fromkeys([*folders_with_results(self._root), *own])
        return [self._root / folder / RESULTS_FILE for folder in folders]


class FolderPhases:
    """Reads the configs of a folder again once one of them has changed.  Safe from any thread."""

    def __init__(self, folder: Workdir) -> None:
        """Read none yet."""
        self._folder = folder
        self._lock = threading.Lock()
        self._pattern = ""
        self._sweep = Sweep(folder.root, self._pattern)
        self._known = KnownPhases(folder.root, ())

    def read(self) -> KnownPhases:
        """Return what is known: the same object until a file changes.

        While the configs cannot be used, those hold that could be.
        """
        with self._lock:
            if (pattern := self._folder.configs) != self._pattern:
                self._pattern, self._sweep = pattern, Sweep(self._folder.root, pattern)
            if self._sweep.has_changed():
                try:
                    self._known = KnownPhases(self._folder.root, self._sweep.load_phases())
                except ConfigError:
                    self._known = KnownPhases(self._folder.root, self._known.phases)
            return self._known
