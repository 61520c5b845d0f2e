"""What the parts of a manager share of one sweep."""

from collections.abc import Callable

from distexp.manager.code_identity import CodeIdentity
from distexp.manager.forecast import Forecaster
from distexp.manager.frozen_code import FrozenCode
from distexp.manager.rungs import Rungs
from distexp.manager.workers import WorkerRegistry
from distexp.queue.journal import Record
from distexp.queue.packing import Packing
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.workdir import Workdir


class SweepState:
    """Tasks, rows and workers, and what is known by them.  Its parts are safe from any thread."""

    def __init__(
        self,
        workdir: Workdir,
        queue: TaskQueue,
        store: ResultsStore,
        registry: WorkerRegistry,
        *,
        frozen: FrozenCode | None = None,
        record: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """Without `frozen`, tasks run the folder's code; `record` hears what must outlive the manager."""
        self.workdir, self.queue, self.store, self.registry = workdir, queue, store, registry
        self.frozen = frozen or FrozenCode(workdir, is_frozen=False)
        self.code = CodeIdentity(self.frozen, queue, store)
        self.forecaster, self.rungs = Forecaster(queue, registry), Rungs(workdir.root, queue)
        self.packing, self.record = Packing(queue, record), record
