"""Runs the user's own commands: `--on-failure` when a task has failed, `--on-finish` at the sweep's end.

They run one after the other in a thread of their own, so that the manager never waits for a mail server. What
goes wrong with one is a warning.
"""

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from msgspec import structs

from distexp.errors import UserError
from distexp.queue.task_queue import TaskQueue
from distexp.sweep.templates import split_command
from distexp.system.process import ProcessMark, end_tree
from distexp.task import State
from distexp.text import last_line, one_line
from distexp.wire.messages import SweepStatus

HOOK_S = 60.0  # a mail or a webhook; longer, and it is killed
MAX_WAITING = 100  # a phase of thousands that fails at once is not thousands of mails
MAX_VALUE_CHARS = 8_000  # of a variable: the environment of a process is small
LOOK_S = 0.1  # between two looks whether a signal came

IS_WINDOWS = sys.platform == "win32"
Words = list[str] | str  # one text on Windows: there each program splits its own command line

log = logging.getLogger("distexp.manager")


@dataclass(frozen=True)
class Commands:
    """The words of each command; none where the user gave none."""

    on_finish: Words
    on_failure: Words

    @classmethod
    def parse(cls, on_finish: str | None, on_failure: str | None) -> "Commands":
        """Return the commands of the command line. No shell will see them.

        Raises:
            UserError: An open quote, or nothing at all.
        """
        return cls(_split("--on-finish", on_finish), _split("--on-failure", on_failure))


def _split(flag: str, command: str | None) -> Words:
    if command is None:
        return []
    try:
        words = command.split() if IS_WINDOWS else split_command(command, windows=False)
    except ValueError as error:
        raise UserError(f"{flag} {command!r}: {error}; write a command and its arguments") from None
    if not words:
        raise UserError(f"{flag} {command!r}: it is empty; write a command and its arguments")
    return command if IS_WINDOWS else words


class Hooks:
    """Runs the commands for what has happened to the queue since the last look.  For the manager's thread."""

    def __init__(
        self, queue: TaskQueue, commands: Commands, status: Callable[[], SweepStatus], workdir: Path
    ) -> None:
        """Take the queue as it is: for what failed or ended under an earlier manager, nothing runs.

        Every command gets the `status` and the folder in its environment.
        """
        self._queue, self._commands, self._runner = queue, commands, CommandRunner()
        self._status, self._workdir = status, workdir
        self._failed = {(entry.key, entry.attempts) for entry in queue.entries(State.FAILED)}
        self._failed_ever = queue.failed_ever()
        self._was_over = queue.is_over()

    def look(self, *, has_ended: bool = False) -> None:
        """Run what is due; `has_ended`: the manager ends, though tasks may be left."""
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
                    self._runner.run(self._commands.on_failure, {**self._variables(), **about})
            self._failed = {(entry.key, entry.attempts) for entry in entries}
        is_over = has_ended or self._queue.is_over()
        if is_over and not self._was_over:
            self._runner.run(self._commands.on_finish, self._variables())
        self._was_over = is_over

    def _variables(self) -> dict[str, object]:
        return {**structs.asdict(self._status()), "workdir": self._workdir}

    def close(self, is_cut_short: Callable[[], bool] = bool) -> None:
        """Let what waits run, until `is_cut_short` says that the user wants no more of it."""
        self._runner.close(is_cut_short)


class CommandRunner:
    """Runs commands in their order, each for a limited time.  Safe from any thread."""

    def __init__(self, hook_s: float = HOOK_S) -> None:
        self._hook_s = hook_s
        self._waiting: queue.Queue[tuple[Words, Mapping[str, str]] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._is_cut_short = threading.Event()

    def run(self, words: Words, variables: Mapping[str, object]) -> None:
        """Let the command run soon, each variable as `DISTEXP_<NAME>` in its environment; return at once."""
        if not words:
            return
        environment = {f"DISTEXP_{name.upper()}": _text(value) for name, value in variables.items()}
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((words, environment))
        except queue.Full:
            log.warning("%s: left out, %d of these commands wait already", _name(words), MAX_WAITING)

    def close(self, is_cut_short: Callable[[], bool] = bool) -> None:
        """Return once what waits has run, has had `hook_s` for it, or `is_cut_short` turned true."""
        until_s = time.monotonic() + self._hook_s
        while self._thread is not None and self._thread.is_alive():
            if is_cut_short() or time.monotonic() >= until_s:
                self._is_cut_short.set()
            with suppress(queue.Full):  # there will be room once the next one has begun
                self._waiting.put_nowait(None)
            self._thread.join(LOOK_S)

    def _work(self) -> None:
        while (order := self._waiting.get()) is not None:
            if not self._is_cut_short.is_set():
                self._run_one(*order)

    def _run_one(self, words: Words, environment: Mapping[str, str]) -> None:
        try:
            with TemporaryFile() as errors:
                process = subprocess.Popen(
                    words,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # Ctrl+C is for the manager; on Windows this does:
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
                code = self._wait(process)
                errors.seek(0)
                said = last_line(errors.read().decode(errors="replace"), "no output")
        except (OSError, ValueError) as error:
            log.warning("%s: cannot be started (%s)", _name(words), getattr(error, "strerror", "") or error)
            return
        if code is None:
            why = "was stopped" if self._is_cut_short.is_set() else f"took over {self._hook_s:g} s"
            log.warning("%s: %s and was killed", _name(words), why)
        elif code:
            log.warning("%s: ended with exit code %d: %s", _name(words), code, one_line(said))

    def _wait(self, process: "subprocess.Popen[bytes]") -> int | None:
        """Return the exit code; None for a command that was killed."""
        until_s = time.monotonic() + self._hook_s
        while time.monotonic() < until_s and not self._is_cut_short.is_set():
            try:
                return process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
        if root := ProcessMark.of(process.pid):
            end_tree(root)
        process.wait()
        return None


def _name(words: Words) -> str:
    return words.split()[0] if isinstance(words, str) else words[0]


def _text(value: object) -> str:
    return str(value).replace("\0", "")[:MAX_VALUE_CHARS].encode(errors="replace").decode()
