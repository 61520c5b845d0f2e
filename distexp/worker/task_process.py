"""Starts, watches and ends the child processes that run tasks, one process per task.

The next child is started one ahead of need, so that what it costs to prepare is spent while another task
runs. On Linux children are forked from a template that has imported the experiment (and, on the CPU, warmed
it up); on Windows and macOS, and for `process: fresh`, each is a new interpreter.
"""

import contextlib
import logging
import multiprocessing
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import msgspec
import psutil

from distexp.run_folder import LOG_FILE
from distexp.system.code import CodeState
from distexp.system.exit_codes import CONTROL_C_EXIT, code_text, describe_exit
from distexp.system.process import (
    ProcessMark,
    adopted,
    children_of,
    end_of,
    end_tree,
    has_group,
    unheard_interrupts,
)
from distexp.task import Cause, Task
from distexp.task_log import last_lines
from distexp.text import one_line
from distexp.worker.fork_template import template_order
from distexp.worker.reports import Reported
from distexp.worker.rungs import Reached, Verdict
from distexp.worker.task_main import Failed, FromChild, Outcome, OutputLost, Run, Setup, Started, Stop, main
from distexp.worker.watcher import Watcher

StartMethod = Literal["forkserver", "spawn"]
DEFAULT_START_METHOD: StartMethod = "forkserver" if sys.platform == "linux" else "spawn"
LOG_LINES = 50  # of a crashed task's log that travel with the failure
EXIT_S = 1.0  # for a child that has reported its outcome: only its memory has to be freed
LAUNCH_S = 1.0  # for a standby to be forked, in whose midst its pid is not known yet
REAP_S = 10.0  # a killed process is gone by then, unless the kernel holds it in a device call

log = logging.getLogger("distexp.worker")
_from_child: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


class Attempt:
    """A child, from its start to its end.  For one thread."""

    def __init__(
        self,
        process: BaseProcess,
        channel: Connection,
        setup: Setup,
        watcher: Watcher,
        *,
        is_own_child: bool,
        orphans: Callable[[], list[int]],
        code: CodeState,
    ) -> None:
        """Watch a child that was started.

        Args:
            is_own_child: And not the template's.
            orphans: Tells what a dead child has left, see `end_tree`.
            code: Of the folder, when what the child runs was imported.
        """
        self._orphans = orphans
        self.setup = setup
        self.code = code
        self.began_s: float | None = None  # by `time.monotonic`
        self.progress: Reported | None = None
        self.reached: list[Reached] = []  # rungs for which the child awaits a verdict
        self._process, self._channel = process, channel
        pid = process.pid or 0
        self._mark = ProcessMark.of(pid) or ProcessMark(pid, 0.0)  # the latter where it has ended already
        self._end = end_of(pid) if is_own_child else None
        self._watcher = watcher
        watcher.watch(self._mark, setup.mark)
        self.given: Run | None = None  # what it was told to run
        self._outcome: Outcome | None = None
        self.has_reported_end = False  # then all that it had started has ended, and it is about to exit
        self._is_over = False

    @property
    def pid(self) -> int:
        """The child's pid."""
        return self._mark.pid

    @property
    def has_begun(self) -> bool:
        """Whether the experiment has begun."""
        return self.began_s is not None

    @property
    def waitables(self) -> Sequence[Connection | int]:
        """What becomes ready when there may be news, for `multiprocessing.connection.wait`."""
        has_sentinel = self._process.is_alive()  # else its template has died, and tells of no child any more
        end = self._process.sentinel if self._end is None else self._end
        return (self._channel, end) if has_sentinel else (self._channel,)

    def run(self, run: Run) -> None:
        """Hand the task over. A child that has died meanwhile shows it in `outcome`."""
        self.given = run
        self._send(run)

    def ask_stop(self) -> None:
        """Ask the experiment to save a checkpoint and stop."""
        self._send(Stop())

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl+C has ended it before the experiment began: it was not ready to ignore that."""
        return not self.has_begun and self._process.exitcode == CONTROL_C_EXIT

    def answer(self, *, stops: bool) -> None:
        """Tell the child the verdict that it waits for."""
        self._send(Verdict(stops))

    def outcome(self) -> Outcome | None:
        """Read what the child has sent and return how the attempt ended, None while it runs."""
        has_died = self._has_died()
        with contextlib.suppress(EOFError, OSError):
            while self._outcome is None and self._channel.poll():
                self._take(_from_child.decode(self._channel.recv_bytes()))
        if self._outcome is None and has_died:
            self._outcome = Failed(Cause.CRASH, self._how_it_died())
        return self._outcome

    def kill(self) -> None:
        """End the child and everything it has started; return when it is gone. Once: its pid gets free."""
        if self._is_over:
            return
        self._is_over, left = True, list[int]()
        if self.has_reported_end:  # it has ended what it started, and is about to exit
            self._process.join(EXIT_S)
        if not self.has_reported_end or not self._has_died() or has_group(self._mark.pid):
            left = end_tree(self._mark, self.setup.mark, self._orphans)
            self._process.join(REAP_S)
        if not left:
            self._watcher.forget(self._mark)
        if self._end is not None:
            os.close(self._end)
        self._channel.close()

    def is_ready_for(self, experiment: str, gpus: tuple[str, ...]) -> bool:
        """Return whether a task of this experiment that sees these GPUs can run in it."""
        return (self.setup.experiment, self.setup.gpus) == (experiment, gpus) and not self._has_died()

    def _has_died(self) -> bool:
        return not self._process.is_alive() and self._mark.is_gone()

    def _take(self, message: FromChild) -> None:
        if isinstance(message, Started):
            self.began_s = time.monotonic()
        elif isinstance(message, Reported):
            self.progress = message
        elif isinstance(message, Reached):
            self.reached.append(message)
        elif isinstance(message, OutputLost):
            folder = self.given.run_folder if self.given else ""
            log.warning("%s: the rest of the task's output is dropped (%s)", folder, message.problem)
        else:
            self._outcome = message
            self.has_reported_end = True

    def _send(self, message: Run | Stop | Verdict) -> None:
        with contextlib.suppress(OSError):  # it died; `outcome` tells how
            self._channel.send_bytes(msgspec.json.encode(message))

    def _how_it_died(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            cause = describe_exit(code)
        else:
            cause = f"ended with exit code {code_text(code)} without a result"
        return self.with_last_output(cause)

    def with_last_output(self, how: str) -> str:
        """Return the last lines that the task has printed, then how it ended, with the last of them."""
        lines = self._printed()
        if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
            how += f"; last output: {one_line(last)}"
        return "\n".join([*lines, how])

    def _printed(self) -> list[str]:
        """Return the last lines that the task has printed in this attempt."""
        if self.given is None:
            return []
        waiting, log = Path(self.given.log), Path(self.given.run_folder, LOG_FILE)
        return last_lines(waiting if os.path.exists(waiting) else log, LOG_LINES, self.given.log_start)


class Standby:
    """A child that starts in a thread of its own: an import may stall, and nobody is to wait for it.

    For one thread.
    """

    def __init__(self, launch: Callable[[], Attempt]) -> None:
        self._launch = launch
        self._lock = threading.Lock()
        self._attempt: Attempt | None = None
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._start, name="standby", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            attempt = self._launch()
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            log.warning("No child could be started ahead of need: %s", error)  # the next start shows why
            return
        with self._lock:
            if not self._is_abandoned:
                self._attempt = attempt
                return
        attempt.kill()

    def take(self) -> Attempt | None:
        """Wait until it has started and return it; None when it could not be."""
        self._thread.join()
        return self._attempt

    def abandon(self) -> None:
        """End it: now, or as soon as it has started."""
        with self._lock:
            self._is_abandoned = True
        if self._attempt is not None:
            self._attempt.kill()


class Children:
    """Starts children, one ahead of need.  For one thread."""

    def __init__(
        self,
        *,
        method: StartMethod,
        device: str,
        threads: int,
        nice: int = 0,
        gpus: Sequence[str] = (),
        watcher: Watcher,
        code: Callable[[], CodeState] = CodeState,
    ) -> None:
        """Pin nothing: children inherit the worker's environment, which shows its `gpus` (UUIDs).

        `code` says what the folder holds now: asked whenever a child, or their template, begins to import.
        `nice` is how far below the worker's own priority tasks run, 0 to 19.
        """
        start_new_groups()
        self.watcher = watcher
        self.code = code
        self._method: StartMethod = method
        self._device, self._threads, self._gpus = device, threads, tuple(gpus)
        self._nice = nice
        self._standby: Standby | None = None
        self._retired: Attempt | None = None
        self._template: str | None = None  # the experiment the template is made for
        self._template_process: ProcessMark | None = None
        self._template_code = CodeState()  # what it has imported
        self._pids: set[int] = set()  # of children that may run
        self._launching = threading.Lock()  # a standby may be on its way while another child starts

    def start(self, run: Run) -> Attempt:
        """Return a child that runs the task, the standby if it fits."""
        if run.task.process == "fresh":
            attempt = self._launch(run.task, "spawn")
        else:
            attempt = self._take_standby(run.task) or self._launch(run.task, self._method)
        self.watcher.await_ready()
        if run.task.command is not None:
            attempt.code = self.code()  # the command's program starts only now
        attempt.run(run)
        self._end_retired()
        return attempt

    def retire(self, attempt: Attempt) -> None:
        """End a child; one that has reported its outcome frees its memory while the next works."""
        self._end_retired()
        if attempt.has_reported_end:
            self._retired = attempt
        else:
            attempt.kill()

    def _end_retired(self) -> None:
        retired, self._retired = self._retired, None
        if retired is not None:
            retired.kill()

    def prepare(self, task: Task) -> None:
        """Begin to start the child for one more such task, while the current one works. Never waits."""
        if self._standby is None and task.process == "forked":
            self._standby = Standby(lambda: self._launch(task, self._method))

    def close(self) -> None:
        """End the standby and the retired one. Does not wait for an import that stalls."""
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.abandon()
        self._end_retired()

    def renew(self) -> None:
        """Let the next child import the experiment's code anew. No task runs."""
        self.close()
        template, self._template_process, self._template = self._template_process, None, None
        if template is not None:
            self.watcher.forget(template)
            end_tree(template)

    def _take_standby(self, task: Task) -> Attempt | None:
        """Return the standby if it can run this task; end it if not."""
        standby, self._standby = self._standby, None
        attempt = standby.take() if standby else None
        if attempt is None or attempt.is_ready_for(task.experiment, self._shown_to(task)):
            return attempt
        attempt.kill()
        return None

    def _shown_to(self, task: Task) -> tuple[str, ...]:
        """Return the GPUs that the task sees: as many as it asks for, whoever runs it."""
        return self._gpus[: task.gpus or 1]

    def _launch(self, task: Task, method: StartMethod) -> Attempt:
        with self._launching:
            if method == "forkserver":
                try:
                    return self._fork(task)
                except (OSError, EOFError):  # the template died, perhaps of this import: let a child show it
                    log.warning(
                        "The template of forked children has ended; starting a new interpreter instead"
                    )
            return self._start("spawn", self._setup(task, is_warm=False), self.code())

    def _setup(self, task: Task, *, is_warm: bool) -> Setup:
        mark = secrets.token_hex(8)
        gpus = self._shown_to(task)
        return Setup(task.experiment, self._device, self._threads, is_warm, gpus, mark, self._nice)

    def _fork(self, task: Task) -> Attempt:
        """Fork a child from the template, made for the first experiment; others are imported by their child.

        Raises:
            OSError, EOFError: The template has died.
        """
        self._template = self._template or task.experiment
        warm_up_device = "cpu" if self._device == "cpu" else None
        is_warm = self._template == task.experiment and warm_up_device is not None
        multiprocessing.set_forkserver_preload(["distexp.worker.fork_template"])
        now = self.code()
        with template_order(self._template, warm_up_device):
            if self._start_template():
                self._template_code = now
            code = self._template_code if self._template == task.experiment else now
            return self._start("forkserver", self._setup(task, is_warm=is_warm), code)

    def _start(self, method: StartMethod, setup: Setup, code: CodeState) -> Attempt:
        process, channel = _start(method, setup)
        attempt = Attempt(
            *(process, channel, setup, self.watcher),
            is_own_child=method == "spawn",
            orphans=self._orphans,
            code=code,
        )
        self._pids = {pid for pid in self._pids if psutil.pid_exists(pid)} | {attempt.pid}
        return attempt

    def _orphans(self) -> list[int]:
        """Return what dead tasks have left: children of template or worker that are no task's process."""
        if not self._launching.acquire(timeout=LAUNCH_S):
            return []  # a template that stalls in its import has no children yet
        try:
            template = self._template_process
            known = self._pids | self.watcher.pids | ({template.pid} if template else set())
            below = children_of(template.pid) if template else []
            return [*(pid for pid in below if pid not in known), *adopted(known)]
        finally:
            self._launching.release()

    def _start_template(self) -> bool:
        """Start the forkserver unless it runs, and let it be watched: its import may take for ever.

        Return whether it was started.
        """
        if sys.platform == "win32":
            return False
        from multiprocessing import forkserver  # a class of systems with fork

        forkserver.ensure_running()
        pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        if not pid or (self._template_process is not None and self._template_process.pid == pid):
            return False
        if self._template_process:
            self.watcher.forget(self._template_process)
        self._template_process = ProcessMark.of(pid)
        if self._template_process:
            self.watcher.watch(self._template_process)
        return True


def start_new_groups() -> None:
    """Let processes that `multiprocessing` starts lead a group of their own on Windows.

    The launcher's Ctrl+Break is for all of the worker's group, and would end a child that has only started.
    """
    if sys.platform != "win32":
        return
    import _winapi
    from multiprocessing import popen_spawn_win32

    def create(*words: Any) -> Any:
        flags = words[5] | subprocess.CREATE_NEW_PROCESS_GROUP
        return _winapi.CreateProcess(*words[:5], flags, *words[6:])

    popen_spawn_win32._winapi = SimpleNamespace(**{**vars(_winapi), "CreateProcess": create})


def _start(method: StartMethod, setup: Setup) -> tuple[BaseProcess, Connection]:
    ours, theirs = multiprocessing.Pipe()
    if method == "spawn":
        process: BaseProcess = multiprocessing.get_context("spawn").Process(target=main, args=(theirs, setup))
    else:  # a class that Windows does not know
        process = multiprocessing.get_context("forkserver").Process(target=main, args=(theirs, setup))
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # else each child runs the user's script again (10 ms)
    try:
        with unheard_interrupts():
            process.start()
    finally:
        sys.modules["__main__"] = script
        theirs.close()
    return process, ours
