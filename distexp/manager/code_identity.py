"""Which finished tasks ran other code than the folder holds now: says so, and lets them run again."""

import logging

from distexp.manager.frozen_code import FrozenCode
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.sweep.grid import Planned
from distexp.system.code import SHOWN_DIGITS, other_code_text
from distexp.task import State
from distexp.text import count_text

log = logging.getLogger("distexp.manager")


class CodeIdentity:
    """The code that tasks run, and that of the rows.  Safe from any thread."""

    def __init__(self, frozen: FrozenCode, queue: TaskQueue, store: ResultsStore) -> None:
        self._frozen, self._queue, self._store = frozen, queue, store
        self._told = ""  # the code that was last spoken of

    def now(self) -> str:
        """Return the code that tasks run from now on; empty where the folder holds none."""
        return self._frozen.code()

    def say_other(self) -> None:
        """Say at the start how many finished tasks ran other code."""
        self._told = self._frozen.code_here()
        if text := other_code_text([code for _, code in self._others()], self.now()):
            log.info("%s: requeue --other-code runs them again", text)

    def say_change(self) -> None:
        """Say that the folder's code is another than when it was last spoken of, and what tasks run."""
        here = self._frozen.code_here()
        if here not in (self._told, self.now() if self._frozen.is_frozen else ""):
            tail = "column `code` of the rows says which ran"
            if self._frozen.is_frozen:
                tail = "tasks go on with their copy; requeue and resume take a new one"
            log.info(
                "The code of this folder has changed (%s, now %s): %s",
                *(self._told[:SHOWN_DIGITS] or "none", here[:SHOWN_DIGITS] or "none", tail),
            )
        self._told = here

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
        if not now or not {*codes.values()} - {now}:  # perhaps git does not answer: nothing is known
            return []
        complete = [entry.planned for entry in self._queue.entries(State.COMPLETE)]
        found = [(task, codes.get(task.key, "")) for task in complete]
        return [(task, code) for task, code in found if code not in ("", now)]
