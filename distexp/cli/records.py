"""What the manager knows of tasks that failed: from its journal, or asked while it runs."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from typing import TypeVar

from msgspec import structs

from distexp.errors import AlreadyRunning, DistexpError, ManagerUnreachable, ProtocolError
from distexp.manager.network_folder import bring_copy, place_of, stamp_here
from distexp.queue.journal import Journal
from distexp.queue.records import SuggestionRecord, TaskRecord
from distexp.search.history import KnownTasks, known_tasks
from distexp.sweep.config import Phase
from distexp.sweep.expand import expand
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Status, StatusReply, Tasks, TasksReply, TaskStatus
from distexp.workdir import Workdir

_Record = TypeVar("_Record", TaskRecord, SuggestionRecord)
MAX_FAILURES = 2_000  # that a running manager is asked for: a report of more is not read


def known_failures(workdir: Workdir) -> list[TaskRecord]:
    """Return `failures_of`; where they cannot be had, say so: the report is made all the same."""
    try:
        return failures_of(workdir)
    except DistexpError as error:
        print(f"warning: the report lists no failures: {error}", file=sys.stderr)
        return []


def failures_of(workdir: Workdir) -> list[TaskRecord]:
    """Return what the journal holds of every task, or the running manager of those that have failed.

    Those that are to be tried again are among them, and those that were cancelled. The journal is its
    manager's alone, so while one runs, it is asked.
    """
    try:
        return journal_of(workdir)
    except AlreadyRunning:
        with Client(workdir, token=given_token()) as client:
            ended = [_asked(client, Tasks(state=state)) for state in ("failed", "cancelled")]
            waiting = _asked(client, Tasks(state="pending", sort="-error"))  # those without an error last
            to_retry = takewhile(lambda task: task.error, waiting)
            return [_record(task) for each in (*ended, to_retry) for task in islice(each, MAX_FAILURES)]


def journal_of(workdir: Workdir) -> list[TaskRecord]:
    """Return what the journal holds of every task.

    Raises:
        AlreadyRunning: A manager runs in this folder, and the journal is its own.
        UserError: The folder's lock cannot be taken.
        JournalUnwritable: The journal is damaged.
    """
    return _read(workdir, TaskRecord)


def _read(workdir: Workdir, kind: type[_Record]) -> list[_Record]:
    place = place_of(workdir)
    is_here = workdir.local == workdir.state or (place is not None and place.stamp == stamp_here(workdir))
    if not os.path.exists(workdir.journal if is_here else workdir.journal_copy):
        return []
    lock = workdir.hold()
    try:
        path = workdir.journal
        if not is_here:  # on another host, whose manager may run
            if place is not None and not place.is_back:
                _refuse_if_answered(workdir, place.host)
            path = path.with_name("journal_read.sqlite3")
            bring_copy(workdir, path)
        journal = Journal(path)
        try:
            return journal.load(kind)
        finally:
            journal.close()
    finally:
        lock.release()


def _refuse_if_answered(workdir: Workdir, host: str) -> None:
    """Raise AlreadyRunning if the folder's manager, on that host, answers."""
    with suppress(ManagerUnreachable, ProtocolError), Client(workdir, token=given_token()) as client:
        client.call(Status(), StatusReply)
        raise workdir.already_running(host)


def tasks_in(workdir: Workdir, phases: Sequence[Phase]) -> KnownTasks:
    """Return the tasks of the phases; what searches have chosen last is not known while a manager runs."""
    if all(phase.space is None for phase in phases):
        return KnownTasks(expand(phases), {})
    try:
        suggestions = _read(workdir, SuggestionRecord)
    except DistexpError:
        suggestions = []
    return known_tasks(phases, workdir.root, suggestions)


def superseded_in(workdir: Workdir) -> dict[str, str]:
    """Return the codes of rows that no longer complete their tasks, by key; a running manager is asked.

    Nothing where that cannot be known: then the rows count.
    """
    try:
        return {each.key: each.superseded for each in journal_of(workdir) if each.superseded}
    except AlreadyRunning:
        with suppress(DistexpError), Client(workdir, token=given_token()) as client:
            asked = _asked(client, Tasks(superseded=True))
            return {each.key: each.superseded for each in asked if each.superseded}
    except DistexpError:
        pass
    return {}


def _asked(client: Client, request: Tasks) -> Iterator[TaskStatus]:
    """Yield all tasks that match, page by page."""
    offset, total = 0, 1
    while offset < total:
        reply = client.call(structs.replace(request, offset=offset), TasksReply)
        yield from reply.tasks
        offset, total = offset + len(reply.tasks), reply.total if reply.tasks else 0


def _record(task: TaskStatus) -> TaskRecord:
    return TaskRecord(
        key=task.key, state=task.state, attempts=task.attempts, cause=task.cause, error=task.error
    )
