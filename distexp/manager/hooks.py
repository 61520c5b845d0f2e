"""The user's own commands, run when a task has failed or the sweep has ended.

They run one after the other in a thread of their own, so that the manager never waits for a mail server. What
goes wrong with one is a warning.
"""

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from tempfile import TemporaryFile

from distexp.errors import UserError
from distexp.sweep.templates import split_command
from distexp.system.process import ProcessMark, end_tree
from distexp.text import one_line

HOOK_S = 60.0  # a mail or a webhook; longer, and it is killed
MAX_WAITING = 100  # a phase of thousands that fails at once is not thousands of mails
MAX_VALUE_CHARS = 8_000  # of a variable: the environment of a process is small

IS_WINDOWS = sys.platform == "win32"
Words = list[str] | str  # one text on Windows: there each program splits its own command line

log = logging.getLogger("distexp.manager")


def parse_hook(flag: str, command: str | None) -> Words:
    """Return the words of a command; none without one. No shell will see them.

    Raises:
        UserError: An open quote, or nothing at all.
    """
    if command is None:
        return []
    try:
        words = command.split() if IS_WINDOWS else split_command(command, windows=False)
    except ValueError as error:
        raise UserError(f"{flag} {command!r}: found {error}, expected a command and its arguments") from None
    if not words:
        raise UserError(f"{flag} {command!r}: found no words, expected a command and its arguments")
    return command if IS_WINDOWS else words


class Hooks:
    """Runs commands in their order.  Safe from any thread."""

    def __init__(self, hook_s: float = HOOK_S) -> None:
        self._hook_s = hook_s
        self._waiting: queue.Queue[tuple[Words, Mapping[str, str]] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def run(self, words: Words, figures: Mapping[str, object]) -> None:
        """Let the command run soon, each figure as `DISTEXP_<NAME>` in its environment; return at once."""
        if not words:
            return
        variables = {f"DISTEXP_{name.upper()}": _text(value) for name, value in figures.items()}
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((words, variables))
        except queue.Full:
            log.warning("%s: left out, %d of these commands wait already", _name(words), MAX_WAITING)

    def close(self) -> None:
        """Return once what waits has run, or has had `HOOK_S` for it."""
        if self._thread is not None:
            try:
                self._waiting.put(None, timeout=self._hook_s)
            except queue.Full:
                return  # it hangs, and ends with this process
            self._thread.join(self._hook_s)

    def _work(self) -> None:
        while (order := self._waiting.get()) is not None:
            self._run_one(*order)

    def _run_one(self, words: Words, variables: Mapping[str, str]) -> None:
        try:
            with TemporaryFile() as errors:
                process = subprocess.Popen(
                    words,
                    env={**os.environ, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # Ctrl+C is for the manager; on Windows this does:
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
                code = self._wait(process)
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing was said"]
        except (OSError, ValueError) as error:
            log.warning("%s: cannot be started (%s)", _name(words), getattr(error, "strerror", "") or error)
            return
        if code is None:
            log.warning("%s: still ran after %g s and was killed", _name(words), self._hook_s)
        elif code:
            log.warning("%s: found exit code %d, expected 0: %s", _name(words), code, one_line(said[-1]))

    def _wait(self, process: "subprocess.Popen[bytes]") -> int | None:
        """Return the exit code; None for a command that took too long and was killed."""
        try:
            return process.wait(self._hook_s)
        except subprocess.TimeoutExpired:
            if root := ProcessMark.of(process.pid):
                end_tree(root)
            process.wait()
            return None


def _name(words: Words) -> str:
    return words.split()[0] if isinstance(words, str) else words[0]


def _text(value: object) -> str:
    return str(value).replace("\0", "")[:MAX_VALUE_CHARS].encode(errors="replace").decode()
