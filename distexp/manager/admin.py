"""Answers to people: how the sweep stands (`status`, `tasks`), and steering by hand (`cancel`, `pause`)."""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from distexp.errors import ProtocolError, UnknownTask
from distexp.manager.explain import QueueView, why_not_running
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import Worker
from distexp.queue.entry import Entry, Lease
from distexp.queue.lookup import Parameter, Where
from distexp.queue.records import PauseRecord
from distexp.results.row import CODE
from distexp.results.stops import step_of_stop
from distexp.results.store import ResultsStore
from distexp.run_folder import LOG_FILE
from distexp.task import Reportable, State, canonical
from distexp.task_log import last_lines, read_piece
from distexp.text import last_line, split_words, utc_text
from distexp.wire import messages as wire
from distexp.wire.framing import MAX_MESSAGE_BYTES

log = logging.getLogger("distexp.manager")

PAGE_BYTES = MAX_MESSAGE_BYTES // 2  # of tasks in a reply; one task alone may take more
WORKERS_BYTES = MAX_MESSAGE_BYTES - 1024  # of workers in a reply: some 2,000, those that have left last
METRICS, METRIC_CHARS = 8, 100  # of a worker, and of one metric there
EXCLUDED_BYTES, HELD_BYTES = 200, 100  # of names in a status: it has to stay below MAX_STATUS_BYTES
SETUP_FAILED = "the setup of its file has failed there; `resume` tries it again"
SHOWN_LINES = 12  # of a log, in a reply to `show`

Described = TypeVar("Described", wire.WorkerStatus, wire.TaskStatus)


class Admin:
    """Looks at the sweep and steers it by hand.  Safe from any thread."""

    def __init__(self, sweep: SweepState, *, is_served: bool = True) -> None:
        """Answer for a manager, or with `is_served` false for the files that an earlier one has left."""
        self._is_served = is_served
        self._queue, self._store, self._registry = sweep.queue, sweep.store, sweep.registry
        self._workdir, self._rungs, self._code = sweep.workdir, sweep.rungs, sweep.code
        self._forecaster, self._packing = sweep.forecaster, sweep.packing
        self._record = sweep.record
        self._paused: PauseRecord | None = None
        self.is_ending = False  # nothing that is left can run, and the manager is about to leave
        self._answers: Mapping[type, Callable[..., wire.AnyReply]] = {
            wire.Status: lambda request: wire.StatusReply(status=self.status()),
            wire.Workers: lambda request: self._all_workers(),
            wire.View: lambda request: self.view(),
            wire.Tasks: self._tasks,
            wire.Show: self._show,
            wire.Logs: self._logs,
            wire.Cancel: self._cancel,
            wire.Requeue: self._requeued,
            wire.Pause: lambda request: self._pause(True),
            wire.Resume: lambda request: self._pause(False),
            wire.Drain: self._drain,
            wire.Prioritize: self._prioritize,
        }

    def handle(self, request: wire.AnyRequest) -> wire.AnyReply:
        """Return the reply.

        Raises:
            UnknownTask: A task or worker that is named does not exist.
            ProtocolError: The request is not one of these, or asks for values that no task can have.
            ResultsUnwritable: The results file of the task cannot be read now.
        """
        answer = self._answers.get(type(request))
        if answer is None:
            raise ProtocolError(
                f"message: {type(request).__name__} is no request; docs/protocol.md lists them"
            )
        return answer(request)

    @property
    def is_paused(self) -> bool:
        """Whether nothing is assigned until `resume`."""
        return self._paused is not None

    def restore_pause(self, records: Sequence[PauseRecord]) -> None:
        """Take over a pause, and say since when it lasts."""
        for self._paused in records:
            log.info("Paused since %s: nothing is assigned until `resume`", self._paused.since_utc)

    # -- the sweep -----------------------------------------------------------------------------------------

    def status(self) -> wire.SweepStatus:
        """Return how far the sweep is; its reply never passes `MAX_STATUS_BYTES`."""
        counts = self._queue.counts()
        total = sum(counts.values()) - counts[State.WITHDRAWN]
        done = counts[State.COMPLETE] + counts[State.PRUNED]
        share = 100 * done / total if total else 100.0
        excluded = _cut(" ".join(self._registry.excluded()))
        return wire.SweepStatus(
            total=total,
            **{state.value: counts[state] for state in State if state is not State.WITHDRAWN},
            progress=f"{done}/{total} ({share:.1f}%)",
            done=self._queue.is_over(),
            paused=self.is_paused,
            workers=self._registry.connected(),
            benched=excluded,
            excluded_workers=excluded,
            held_phases=_cut(" ".join(self._queue.holds.explain()), HELD_BYTES),
            problems=len(self._store.problems()),
            ending=self.is_ending,
        )

    def view(self) -> wire.ViewReply:
        """Return the sweep at a glance."""
        forecast = self._forecaster.forecast(self._queue.counts())
        workers = sorted(self._workers(), key=lambda each: (each.task is None, not each.connected))
        return wire.ViewReply(
            status=self.status(),
            per_hour=forecast.per_hour,
            eta_s=forecast.eta_s,
            why_no_eta="paused" if self.is_paused else forecast.why_no_eta,
            workers=workers[: wire.PAGE],
            failures=self._forecaster.failures(),
            phases=self._phases()[: wire.PAGE],
            unwritable=dict(itertools.islice(self._store.problems().items(), wire.PAGE)),
        )

    def _phases(self) -> list[wire.PhaseStatus]:
        held = self._queue.holds.explain()
        return [
            wire.PhaseStatus(
                phase=phase,
                tasks={state.value: number for state, number in counts.items() if number},
                held=held.get(phase, ""),
            )
            for phase, counts in self._queue.queries.counts_by_phase().items()
        ]

    def _all_workers(self) -> wire.WorkersReply:
        workers = sorted(self._workers(), key=lambda each: not each.connected and each.task is None)
        return wire.WorkersReply(workers=_fitting(workers, WORKERS_BYTES))

    def _workers(self) -> list[wire.WorkerStatus]:
        leases = {(lease.worker.name, lease.worker.instance): lease for lease in self._queue.leases()}
        return [
            self._worker(worker, age_s, leases.get((worker.name, worker.instance)))
            for worker, age_s in self._registry.all()
        ]

    def _worker(self, worker: Worker, age_s: float, lease: Lease | None) -> wire.WorkerStatus:
        since_s = lease.since_s if lease else None
        usual_s = self._forecaster.usual_s(lease.task) if lease else None
        progress = worker.progress if lease else None
        return wire.WorkerStatus(
            worker=worker.name,
            host=worker.info.host,
            device=worker.info.device,
            memory_mib=worker.info.memory_mib,
            connected=worker.info.connection is not None,
            age_s=round(age_s, 1),
            task=lease.task.task_id if lease else None,
            task_s=None if since_s is None else round(self._queue.now_s() - since_s, 1),
            progress=(progress.step, progress.total) if progress else None,
            metrics=_short(progress.metrics) if progress else {},
            gpu=worker.gpu,
            completed=worker.completed,
            failed=worker.failed,
            drained=worker.drained,
            benched=worker.excluded,
            excluded=worker.excluded,
            git_commit=worker.git_commit,
            other_commit=self._registry.has_other_commit(worker),
            usual_s=None if usual_s is None else round(usual_s, 1),
        )

    # -- tasks ---------------------------------------------------------------------------------------------

    def _tasks(self, request: wire.Tasks) -> wire.TasksReply:
        entries, total = self._queue.queries.page(
            _accepted(request, self._store),
            request.offset,
            wire.PAGE,
            order=_order(request.sort.removeprefix("-")),
            is_descending=request.sort.startswith("-"),
        )
        return wire.TasksReply(tasks=_fitting(map(describe, entries), PAGE_BYTES), total=total)

    def _show(self, request: wire.Show) -> wire.ShowReply:
        entry = self._queue.entry(self._queue.key_of(request.task))
        since_s = entry.lease.since_s if entry.lease else None
        has_row = entry.state in (State.COMPLETE, State.PRUNED)
        is_pending = entry.state is State.PENDING
        duplicate, before = self._queue.queries.place(entry.key) if is_pending else (None, 0)
        held = self._queue.holds.explain().get(entry.planned.phase, "")
        stuck = self._registry.stuck(entry.lease.worker) if entry.lease else ""
        file = self._store.problems().get(entry.planned.output_dir, "")
        workers = [worker for worker, excluded in self._registry.available() if not excluded]
        room = self._packing.why_waiting(entry, workers) if is_pending else ""
        waits = duplicate, before, held, stuck, file, self._is_served, room
        view = QueueView(
            *(self._queue.now_s(), self.is_paused, *waits),
            cancelled_s=self._queue.cancelled.left_s(entry.key),
        )
        folder = self._run_folder(entry)
        return wire.ShowReply(
            task=describe(entry),
            why=self._why(entry, view),
            running_s=None if since_s is None else round(self._queue.now_s() - since_s, 1),
            row=self._store.find([entry.planned]).get(entry.key) if has_row else None,
            run_dir=folder if os.path.isdir(self._workdir.root / folder) else "",
            log_path=f"{folder}/{LOG_FILE}",
            log=last_lines(self._workdir.root / folder / LOG_FILE, SHOWN_LINES),
            rungs=[
                wire.RungStatus(**{name: getattr(each, name) for name in wire.RungStatus.__struct_fields__})
                for each in self._rungs.history(entry.planned)
            ],
        )

    def _why(self, entry: Entry, view: QueueView) -> str:
        if entry.state is State.COMPLETE and (path := self._store.where(entry.key)):
            return f"complete: its row is in {path.relative_to(self._workdir.root).as_posix()}"
        if entry.state is State.PRUNED and (stop := self._rungs.last_stop(entry.planned)):
            return f"pruned {stop.why}; `requeue {entry.planned.task_id}` runs it again"
        phase, holds = entry.planned.phase, self._queue.holds
        workers = [
            (worker, excluded or SETUP_FAILED * (phase in holds.unable(worker)))
            for worker, excluded in self._registry.available()
        ]
        return why_not_running(entry, workers, view)

    def _logs(self, request: wire.Logs) -> wire.LogsReply:
        """Return a piece of what the task has printed, or why that is not to be had here."""
        entry = self._queue.entry(self._queue.key_of(request.task))
        path = f"{self._run_folder(entry)}/{LOG_FILE}"
        piece = read_piece(self._workdir.root / path, request.offset)
        if piece is not None:
            return wire.LogsReply(
                text=piece.text, offset=piece.offset, size=piece.size, state=entry.state.value
            )
        absent = f"{request.task}: has not run yet, so there is no log"
        worker = describe(entry).worker
        if worker or entry.state is State.COMPLETE:
            absent = f"{request.task}: has printed nothing"
        if "/" in worker:  # on another host
            absent = f"{request.task}: its log, if any, is where {worker} ran it: {path} in that folder"
        return wire.LogsReply(text="", offset=0, size=0, state=entry.state.value, absent=absent)

    def _run_folder(self, entry: Entry) -> str:
        task = entry.assigned_task
        folder = self._workdir.run_folder(task.output_dir, task.phase, task.seed, task.key)
        return folder.relative_to(self._workdir.root).as_posix()

    # -- steering ------------------------------------------------------------------------------------------

    def _cancel(self, request: wire.Cancel) -> wire.Ack:
        keys = [self._queue.key_of(task_id) for task_id in request.tasks]
        leases = {lease.task.key: lease for lease in self._queue.leases()}
        for key in leases.keys() & {*keys}:
            self._packing.abandon(leases[key])
        return wire.Ack(count=sum(self._queue.cancel(key) for key in keys))

    def _requeued(self, request: wire.Requeue) -> wire.Ack:
        count = sum(self._requeue(request))
        others, message = self._code.requeue_others() if request.other_code else (0, "")
        return wire.Ack(count=count + others, message=message)

    def _requeue(self, request: wire.Requeue) -> Iterator[bool]:
        keys = [self._queue.key_of(task_id) for task_id in request.tasks]  # all known, or none is touched
        found = map(self._queue.entry, keys)
        stopped = {entry.key: entry.planned for entry in found if entry.state is State.PRUNED}
        rows = self._store.find([each for each in stopped.values() if not self._rungs.history(each)])
        for key in keys:
            if key in stopped:
                self._rungs.ask_again(stopped[key], step_of_stop(rows.get(key, {})))
            yield self._queue.requeue(key)
        if request.failed:
            yield from (self._queue.requeue(entry.key) for entry in self._queue.entries(State.FAILED))
        if request.missing:
            complete = [entry.planned for entry in self._queue.entries(State.COMPLETE)]
            yield from map(self._queue.reset_complete, self._store.without_row(complete))

    def _pause(self, is_paused: bool) -> wire.Ack:
        if is_paused:
            if self._paused is None:
                self._paused = PauseRecord(since_utc=utc_text(datetime.now(UTC)))
                self._record(self._paused)
            return wire.Ack(message="paused")
        if self._paused is not None:
            self._record(msgspec.structs.replace(self._paused, is_settled=True))
            self._paused = None
        return wire.Ack(message=" ".join(["resumed", *self.end_holds("`resume`")]))

    def end_holds(self, why: str) -> list[str]:
        """Let held phases go on, with their code imported anew; return them."""
        for phase in (ended := self._queue.holds.end_all()):
            log.info("Phase %s goes on: %s", phase, why)
        return ended

    def _drain(self, request: wire.Drain) -> wire.Ack:
        if not self._registry.drain(request.worker_id):
            raise UnknownTask(f"worker {request.worker_id}: not known; `workers` lists those that are")
        return wire.Ack(message=f"{request.worker_id} leaves after its current task")

    def _prioritize(self, request: wire.Prioritize) -> wire.Ack:
        order = self._queue.priorities.ask(request.phase, request.priority)
        return wire.Ack(message=f"first to last: {order}")


def describe(entry: Entry) -> wire.TaskStatus:
    """Return a task as `tasks` and `show` answer."""
    task = entry.task
    return wire.TaskStatus(
        task_id=task.task_id,
        key=task.key,
        phase=task.phase,
        config=task.config,
        seed=task.seed,
        output_dir=task.output_dir,
        gpus=task.gpus,
        min_free_gb=task.min_free_gb,
        gpu_model=task.gpu_model,
        state=entry.state.value,
        attempts=entry.attempts,
        failures=entry.failures,
        losses=entry.losses,
        worker=entry.lease.worker.name if entry.lease else entry.last_worker,
        cause=entry.cause,
        error=entry.error[-500:],  # the end of a traceback; a page of these stays a small message
        superseded=entry.superseded,
    )


def _cut(names: str, limit: int = EXCLUDED_BYTES) -> str:
    """Return as much of the names as takes `limit` bytes in JSON, quotes included."""
    while len(msgspec.json.encode(names)) > limit:
        names = names[: -max(1, (len(msgspec.json.encode(names)) - limit) // 6)]
    return names


def _fitting(structs: Iterable[Described], limit: int) -> list[Described]:
    """Return the first of them, as many as `limit` bytes of JSON hold, and one at least."""
    found, size = list[Described](), 0
    for each in structs:
        size += len(msgspec.json.encode(each)) + 1
        if found and size > limit:
            break
        found.append(each)
    return found


def _short(metrics: Mapping[str, Reportable]) -> dict[str, Reportable]:
    """Return what fits into a reply; a thousand workers may report a thousand metrics each."""
    short = [(name, value) for name, value in metrics.items() if len(f"{name}{value}") <= METRIC_CHARS]
    return dict(short[:METRICS])


def _accepted(request: wire.Tasks, store: ResultsStore) -> Callable[[Entry], bool] | None:
    """Return what a task must fulfil; None: all are wanted, which is asked for once a second."""
    rest = {name: value for name, value in request.where.items() if name != CODE}
    code = str(request.where.get(CODE, ""))  # of the row: its first digits will do; or a parameter
    try:
        where, others = (
            Where({name: canonical(value) for name, value in wanted.items()})
            for wanted in (request.where, rest)
        )
    except RecursionError:
        raise ProtocolError(
            "tasks.where: it nests hundreds of levels deep; give values of a config"
        ) from None

    words = split_words(request.text.lower())

    def ran(entry: Entry) -> bool:
        return bool(code) and entry.state is State.COMPLETE and store.code_of(entry.planned).startswith(code)

    asked: list[tuple[object, Callable[[Entry], bool]]] = [
        (request.superseded, lambda entry: bool(entry.superseded)),
        (request.state is not None, lambda entry: entry.state.value == request.state),
        (request.phase is not None, lambda entry: entry.planned.phase == request.phase),
        (
            request.where,
            lambda entry: where.holds(entry.planned) or (others.holds(entry.planned) and ran(entry)),
        ),
        (words, lambda entry: _mentions(entry, words)),
    ]
    checks = [check for wanted, check in asked if wanted]
    if len(checks) < 2:
        return checks[0] if checks else None
    return lambda entry: all(check(entry) for check in checks)


def _mentions(entry: Entry, words: Sequence[str]) -> bool:
    text = f"{entry.planned.task_id} {entry.last_worker} {entry.error}".lower()
    return all(word in text for word in words)


def _order(name: str) -> Callable[[Entry], object] | None:
    """Return what entries are sorted by; None: they stay in the order of the sweep."""
    if name in ("", "task"):
        return None
    orders: Mapping[str, Callable[[Entry], object]] = {
        "state": lambda entry: entry.state.value,
        "phase": lambda entry: entry.planned.phase,
        "attempts": lambda entry: entry.attempts,
        "worker": lambda entry: entry.last_worker,
        "error": lambda entry: (entry.cause, last_line(entry.error)) if entry.error else ("", ""),
    }
    rank = Parameter(name).rank
    return orders.get(name) or (lambda entry: rank(entry.planned))
