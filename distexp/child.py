"""One task in one child process: start, watch, kill, collect. Opens `child_main`, `template_process`.

The next child is started one ahead of need, so that what it costs to prepare is spent while another task
runs. On Linux children are forked from a template that has imported the experiment (and, on the CPU, warmed
it up); elsewhere, and for `process: fresh`, each is a new interpreter.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from distexp.child_main import Began, Broke, FromChild, Outcome, Reported, Run, Setup, Stop, main
from distexp.entry import Cause
from distexp.template_process import EXPERIMENT_VARIABLE, WARM_UP_VARIABLE

StartMethod = Literal["forkserver", "spawn"]
DEFAULT_START_METHOD: StartMethod = "forkserver" if sys.platform == "linux" else "spawn"
LOG_LINES = 50  # of a crashed task's log that travel with the failure
LOG_BYTES = 16_000  # read from the log's end for those lines
REAP_S = 10.0  # a killed process is gone by then, unless the kernel holds it in a device call

_from_child: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


class Attempt:
    """A child, from its start to its end.  For one thread."""

    def __init__(self, process: ForkServerProcess | SpawnProcess, channel: Connection, setup: Setup) -> None:
        self.setup = setup
        self.has_begun = False
        self.progress: Reported | None = None
        self._process, self._channel = process, channel
        self._log = Path()
        self._outcome: Outcome | None = None

    @property
    def waitables(self) -> tuple[Connection, int]:
        """What becomes ready when there may be news, for `multiprocessing.connection.wait`."""
        return self._channel, self._process.sentinel

    def run(self, run: Run) -> None:
        """Hand the task over. A child that has died meanwhile shows it in `outcome`."""
        self._log = Path(run.run_folder, "log.txt")
        self._send(run)

    def ask_stop(self) -> None:
        """Ask the experiment to save a checkpoint and stop."""
        self._send(Stop())

    def outcome(self) -> Outcome | None:
        """Take in what the child has said and return how the attempt ended, None while it runs."""
        has_died = not self._process.is_alive()
        with contextlib.suppress(EOFError, OSError):
            while self._outcome is None and self._channel.poll():
                self._take(_from_child.decode(self._channel.recv_bytes()))
        if self._outcome is None and has_died:
            self._outcome = Broke(Cause.CRASH, self._how_it_died())
        return self._outcome

    def kill(self) -> None:
        """End the child and everything it has started; return when it is gone."""
        kill_tree(self._process.pid)
        self._process.join(REAP_S)
        self._channel.close()

    def is_alive(self) -> bool:
        """Return whether the child can still be handed a task."""
        return self._process.is_alive()

    def _take(self, message: FromChild) -> None:
        if isinstance(message, Began):
            self.has_begun = True
        elif isinstance(message, Reported):
            self.progress = message
        else:
            self._outcome = message

    def _send(self, message: Run | Stop) -> None:
        with contextlib.suppress(OSError):  # it died; `outcome` tells how
            self._channel.send_bytes(msgspec.json.encode(message))

    def _how_it_died(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            cause = f"its process was ended by {name}"
            if name == "SIGKILL":
                cause += " (by the kernel when memory ran out, or by somebody)"
        else:
            cause = f"its process ended with exit code {code} without a result"
        lines = last_lines(self._log)
        return f"{lines}\n{cause}" if lines else cause


class Children:
    """Starts children, one ahead of need.  For one thread."""

    def __init__(self, *, method: StartMethod, device: str, threads: int) -> None:
        """Pin nothing: the worker has set its own environment, which its children inherit."""
        self._method: StartMethod = method
        self._device, self._threads = device, threads
        self._standby: Attempt | None = None
        self._template: str | None = None  # the experiment the template was made for

    def start(self, run: Run) -> Attempt:
        """Return a child that runs the task, the standby if it fits."""
        attempt, self._standby = self._standby, None
        if attempt is not None and not (
            attempt.setup.experiment == run.task.experiment
            and run.task.process == "forked"
            and attempt.is_alive()
        ):
            attempt.kill()
            attempt = None
        if attempt is None:
            attempt = self._launch(
                run.task.experiment, "spawn" if run.task.process == "fresh" else self._method
            )
        attempt.run(run)
        return attempt

    def prepare(self, experiment: str) -> None:
        """Start the next child now, while the current one works."""
        if self._standby is None:
            self._standby = self._launch(experiment, self._method)

    def close(self) -> None:
        """End the standby."""
        if self._standby is not None:
            self._standby.kill()
            self._standby = None

    def _launch(self, experiment: str, method: StartMethod) -> Attempt:
        has_template = method == "forkserver" and self._make_template(experiment)
        setup = Setup(experiment, self._device, self._threads, is_warm=has_template and self._device == "cpu")
        ours, theirs = multiprocessing.Pipe()
        make = ForkServerProcess if method == "forkserver" else SpawnProcess
        process = make(target=main, args=(theirs, setup))
        process.start()
        theirs.close()
        return Attempt(process, ours, setup)

    def _make_template(self, experiment: str) -> bool:
        """Prepare the template for the first experiment; return whether it is prepared for this one."""
        if self._template is None:
            self._template = experiment
            os.environ[EXPERIMENT_VARIABLE] = experiment
            if self._device == "cpu":
                os.environ[WARM_UP_VARIABLE] = "cpu"
            multiprocessing.set_forkserver_preload(["__main__", "distexp.template_process"])
        return self._template == experiment


def kill_tree(pid: int | None) -> None:
    """End a child that `detach`ed itself, and all it has started. No error when it is gone already."""
    if pid is None:
        return
    with contextlib.suppress(psutil.Error):
        for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
            with contextlib.suppress(psutil.Error):
                process.kill()
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # those whose parent has ended before them


def last_lines(log: Path) -> str:
    """Return the last `LOG_LINES` lines of a task's log, as far as it can be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_LINES:])
