"""Runs any program as an experiment: `command: "python train.py --width {width_factor} --seed {seed}"`.

No shell runs.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, TextIO

from distexp.context import Context
from distexp.experiments.command_reports import REPORT_FILE, Reports, json_objects
from distexp.experiments.last_line import LastLine
from distexp.experiments.wandb_summary import summary_since
from distexp.run_folder import HEADER, write_parameters
from distexp.sweep.command_line import fill_command
from distexp.sweep.templates import split_command
from distexp.system.exit_codes import describe_exit, is_crash
from distexp.system.files import read_bytes
from distexp.system.process import ProcessMark, descendants, end_tree
from distexp.task import Cause
from distexp.text import one_line

POLL_S = 0.2  # how soon a request to stop is seen
STOP_GRACE_S = 20.0  # for the program to save its checkpoint after SIGTERM
PIPE_GRACE_S = 5.0  # for processes that the program leaves behind with its output open
CHUNK_BYTES = 65_536  # of a pipe, read at once
READERS = {".py": "python", ".sh": "bash"}  # what runs a file of this kind that cannot be started by itself
MAX_LINE_BYTES = 16 * 1024 * 1024  # of which a line is looked at, for the result may be in it


class CommandFailed(RuntimeError):
    """The program cannot be started, or failed. One line: how, and its last output."""

    def __init__(
        self, name: str, returncode: int | None, outputs: "Sequence[_Output]" = (), why: str = ""
    ) -> None:
        """Tell from the exit code whether the program ended by itself."""
        is_own_end = returncode is None or not is_crash(returncode)
        self.failure_cause = Cause.ERROR if is_own_end else Cause.CRASH
        how = why if returncode is None else describe_exit(returncode)
        super().__init__(f"{name}: {how}{_quoted(outputs)}")


def run(params: Mapping[str, Any], context: Context, stdin: int | None = subprocess.DEVNULL) -> Any:
    """Run the program to its end and return its result; None if it gives none.

    With `stdin` None it reads from the terminal.

    The result is what the file `$DISTEXP_RESULT` holds, as JSON or else as text, or without one the last line
    of standard output that is a JSON object, or else the last one in `$DISTEXP_REPORT`. Both outputs are
    passed on to the task's log as they come.

    Raises:
        ValueError: The template is malformed or names an unknown parameter.
        CommandFailed: See there.
        TaskStopped: `context.should_stop()` said so, and the program has ended.
    """
    words = arguments(params, context)
    name = Path(words[0]).name
    write_parameters(context.run_dir, params, context.seed)
    print(f"{HEADER}runs {shlex.join(map(one_line, words))}", flush=True)
    with TemporaryDirectory(prefix="distexp_") as folder:
        result_path, began_s = Path(folder) / "result.json", time.time()
        environment = with_python_found(os.environ, context.python) | _environment(result_path, context)
        program = _start(words, environment, stdin)
        reports = Reports(Path(folder) / REPORT_FILE, context.report)
        outputs = (
            _Output(program.stdout, sys.stdout, reports.take),
            _Output(program.stderr, sys.stderr, lambda found: None),
        )
        try:
            _wait(program, context, reports)
        finally:
            for output in outputs:
                output.finish()
            reports.read_rest()
        if program.returncode != 0:
            raise CommandFailed(name, program.returncode, outputs)
        given = (_result_in(result_path), outputs[0].last_object, reports.last_object)
    result = next((each for each in given if each is not None), None)
    return summary_since(context.run_dir, began_s) if result is None else result


def arguments(params: Mapping[str, Any], context: Context, windows: bool = os.name == "nt") -> list[str]:
    """Return the words of the task's command line; `python` is this interpreter, or as the sweep says.

    Raises:
        ValueError: As `fill_command` does.
    """
    own: dict[str, object] = {
        "seed": context.seed,
        "output_dir": str(context.output_dir),
        "checkpoint_dir": str(context.checkpoint_dir),
        "device": context.device,
        "gpus": context.gpus,
        "attempt": context.attempt,
    }
    if "run_dir" not in params:  # a parameter may be called so
        own["run_dir"] = str(context.run_dir)
    words = fill_command(context.command or "", params, own, windows=windows, with_seed=context.has_seeds)
    return with_python(words, context.python, windows)


def with_python(words: Sequence[str], python: str | None, windows: bool = os.name == "nt") -> list[str]:
    """Return a command line in which `python` is this interpreter, or another that the sweep names."""
    program, *others = words
    if program != "python":
        return [program, *others]
    return [*(split_command(python, windows) if python else [sys.executable]), *others]


def with_python_found(environment: Mapping[str, str], python: str | None) -> dict[str, str]:
    """Return the environment in which a `python` that the program starts is that of `with_python`.

    Its folder is found first, as in an environment that was activated. One that is on the path stays where it
    is: another may have been put before it on purpose. An environment that is active is left as it is, unless
    the sweep names a Python.
    """
    program = with_python(["python"], python)[0]
    folder, paths = os.path.dirname(os.path.abspath(program)), environment.get("PATH", os.defpath)
    known = {os.path.normcase(os.path.normpath(path)) for path in paths.split(os.pathsep) if path}
    is_interpreter = os.path.dirname(program) and os.path.basename(program).lower().startswith("python")
    is_active = python is None and any(map(environment.get, ("VIRTUAL_ENV", "CONDA_PREFIX")))
    if is_active or not is_interpreter or os.path.normcase(folder) in known:
        return dict(environment)
    return {**environment, "PATH": f"{folder}{os.pathsep}{paths}"}


def _environment(result_path: Path, context: Context) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",  # what it prints is in the log at once
        "PYTHONUTF8": "1",
        "DISTEXP_RESULT": str(result_path),
        "DISTEXP_REPORT": str(result_path.with_name(REPORT_FILE)),
        "DISTEXP_SEED": str(context.seed),
        "DISTEXP_OUTPUT_DIR": str(context.output_dir.absolute()),
        "DISTEXP_RUN_DIR": str(context.run_dir.absolute()),
        "DISTEXP_CHECKPOINT_DIR": str(context.checkpoint_dir.absolute()),
        "DISTEXP_ATTEMPT": str(context.attempt),
        "DISTEXP_DEVICE": context.device,
        "DISTEXP_GPUS": str(context.gpus),
    }


def _start(words: list[str], environment: dict[str, str], stdin: int | None) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            words,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except OSError as cause:
        reader = READERS.get(Path(words[0]).suffix, "")
        hint = f"; write {reader} {words[0]}" if reader else ""
        raise CommandFailed(words[0], None, why=f"cannot be started ({cause.strerror}){hint}") from None


def _wait(program: "subprocess.Popen[bytes]", context: Context, reports: Reports) -> None:
    """Wait for the program to end; when the task is to stop, end it and raise `TaskStopped`."""
    try:
        while program.poll() is None:
            reports.read_file()
            if context.should_stop():
                ended = _stop(program)
                how = "has ended" if ended else f"did not end within {STOP_GRACE_S:g} s and was killed"
                raise context.Stopped(f"the command was told to stop and {how}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(POLL_S)
    finally:
        program.kill()  # does nothing to a program that has ended
        program.wait()


def _stop(program: "subprocess.Popen[bytes]") -> bool:
    """Ask the program and what it has started to end, and return whether all did; the rest is killed.

    A shell script passes no signal on to the program that it waits for, so each is asked by itself.
    """
    asked = [mark for pid in (program.pid, *descendants(program.pid)) if (mark := ProcessMark.of(pid))]
    for each in asked:
        with contextlib.suppress(OSError):  # it has ended
            os.kill(each.pid, signal.SIGTERM)
    until_s = time.monotonic() + STOP_GRACE_S
    while alive := [each for each in asked if not each.is_gone()]:
        if time.monotonic() > until_s:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(POLL_S / 10)
    for each in alive:
        end_tree(each)
    return not alive


class _Output(threading.Thread):
    """Copies one output of the program as it comes, and remembers its last line and its last JSON object."""

    def __init__(
        self, source: IO[bytes] | None, target: TextIO, take: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(daemon=True)
        self._take = take  # is called with each JSON object
        assert source is not None
        self.source = source
        self.last_line = LastLine()
        self.last_object: dict[str, Any] | None = None
        self._target = target
        self._line = bytearray()
        self.start()

    def run(self) -> None:
        while chunk := os.read(self.source.fileno(), CHUNK_BYTES):
            with contextlib.suppress(
                OSError, ValueError
            ):  # a full disk must not block the program at its pipe
                self._target.buffer.write(chunk)
                self._target.buffer.flush()
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                self._end_line(self._line + line)
                self._line.clear()
            self._line += rest[: MAX_LINE_BYTES - len(self._line)]
        self._end_line(self._line)

    def _end_line(self, line: bytes | bytearray) -> None:
        if not line:
            return
        text = line.decode(errors="replace")
        self.last_line.take(text)
        last_state = text.lstrip("\ufeff").strip().rpartition("\r")[2]  # of a progress bar
        for found in json_objects(last_state):
            self.last_object = found
            self._take(found)

    def finish(self) -> None:
        """Wait for the end of the output, but not for processes that the program left behind."""
        self.join(PIPE_GRACE_S)
        if not self.is_alive():
            self.source.close()


def _result_in(path: Path) -> Any:
    """Return the result in a file; None where there is none. The training is over: no form is refused."""
    try:
        found = read_bytes(path)
    except OSError:
        return None
    try:
        return json.loads(found)  # in any UTF, with or without a BOM: PowerShell writes UTF-16
    except (ValueError, RecursionError):
        return found.decode(errors="replace").strip() or None


def _quoted(outputs: "Sequence[_Output]") -> str:
    said = next((output.last_line.text for output in reversed(outputs) if output.last_line.text), "")
    return f"; last output: {said}" if said else ", without output" if outputs else ""
