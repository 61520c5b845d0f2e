"""The worker's side of rows: into the file where it may, else into the spool until they are handed over."""

import logging
from pathlib import Path

import msgspec

from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.results.row import row_for
from distexp.results.spool import Spool
from distexp.task import Provenance, Scalar
from distexp.wire.messages import TaskReply

log = logging.getLogger("distexp.worker")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A result on its way to the manager."""

    task: TaskReply
    result: dict[str, Scalar]
    run: Provenance

    @property
    def name(self) -> str:
        """Its name in the spool."""
        return f"{self.task.key}-{self.task.lease_id}"


class Recorder:
    """Keeps results until they are where they belong."""

    def __init__(self, root: Path, spool: Spool) -> None:
        """Write rows below `root`; keep what cannot be handed over in `spool`."""
        self._root, self._spool = root, spool

    def write_row(self, delivery: Delivery) -> None:
        """Append the row, unless the task has one already; return when it is on disk.

        Raises:
            ResultsUnwritable: It cannot be written now; try again.
        """
        task = delivery.task
        file = ResultsFile(self._root / task.output_dir / RESULTS_FILE, TaskIndex([task]), task.seen)
        file.append([(task, row_for(task, delivery.result, delivery.run))])

    def keep(self, delivery: Delivery) -> None:
        """Put the result into the spool, on disk.

        Raises:
            ResultsUnwritable: The spool cannot be written.
        """
        self._spool.put(delivery.name, msgspec.json.encode(delivery))

    def kept(self) -> list[Delivery]:
        """Return what lies in the spool, the oldest first."""
        found = []
        for name, payload in self._spool.items():
            try:
                found.append(msgspec.json.decode(payload, type=Delivery))
            except msgspec.MsgspecError as error:
                log.warning("spooled result %s: found none of this version (%s); left alone", name, error)
        return found

    def forget(self, delivery: Delivery) -> None:
        """Take a result out of the spool that has reached its file."""
        self._spool.remove(delivery.name)
