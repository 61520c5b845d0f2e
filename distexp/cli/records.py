"""What the manager knows of tasks that failed: from its journal, or asked while it runs."""

import sys

from distexp.errors import AlreadyRunning, DistexpError
from distexp.queue.journal import Journal
from distexp.task import TaskRecord
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Tasks, TasksReply
from distexp.workdir import Workdir

MAX_PAGES = 20  # of failures that a running manager is asked for: a report of thousands is not read


def known_failures(workdir: Workdir) -> list[TaskRecord]:
    """Return `failures_of`; where they cannot be had, say so: the report is made all the same."""
    try:
        return failures_of(workdir)
    except DistexpError as error:
        print(f"warning: the report lists no failures: {error}", file=sys.stderr)
        return []


def failures_of(workdir: Workdir) -> list[TaskRecord]:
    """Return what the journal holds of every task, or the running manager of those that have failed.

    The journal is its manager's alone, so while one runs, it is asked.
    """
    try:
        return journal_of(workdir)
    except AlreadyRunning:
        return [record for state in ("failed", "cancelled") for record in _asked(workdir, state)]


def journal_of(workdir: Workdir) -> list[TaskRecord]:
    """Return what the journal holds of every task.

    Raises:
        AlreadyRunning: A manager runs in this folder, and the journal is its own.
        UserError: The folder's lock cannot be taken.
        JournalUnwritable: The journal is damaged.
    """
    if not workdir.journal.exists():
        return []
    lock = workdir.hold()
    try:
        journal = Journal(workdir.journal)
        try:
            return journal.load()
        finally:
            journal.close()
    finally:
        lock.release()


def superseded_in(workdir: Workdir) -> dict[str, str]:
    """Return the codes of rows that no longer complete their tasks, by key; nothing while a manager runs."""
    try:
        return {each.key: each.superseded for each in journal_of(workdir) if each.superseded}
    except DistexpError:
        return {}


def _asked(workdir: Workdir, state: str) -> list[TaskRecord]:
    found: list[TaskRecord] = []
    with Client(workdir, token=given_token()) as client:
        for _ in range(MAX_PAGES):
            reply = client.call(Tasks(state=state, offset=len(found)), TasksReply)
            found += [
                TaskRecord(
                    key=task.key,
                    state=state,
                    attempts=task.attempts,
                    cause=task.cause,
                    error=task.error,
                )
                for task in reply.tasks
            ]
            if not reply.tasks or len(found) >= reply.total:
                break
    return found
