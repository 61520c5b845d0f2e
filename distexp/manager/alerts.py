"""When the user's own commands run: a task has failed, the sweep has ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distexp.manager.hooks import Hooks, Words, parse_hook
from distexp.queue.task_queue import TaskQueue
from distexp.task import State


@dataclass(frozen=True)
class Commands:
    """The words of each command; none where the user gave none."""

    on_finish: Words
    on_failure: Words

    @classmethod
    def parse(cls, on_finish: str | None, on_failure: str | None) -> "Commands":
        """Return the commands of the command line.

        Raises:
            UserError: One is malformed.
        """
        return cls(parse_hook("--on-finish", on_finish), parse_hook("--on-failure", on_failure))


class Alerts:
    """Compares the queue with how it was at the last look.  For the manager's thread."""

    def __init__(
        self,
        queue: TaskQueue,
        commands: Commands,
        figures: Callable[[], Mapping[str, object]],
        workdir: Path,
    ) -> None:
        """Take the queue as it is: what failed or ended under an earlier manager is no news.

        Args:
            figures: How far the sweep is; every command is told, and the folder as well.
        """
        self._queue, self._commands, self._hooks = queue, commands, Hooks()
        self._status, self._workdir = figures, workdir
        self._failed = {(entry.key, entry.attempts) for entry in queue.entries(State.FAILED)}
        self._failed_ever = queue.failed_ever()
        self._was_over = queue.is_over()

    def look(self, *, has_ended: bool = False) -> None:
        """Run the commands for what has happened since; the manager may end though tasks are left."""
        if self._queue.failed_ever() != self._failed_ever:
            self._failed_ever = self._queue.failed_ever()
            entries = self._queue.entries(State.FAILED)
            for entry in entries:
                if (entry.key, entry.attempts) not in self._failed:
                    about = {
                        "task_id": entry.planned.task_id,
                        "phase": entry.planned.phase,
                        "cause": entry.cause,
                        "error": entry.error,
                        "attempts": entry.attempts,
                        "worker": entry.last_worker,
                    }
                    self._hooks.run(self._commands.on_failure, {**self._figures(), **about})
            self._failed = {(entry.key, entry.attempts) for entry in entries}
        is_over = has_ended or self._queue.is_over()
        if is_over and not self._was_over:
            self._hooks.run(self._commands.on_finish, self._figures())
        self._was_over = is_over

    def _figures(self) -> dict[str, object]:
        return {**self._status(), "workdir": self._workdir}

    def close(self) -> None:
        """Let what waits run."""
        self._hooks.close()
