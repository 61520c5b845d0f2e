"""Runs any program as an experiment: `command: "python train.py --width {width_factor} --seed {seed}"`.

The text is split like a shell line first, and each word is filled with values after, so that a value with
spaces or quotes stays one argument. No shell runs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, TextIO

from distexp.context import Context
from distexp.sweep.templates import fill, split_command
from distexp.system.process import ProcessMark, descendants, end_tree
from distexp.task import Scalar

POLL_S = 0.2  # how soon a request to stop is seen
STOP_GRACE_S = 20.0  # for the program to save its checkpoint after SIGTERM
PIPE_GRACE_S = 5.0  # for processes that the program leaves behind with its output open
LINE_MAX = 1 << 20  # characters; a longer line is read in pieces
TAIL_LINES = 20  # of an output, quoted in an error


class CommandFailed(RuntimeError):
    """The program cannot be started, failed, or gave no result. Names it and quotes its last lines."""


def run(params: Mapping[str, Any], context: Context) -> dict[str, Scalar]:
    """Run the program to its end and return its result.

    The result is the JSON object in the file `$DISTEXP_RESULT`, or else the last line of standard output that
    is one. Both outputs are passed on to the task's log.

    Raises:
        ValueError: The template is malformed or names an unknown parameter.
        CommandFailed: See there.
        TaskStopped: `context.should_stop()` said so, and the program has ended.
    """
    words = arguments(context.command or "", _values(params, context))
    name = Path(words[0]).name
    with TemporaryDirectory(prefix="distexp_") as folder:
        result_path = Path(folder) / "result.json"
        program = _start(words, {**os.environ, **_environment(result_path, context)})
        outputs = (_Output(program.stdout, sys.stdout), _Output(program.stderr, sys.stderr))
        try:
            _wait(program, context)
        finally:
            for output in outputs:
                output.finish()
        if program.returncode != 0:
            raise CommandFailed(f"{name}: {_cause(program.returncode)}{_quoted(outputs)}")
        return _result(name, result_path, outputs[0])


def arguments(command: str, values: Mapping[str, object], windows: bool = os.name == "nt") -> list[str]:
    """Return the words of the command with their placeholders filled; `python` is this interpreter.

    Args:
        windows: A backslash separates folders, and does not quote the next character.

    Raises:
        ValueError: An empty command, an open quote, or a malformed or unknown placeholder.
    """
    try:
        words = [fill(word, values) for word in split_command(command, windows)]
    except ValueError as cause:
        raise ValueError(f"command: {command!r}: {cause}") from None
    if not words:
        raise ValueError("command: found no words, expected a program and its arguments")
    return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def _values(params: Mapping[str, Any], context: Context) -> dict[str, object]:
    """Return what placeholders may name: the parameters, and the context, which wins."""
    return {
        **params,
        "seed": context.seed,
        "output_dir": str(context.output_dir),
        "checkpoint_dir": str(context.checkpoint_dir),
        "device": context.device,
        "gpus": context.gpus,
        "attempt": context.attempt,
    }


def _environment(result_path: Path, context: Context) -> dict[str, str]:
    return {
        "DISTEXP_RESULT": str(result_path),
        "DISTEXP_SEED": str(context.seed),
        "DISTEXP_OUTPUT_DIR": str(context.output_dir.absolute()),
        "DISTEXP_CHECKPOINT_DIR": str(context.checkpoint_dir.absolute()),
        "DISTEXP_ATTEMPT": str(context.attempt),
        "DISTEXP_DEVICE": context.device,
        "DISTEXP_GPUS": str(context.gpus),
    }


def _start(words: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as cause:
        raise CommandFailed(f"{words[0]}: cannot be started ({cause.strerror})") from None


def _wait(program: "subprocess.Popen[str]", context: Context) -> None:
    """Wait for the program to end; when the task is to stop, end it and raise `TaskStopped`."""
    try:
        while program.poll() is None:
            if context.should_stop():
                ended = _stop(program)
                how = "has ended" if ended else f"did not end within {STOP_GRACE_S:g} s and was killed"
                raise context.Stopped(f"the command was told to stop and {how}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(POLL_S)
    finally:
        program.kill()  # does nothing to a program that has ended
        program.wait()


def _stop(program: "subprocess.Popen[str]") -> bool:
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
    """Copies one output of the program line by line, and remembers its end and its last JSON object."""

    def __init__(self, source: IO[str] | None, target: TextIO) -> None:
        super().__init__(daemon=True)
        assert source is not None
        self.source = source
        self.target = target
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.last_object: dict[str, Any] | None = None
        self.start()

    def run(self) -> None:
        while line := self.source.readline(LINE_MAX):
            encoding = self.target.encoding or "utf-8"
            with contextlib.suppress(OSError):  # a full disk must not block the program at its pipe
                self.target.write(line.encode(encoding, "replace").decode(encoding))
                self.target.flush()
            self.tail.append(line.rstrip("\n"))
            found = _json_object(line)
            self.last_object = self.last_object if found is None else found

    def finish(self) -> None:
        """Wait for the end of the output, but not for processes that the program left behind."""
        self.join(PIPE_GRACE_S)
        if not self.is_alive():
            self.source.close()


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _result(name: str, path: Path, output: _Output) -> dict[str, Scalar]:
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        found = _json_object(text)
        if found is None:
            raise CommandFailed(f"{name}: found {text[:60]!r} in $DISTEXP_RESULT, expected a JSON object")
        return found
    if output.last_object is None:
        expected = "a JSON object in the file $DISTEXP_RESULT or as a line of standard output"
        raise CommandFailed(f"{name}: found no result, expected {expected}")
    return output.last_object


def _cause(returncode: int) -> str:
    if returncode > 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def _quoted(outputs: tuple[_Output, _Output]) -> str:
    stdout, stderr = outputs
    lines = list(stderr.tail or stdout.tail)
    return "; its last lines:\n" + "\n".join(lines) if lines else ", without output"
