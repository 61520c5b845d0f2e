"""One task looked at closely: why it is not running, how it ended, what it prints."""

from distexp.manager.explain import Hand, QueueView, why_not_running
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Entry
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.task import State, Value
from distexp.task_log import LOG_FILE, last_lines, read_piece
from distexp.wire import messages as wire
from distexp.workdir import Workdir

SHOWN_LINES = 12  # of a log, in a reply to `show`


class Inspection:
    """Answers about one task.  Safe from any thread."""

    def __init__(
        self, queue: TaskQueue, store: ResultsStore, registry: WorkerRegistry, workdir: Workdir
    ) -> None:
        self._queue, self._store, self._registry, self._workdir = queue, store, registry, workdir

    def show(self, request: wire.Show, *, is_paused: bool) -> wire.ShowReply:
        """Return all that is known of the task.

        Raises:
            UnknownTask: There is none of this id.
            ResultsUnwritable: Its results file cannot be read now.
        """
        entry = self._queue.entry(self._queue.key_of(request.task))
        since_s = entry.lease.since_s if entry.lease else None
        folder, is_complete = entry.planned.output_dir, entry.state is State.COMPLETE
        return wire.ShowReply(
            task=describe(entry),
            why=why_not_running(entry, self._queue_view(entry, is_paused)),
            running_s=None if since_s is None else round(self._queue.now_s() - since_s, 1),
            row=self._store.find(folder, [entry.task]).get(entry.key) if is_complete else None,
            log_path=f"{self._run_folder(entry)}/{LOG_FILE}",
            log=last_lines(self._workdir.root / self._run_folder(entry) / LOG_FILE, SHOWN_LINES),
        )

    def _queue_view(self, entry: Entry, is_paused: bool) -> QueueView:
        connected = [worker for worker, _ in self._registry.all() if worker.connection is not None]
        hands = [
            Hand(
                name=each.name,
                memory_mib=each.memory_mib,
                refusal="drained" if each.drained else self._registry.refusal(each),
                gpus=each.gpus,
                free_mib=each.free_mib,
            )
            for each in connected
        ]
        is_pending = entry.state is State.PENDING
        duplicate, before = self._queue.place(entry.key) if is_pending else (None, 0)
        return QueueView(self._queue.now_s(), is_paused, hands, duplicate, before)

    def logs(self, request: wire.Logs) -> wire.LogsReply:
        """Return a piece of what the task has printed, or why that is not to be had here.

        Raises:
            UnknownTask: There is none of this id.
            ProtocolError: Its log cannot be read.
        """
        entry = self._queue.entry(self._queue.key_of(request.task))
        path = f"{self._run_folder(entry)}/{LOG_FILE}"
        piece = read_piece(self._workdir.root / path, request.offset)
        if piece is not None:
            return wire.LogsReply(
                text=piece.text, offset=piece.offset, size=piece.size, state=entry.state.value
            )
        absent = f"{request.task}: has not run yet, so there is no log"
        if worker := describe(entry)["worker"]:
            absent = (
                f"{request.task}: found no log here, expected it where {worker} ran it: {path} in its folder"
            )
        return wire.LogsReply(text="", offset=0, size=0, state=entry.state.value, absent=absent)

    def _run_folder(self, entry: Entry) -> str:
        task = (
            entry.lease.task if entry.lease else entry.task
        )  # as assigned: an edit may have moved its folder
        folder = self._workdir.run_folder(task.output_dir, task.phase, task.seed, task.key)
        return folder.relative_to(self._workdir.root).as_posix()


def describe(entry: Entry) -> dict[str, Value]:
    """Return a task as `tasks` and `show` tell of it."""
    task = entry.task
    return {
        "task_id": task.task_id,
        "key": task.key,
        "phase": task.phase,
        "config": task.config,
        "seed": task.seed,
        "output_dir": task.output_dir,
        "gpus": task.gpus,
        "min_free_gb": task.min_free_gb,
        "state": entry.state.value,
        "attempts": entry.attempts,
        "failures": entry.failures,
        "losses": entry.losses,
        "worker": entry.lease.worker.name if entry.lease else entry.last_worker,
        "cause": entry.cause,
        "error": entry.error[-500:],  # the end of a traceback; a page of these stays a small message
    }
