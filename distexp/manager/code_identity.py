"""Which finished tasks ran other code than the folder holds now: says so, and lets them run again."""

import logging
from pathlib import Path

from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.sweep.grid import Planned
from distexp.system.code import SHOWN_DIGITS, FolderCode, other_code_text
from distexp.task import State
from distexp.text import count_text

log = logging.getLogger("distexp.manager")


class CodeIdentity:
    """The code of the folder, and of the rows.  Safe from any thread."""

    def __init__(self, root: Path, queue: TaskQueue, store: ResultsStore) -> None:
        self._folder, self._queue, self._store = FolderCode(root), queue, store
        self._told = ""  # the code that was last spoken of

    def now(self) -> str:
        """Return the code that the folder holds now; empty where it holds none."""
        return self._folder.now().code

    def say_other(self) -> None:
        """Say at the start how many finished tasks ran other code."""
        self._told = self.now()
        if text := other_code_text([code for _, code in self._others()], self._told):
            log.info("%s: requeue --other-code runs them again", text)

    def say_change(self) -> None:
        """Say that the code is another than when it was last spoken of."""
        now = self.now()
        if now != self._told:
            log.info(
                "The code of this folder has changed (%s, now %s): column `code` of the rows says which ran",
                *(self._told[:SHOWN_DIGITS] or "none", now[:SHOWN_DIGITS] or "none"),
            )
        self._told = now

    def requeue_others(self) -> tuple[int, str]:
        """Let finished tasks that ran other code run again; return how many, and what to say besides.

        Their rows stay until new ones replace them. Rows in files that no task writes to stay for good.
        """
        count, elsewhere = 0, 0
        for task, code in self._others():
            if not self._store.is_in_own_file(task):
                elsewhere += 1
                continue
            self._store.supersede(task, code)
            count += self._queue.reset_complete(task.key, superseded=code)
        message = ""
        if elsewhere:
            message = f"{count_text(elsewhere, 'task')} with a row in another file stay complete"
        return count, message

    def requeue_at_start(self) -> None:
        """Let finished tasks that ran other code run again, as the user asked on the command line."""
        count, message = self.requeue_others()
        log.info("Requeued %s%s", count_text(count, "task"), f"; {message}" if message else "")

    def _others(self) -> list[tuple[Planned, str]]:
        """Return the complete tasks whose row was made with other code, and that."""
        now, codes = self.now(), self._store.codes()
        if not {*codes.values()} - {now}:
            return []
        complete = [entry.planned for entry in self._queue.entries(State.COMPLETE)]
        found = [(task, codes.get(task.key, "")) for task in complete]
        return [(task, code) for task, code in found if code not in ("", now)]
