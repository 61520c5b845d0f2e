"""Ask the manager of a folder, or without one its files: configs, rows, journal and run folders."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from distexp.cli.connection import Reply, Target
from distexp.cli.records import journal_of, tasks_in
from distexp.cli.traces import Trace, find_trace
from distexp.errors import (
    AlreadyRunning,
    ConfigError,
    DistexpError,
    JournalUnwritable,
    ManagerUnreachable,
    ProtocolError,
    Refused,
    UnknownTask,
    UserError,
)
from distexp.manager.admin import SHOWN_LINES
from distexp.manager.at_rest import SweepAtRest
from distexp.queue.records import TaskRecord
from distexp.run_folder import LOG_FILE, RUNS_FOLDER, key_in
from distexp.sweep.config import load_configs
from distexp.sweep.source import READING
from distexp.system.gc import set_aside
from distexp.system.long_work import LongWork
from distexp.task import State
from distexp.task_log import last_lines, read_piece
from distexp.wire.messages import AnyReply, AnyRequest, Logs, LogsReply, Show, ShowReply, TaskStatus
from distexp.workdir import Workdir

CHANGING_S = 5.0  # how long a manager that holds the folder may start or end before it counts as stuck
AGAIN_S = 0.2
NO_MANAGER = "No manager runs in this folder: this is what its files say."


class Looker:
    """Answers requests that only look.  For one thread."""

    def __init__(self, target: Target) -> None:
        """Ask nobody yet."""
        self._target = target
        self._workdir = Workdir(target.workdir.absolute())
        self._client = target.client()
        self._files: FolderFiles | None = None
        self._work = LongWork()

    def call(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        """Return the reply of the manager, or that of the folder's files after a line that says so.

        Raises:
            Refused: There is no such task; names one like it.
            ManagerUnreachable: No manager answers at the host or port that was named, or one runs in this
                folder and does not answer now.
        """
        if isinstance(request, Show | Logs):
            request = msgspec.structs.replace(request, task=name_of(self._workdir.root, request.task))
        try:
            reply: AnyReply = self._answer(request, expected)
        except (Refused, UnknownTask) as error:
            found = self._trace(request)
            if found is None:
                from distexp.cli.suggest import task_hint  # reads configs, which only this needs

                raise Refused(f"{error}{task_hint(self._target.workdir, str(error))}") from None
            reply = found
        assert isinstance(reply, expected)
        return reply

    @set_aside()
    def _answer(self, request: AnyRequest, expected: type[Reply]) -> AnyReply:
        until_s = time.monotonic() + CHANGING_S
        while self._files is None:
            try:
                return self._client.call(request, expected)
            except Refused:
                raise
            except (ManagerUnreachable, ProtocolError) as error:
                if self._target.host or self._target.port:
                    raise
                with self._work:
                    try:
                        self._files = FolderFiles.of(self._workdir, error, self._work)
                    except (ManagerUnreachable, ProtocolError):
                        if time.monotonic() > until_s or not os.path.isdir(self._workdir.state):
                            raise
                    else:
                        print(NO_MANAGER, file=sys.stderr)
                        return self._files.handle(request)
            time.sleep(AGAIN_S)
        return self._files.handle(request)

    def _trace(self, request: AnyRequest) -> AnyReply | None:
        if not isinstance(request, Show | Logs):
            return None
        trace = find_trace(self._workdir.root, request.task)
        if trace is None:
            return None
        records = self._files.records if self._files else []
        why = "the config files do not ask for it (any more)"
        if self._files and self._files.problem:
            why = f"the config files cannot be read: {self._files.problem}"
        return _reply_of(self._workdir.root, trace, records, request, why)

    @property
    def has_manager(self) -> bool:
        """Whether a manager answers, as far as it was asked."""
        return self._files is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def name_of(root: Path, word: str) -> str:
    """Return the key of the task whose run folder, or a file in it, was named; else the word as it is."""
    path = Path(word)
    for each in (path, root / path):
        for folder in (each, each.parent):
            if os.path.isdir(folder) and folder.parent.name == RUNS_FOLDER:
                return key_in(folder)
    return word


class FolderFiles:
    """What the files of a folder say while no manager runs there."""

    def __init__(
        self, sweep: SweepAtRest | None, records: list[TaskRecord], problem: ConfigError | None
    ) -> None:
        self._sweep, self.records, self.problem = sweep, records, problem

    @classmethod
    def of(cls, workdir: Workdir, unreachable: DistexpError, work: LongWork) -> "FolderFiles":
        """Read the files.

        Raises:
            ManagerUnreachable, ProtocolError: A manager holds the folder, or there is nothing of a sweep.
        """
        work.begin(READING)
        try:
            records = journal_of(workdir)
        except AlreadyRunning:
            raise unreachable from None  # it is starting, or stuck
        except (UserError, JournalUnwritable) as error:
            print(f"warning: failures are not known: {error}", file=sys.stderr)
            records = []
        try:
            tasks = tasks_in(workdir, load_configs([Path(workdir.configs)], workdir.root))
        except ConfigError as error:
            if not os.path.isdir(workdir.state):
                raise unreachable from None
            found = cls(None, records, error)
        else:
            found = cls(SweepAtRest(workdir, tasks, records, work), records, None)
        return found

    def handle(self, request: AnyRequest) -> AnyReply:
        """Return the reply.

        Raises:
            UnknownTask: No config asks for the task.
            ConfigError: The configs cannot be read, and it takes them to answer.
        """
        if self._sweep is not None:
            return self._sweep.handle(request)
        assert self.problem is not None
        if isinstance(request, Show | Logs):
            raise UnknownTask(f"task {request.task!r} has left nothing here, and {self.problem}")
        raise self.problem


def _reply_of(
    root: Path, trace: Trace, records: list[TaskRecord], request: Show | Logs, why: str
) -> AnyReply:
    """Return what is left of a task that no config asks for."""
    record = next(
        (record for record in records if record.key == trace.key), TaskRecord(key=trace.key, state="")
    )
    state = State.COMPLETE.value if trace.row else record.state or State.WITHDRAWN.value
    log = root / trace.run_dir / LOG_FILE
    if isinstance(request, Logs):
        piece = read_piece(log, request.offset) if trace.run_dir else None
        if piece is None:
            absent = f"{request.task}: has left no log here"
            return LogsReply(text="", offset=0, size=0, state=state, absent=absent)
        return LogsReply(text=piece.text, offset=piece.offset, size=piece.size, state=state)
    where = f"; its row is {trace.row.where}" if trace.row else ""
    cells = trace.row.cells if trace.row else {}
    return ShowReply(
        task=TaskStatus(
            task_id=trace.task_id,
            key=trace.key,
            phase=trace.phase,
            config=trace.config,
            seed=trace.seed,
            output_dir=Path(trace.run_dir).parents[1].as_posix() if trace.run_dir else "",
            state=state,
            attempts=record.attempts or int(cells.get("attempt") or 0),
            failures=record.failures,
            losses=record.losses,
            worker=cells.get("worker") or record.last_worker,
            cause=record.cause,
            error=record.error,
        ),
        why=why + where,
        running_s=None,
        row=trace.row.cells if trace.row else None,
        run_dir=trace.run_dir,
        log_path=f"{trace.run_dir}/{LOG_FILE}" if trace.run_dir else "",
        log=last_lines(log, SHOWN_LINES) if trace.run_dir else [],
    )
