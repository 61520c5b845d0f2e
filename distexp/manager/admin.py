"""Looking at the sweep and steering it, by hand: status, workers, tasks, cancel, requeue, pause, drain."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

import msgspec

from distexp.errors import ProtocolError, UnknownTask
from distexp.manager.forecast import Forecaster
from distexp.manager.inspection import Inspection, describe
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Entry
from distexp.queue.lookup import Where
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.task import State, Value, canonical
from distexp.wire import messages as wire
from distexp.workdir import Workdir

METRICS, METRIC_CHARS = 8, 100  # of a worker in a view, and of one metric there
EXCLUDED_BYTES = 200  # of names in a status: the whole has to stay below MAX_STATUS_BYTES


class Control:
    """Answers to people.  Safe from any thread."""

    def __init__(
        self,
        queue: TaskQueue,
        store: ResultsStore,
        registry: WorkerRegistry,
        workdir: Workdir,
        forecaster: Forecaster,
    ) -> None:
        self._queue, self._store, self._registry, self._forecaster = queue, store, registry, forecaster
        self._inspection = Inspection(queue, store, registry, workdir)
        self.is_paused = False

    def handle(self, request: wire.AnyRequest) -> wire.AnyReply:
        """Return the reply.

        Raises:
            UnknownTask: A task or worker that is named does not exist.
            ProtocolError: The request is not one of these, or asks for values that no task can have.
        """
        match request:
            case wire.Status():
                return wire.StatusReply(status=self.status())
            case wire.Workers():
                return wire.WorkersReply(workers=self._workers())
            case wire.View():
                return self.view()
            case wire.Tasks():
                page, total = self._queue.page(_accepted(request), request.offset, wire.PAGE)
                return wire.TasksReply(tasks=[describe(entry) for entry in page], total=total)
            case wire.Show():
                return self._inspection.show(request, is_paused=self.is_paused)
            case wire.Logs():
                return self._inspection.logs(request)
            case wire.Cancel():
                keys = [self._queue.key_of(task_id) for task_id in request.tasks]
                return wire.Ack(count=sum(self._queue.cancel(key) for key in keys))
            case wire.Requeue():
                return wire.Ack(count=sum(self._requeue(request)))
            case wire.Pause() | wire.Resume():
                self.is_paused = isinstance(request, wire.Pause)
                return wire.Ack(message="paused" if self.is_paused else "resumed")
            case wire.Drain():
                if not self._registry.drain(request.worker_id):
                    raise UnknownTask(
                        f"worker {request.worker_id}: not known; `workers` lists those that are"
                    )
                return wire.Ack(message=f"{request.worker_id} leaves after its current task")
        raise ProtocolError(
            f"message: found {type(request).__name__}, expected a request of docs/protocol.md"
        )

    def status(self) -> dict[str, Value]:
        """Return how far the sweep is; its reply never passes `MAX_STATUS_BYTES`."""
        counts = self._queue.counts()
        total = sum(counts.values()) - counts[State.WITHDRAWN]
        complete = counts[State.COMPLETE]
        share = 100 * complete / total if total else 100.0
        excluded = " ".join(worker.name for worker, _ in self._registry.all() if worker.excluded)
        return {
            "total": total,
            **{state.value: counts[state] for state in State if state is not State.WITHDRAWN},
            "progress": f"{complete}/{total} ({share:.1f}%)",
            "done": self._queue.is_over(),
            "paused": self.is_paused,
            "workers": self._registry.connected(),
            "benched": excluded.encode()[:EXCLUDED_BYTES].decode(errors="ignore"),
        }

    def view(self) -> wire.ViewReply:
        """Return the sweep at a glance."""
        forecast = self._forecaster.forecast(self._queue.counts())
        workers = sorted(self._workers(), key=lambda each: (each["task"] is None, not each["connected"]))
        return wire.ViewReply(
            status=self.status(),
            per_hour=forecast.per_hour,
            eta_s=forecast.eta_s,
            why_no_eta="paused" if self.is_paused else forecast.why_no_eta,
            workers=[{**each, "metrics": _short(each["metrics"])} for each in workers[: wire.PAGE]],
            failures=[asdict(failure) for failure in self._forecaster.failures()],
        )

    def _workers(self) -> list[dict[str, Value]]:
        now_s = self._queue.now_s()
        leases = {(lease.worker.name, lease.worker.instance): lease for lease in self._queue.leases()}
        return [
            {
                "worker": worker.name,
                "host": worker.host,
                "device": worker.device,
                "memory_mib": worker.memory_mib,
                "connected": worker.connection is not None,
                "age_s": round(age_s, 1),
                "task": lease and lease.task.task_id,
                "task_s": None if lease is None or lease.since_s is None else round(now_s - lease.since_s, 1),
                "progress": told and [told.step, told.total],
                "metrics": told.metrics if told else {},
                "gpu": worker.gpu and msgspec.to_builtins(worker.gpu),
                "completed": worker.completed,
                "failed": worker.failed,
                "drained": worker.drained,
                "benched": worker.excluded,
                "git_commit": worker.git_commit,
                "other_commit": self._registry.has_other_commit(worker),
            }
            for worker, age_s in self._registry.all()
            for lease in [leases.get((worker.name, worker.instance))]
            for told in [worker.progress if lease else None]
        ]

    def _requeue(self, request: wire.Requeue) -> Iterator[bool]:
        for key in [
            self._queue.key_of(task_id) for task_id in request.tasks
        ]:  # all known, or none is touched
            yield self._queue.requeue(key)
        for entry in self._queue.entries(State.FAILED) if request.failed else ():
            yield self._queue.requeue(entry.key)
        if request.missing:
            complete = [entry.planned for entry in self._queue.entries(State.COMPLETE)]
            yield from map(self._queue.reset_complete, self._store.without_row(complete))


def _short(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a view has room for; a hundred workers may tell of a thousand metrics each."""
    told = [(name, value) for name, value in metrics.items() if len(f"{name}{value}") <= METRIC_CHARS]
    return dict(told[:METRICS])


def _accepted(request: wire.Tasks) -> Callable[[Entry], bool]:
    try:
        where = Where({name: canonical(value) for name, value in request.where.items()})
    except RecursionError:
        raise ProtocolError("tasks.where: found hundreds of levels, expected values of a config") from None
    return lambda entry: (
        request.state in (None, entry.state.value)
        and request.phase in (None, entry.planned.phase)
        and where.holds(entry.planned)
    )
