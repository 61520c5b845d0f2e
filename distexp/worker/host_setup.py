"""Runs the `setup:` line of a sweep file once on each host, before the first task of that file there.

Whoever comes first runs it and holds a lock meanwhile; other workers of the host wait for the end. A file
beside its log says that it has been done, for this line, this folder or copy of the code, and this host.
"""

import contextlib
import glob
import hashlib
import json
import logging
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from distexp.experiments.command import with_python, with_python_found
from distexp.sweep.templates import split_command
from distexp.system import locks
from distexp.system.exit_codes import describe_exit
from distexp.system.files import PRIVATE, SMALL_BYTES, private, read_bytes, replace_durably
from distexp.system.network_drives import lock_of
from distexp.system.process import MARK_VARIABLE, ProcessMark, end_tree, host_name
from distexp.system.shorten import shorten
from distexp.task import Task
from distexp.task_log import last_lines
from distexp.text import cut, harmless_name, one_line
from distexp.workdir import Workdir
from distexp.worker.watcher import Watcher

LIMIT_S = 6 * 3600.0  # a large data set over a slow line; then it hangs
LOOK_S = 0.2  # between two looks whether it has ended, and whether the worker is to leave
LOG_LINES = 50  # of its log, in which its last output is looked for
MAX_LOG_BYTES = 100_000_000  # as of a task's log: then its middle is cut out
KEPT = {".log": 5, ".json": 100, ".json.lock": 100}  # files of a host, the newest
MAX_SHOWN_CHARS = 300  # of the line, and of its last output
NAME_DIGITS = 12  # of a hash, in the names of its files

log = logging.getLogger("distexp.worker")


class HostSetup:
    """What one process knows of the setups of its host.  For one thread at a time."""

    def __init__(
        self,
        workdir: Workdir,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let `watcher` end a setup whose worker is killed; without one it runs on this terminal."""
        self._workdir, self._watcher, self._clock = workdir, watcher, clock
        self._done: set[tuple[str, str]] = set()  # lines, and the copies of the code for which they are done
        self._failed: dict[tuple[str, str], tuple[int, str]] = {}  # the code's version then, and the problem

    def is_done(self, task: Task, copy: str) -> bool:
        """Return whether it is known that nothing has to run before this task. Reads no disk."""
        return not task.setup or (task.setup, copy) in self._done

    def run(
        self, task: Task, copy: str = "", *, version: int = 0, is_ended: Callable[[], bool] = lambda: False
    ) -> str:
        """Return once the setup of a task's file is done here: an empty text, or why it has failed.

        The process is in the folder of the task's code.

        Args:
            copy: Of the code, that the task runs from.
            version: Of the code; a setup that has failed runs again for another one.
            is_ended: Ends it when true; then what is returned means nothing.
        """
        if self.is_done(task, copy):
            return ""
        known = self._failed.get((task.setup or "", copy))
        if known is not None and known[0] == version:
            return known[1]  # for another phase of that file
        try:
            problem = self._run_once(task, is_ended)
        except (OSError, ValueError) as error:
            problem = f"setup `{_shown(task.setup or '')}` could not be run on {host_name()}: {error}"
        if problem:
            self._failed[task.setup or "", copy] = version, problem
        else:
            self._done.add((task.setup or "", copy))
        return problem

    def _run_once(self, task: Task, is_ended: Callable[[], bool]) -> str:
        path = self._mark(task.setup or "")
        before = _read(path)
        if before.get("problem") == "":
            return ""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock_of(path), is_ended):
            now = _read(path)
            if now != before or is_ended():
                return str(now.get("problem", ""))  # as another worker of this host has seen meanwhile
            problem = self._execute(task, path.with_suffix(".log"), is_ended)
            if not is_ended():
                about = {"line": task.setup, "problem": problem, "ended_ns": time.time_ns()}
                replace_durably(path, json.dumps(about).encode(), PRIVATE)
                _forget_old(path.parent)
            return problem

    def _mark(self, line: str) -> Path:
        """Return the file that says whether it is done in the current folder; a copy of that is another."""
        here = Path.cwd()
        about = json.dumps([line, str(here), here.stat().st_ino])
        digest = hashlib.sha256(about.encode()).hexdigest()[:NAME_DIGITS]
        return self._workdir.setups / f"{harmless_name(host_name())}-{digest}.json"

    def _execute(self, task: Task, log_path: Path, is_ended: Callable[[], bool]) -> str:
        """Return why it failed; empty when it did not."""
        line = task.setup or ""
        words = with_python(split_command(line, os.name == "nt"), task.python)
        log.info("Running the setup of this host, `%s`; its output: %s", _shown(line), log_path)
        began_s = self._clock()
        with contextlib.ExitStack() as closing:
            output = closing.enter_context(_new_log(log_path)) if self._watcher else None
            try:
                environment = with_python_found(os.environ, task.python)
                how = self._await_end(words, environment, output, is_ended)
            except OSError as error:
                how = f"{words[0]} cannot be started ({error.strerror})"
            _shorten(output, has_ended=True)
        if not how:
            log.info("The setup of this host took %.0f s", self._clock() - began_s)
            return ""
        told = f"; its output: {log_path}" if output else ""
        if output and (last := next(filter(str.strip, reversed(last_lines(log_path, LOG_LINES))), "")):
            told = f"; last output: {cut(one_line(last.strip()), MAX_SHOWN_CHARS)}{told}"
        return f"setup `{_shown(line)}` failed on {host_name()}: {how}{told}"

    def _await_end(
        self,
        words: list[str],
        environment: Mapping[str, str],
        output: BinaryIO | None,
        is_ended: Callable[[], bool],
    ) -> str:
        """Return how the program ended; empty when it ended well."""
        mark = secrets.token_hex(8)
        if self._watcher:
            self._watcher.await_ready()
        program = subprocess.Popen(
            words,
            env={**environment, **self._environment(), MARK_VARIABLE: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # out of reach of the terminal's Ctrl+C; on Windows this is:
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        process = ProcessMark.of(program.pid) or ProcessMark(program.pid, 0.0)
        if self._watcher:
            self._watcher.watch(process, mark)
        until_s = self._clock() + LIMIT_S
        try:
            while program.poll() is None:
                if is_ended() or self._clock() > until_s:
                    return f"it was ended after {LIMIT_S / 3600:g} h"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(LOOK_S)
                _shorten(output)
        finally:
            end_tree(process, mark)  # with what it has left running
            program.wait()
            if self._watcher:
                self._watcher.forget(process)
        return describe_exit(program.returncode) if program.returncode else ""

    def _environment(self) -> dict[str, str]:
        return {
            "PYTHONUNBUFFERED": "1",  # what it prints is in the log at once
            "PYTHONUTF8": "1",
            "DISTEXP_WORKDIR": str(self._workdir.root),
        }


def _new_log(path: Path) -> BinaryIO:
    log = open(path, "ab", opener=private)  # noqa: SIM115 - to append: it is shortened meanwhile
    log.truncate(0)
    return log


def _shorten(output: BinaryIO | None, *, has_ended: bool = False) -> None:
    with contextlib.suppress(OSError):  # a full disk: the next look tries again
        if output:
            shorten(Path(output.name), MAX_LOG_BYTES, has_ended=has_ended)


def _forget_old(folder: Path) -> None:
    """Delete what this host has done long ago: for copies of the code, and lines, of before."""
    for suffix, kept in KEPT.items():
        found = [*folder.glob(f"{glob.escape(harmless_name(host_name()))}-{'?' * NAME_DIGITS}{suffix}")]
        with contextlib.suppress(OSError):  # another worker forgets, too
            for old in sorted(found, key=lambda each: -each.stat().st_mtime)[kept:]:
                old.unlink()


@contextlib.contextmanager
def _alone(path: Path, is_ended: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock, unless it is `is_ended` before it is free."""
    is_told, pause = False, threading.Event()
    while not is_ended():
        try:
            lock = locks.acquire(path)
        except TimeoutError:
            if not is_told:
                log.info("Waiting for the setup of this host, which another worker runs")
            is_told = True
            pause.wait(LOOK_S)
            continue
        with lock:
            yield
        return
    yield


def _read(path: Path) -> Mapping[str, object]:
    try:
        found = json.loads(read_bytes(path, SMALL_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(line: str) -> str:
    return cut(one_line(line), MAX_SHOWN_CHARS)
