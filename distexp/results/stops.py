"""Which phases stop tasks early, so that a row of theirs may say so in the column `stopped_at`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from distexp.results.compare import NULLS
from distexp.results.matching import TaskIndex
from distexp.results.row import RUNGS_FILE, STOPPED_AT
from distexp.results.rungs import read_rungs
from distexp.text import number_in


def tells_of_stop(cell: str) -> bool:
    """Return whether a cell of the column `stopped_at` holds a step, and not one of the words for none."""
    return cell.strip() not in NULLS


def step_of_stop(row: Mapping[str, str]) -> float | None:
    """Return the step at which the task of a row was stopped early; None where it tells of none."""
    return number_in(row.get(STOPPED_AT, ""))


class StoppingPhases:
    """The phases that ask for it in the configs, and those of which `rungs.csv` of this folder tells.

    In rows of other phases a column `stopped_at` is a metric. Caller holds a lock.
    """

    def __init__(self, folder: Path, index: TaskIndex) -> None:
        self._rungs, self._index = folder / RUNGS_FILE, index
        self._recorded = frozenset[str]()
        self._identity: tuple[int, int] | None = None  # size and mtime of `rungs.csv` when it was read

    def are_any(self) -> bool:
        """Return whether a row may say that its task was stopped early."""
        return bool(self._index.stopping_phases) or os.path.exists(self._rungs)

    def hold_any(self, phases: Iterable[str]) -> bool:
        """Return whether a phase of one of these names stops tasks early, or did."""
        names = frozenset(phases)
        return not self._index.stopping_phases.isdisjoint(names) or not names.isdisjoint(self._told())

    def _told(self) -> frozenset[str]:
        try:
            status = os.stat(self._rungs)
        except OSError:
            return frozenset()
        if self._identity != (identity := (status.st_size, status.st_mtime_ns)):
            self._recorded = frozenset(record.phase for record in read_rungs(self._rungs))
            self._identity = identity
        return self._recorded
