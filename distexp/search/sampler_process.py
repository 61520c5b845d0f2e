"""The manager's end of the sampler process: starts it, tells it the history, asks it, starts it again."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from distexp.errors import SamplerFailed
from distexp.search.sampler import Ask, Begin, Suggestion, Trial
from distexp.system.process import python_path
from distexp.text import last_line

SAMPLER = ["-m", "distexp.search.sampler"]
LAST_BYTES = 4096  # of what a process wrote, in which its last line stands
ANSWER_S = 120.0  # of 100,000 trials; one that takes longer hangs


class SamplerProcess:
    """A process that knows some searches.  For one thread; `close` is safe from any."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._told: dict[str, tuple[Begin, dict[int, Trial]]] = {}  # by search, what the process knows
        self._lock = threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this

    def ask(self, begin: Begin, trials: Iterable[Trial], seed: int) -> list[float | int]:
        """Return a place in each dimension of a search whose history is this.

        With another `begin`, though an equal one, the search begins anew.

        Raises:
            SamplerFailed: The process has ended, or does not answer; the next question starts another.
        """
        process = self._running()
        began, told = self._told.get(begin.search, (None, {}))
        messages: list[Begin | Trial | Ask] = []
        if began is not begin:
            told = {}
            self._told[begin.search] = begin, told
            messages.append(begin)
        for trial in trials:
            if told.get(trial.number) != trial:
                told[trial.number] = trial
                messages.append(trial)
        messages.append(Ask(begin.search, seed))
        watch = threading.Timer(ANSWER_S, process.kill)
        watch.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"".join(msgspec.json.encode(each) + b"\n" for each in messages))
            process.stdin.flush()
            return msgspec.json.decode(process.stdout.readline(), type=Suggestion).places
        except (OSError, ValueError, msgspec.MsgspecError):
            self._end()
            raise SamplerFailed(f"the process that asks Optuna has ended: {self._last_error()}") from None
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the process; an answer that is waited for does not come."""
        with self._lock:
            self._is_closed = True
        self._end()
        self._errors.close()

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_closed:
                raise SamplerFailed("the manager stops")
            if self._process is None:
                self._told = {}
                self._process = subprocess.Popen(
                    [sys.executable, *SAMPLER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env={**os.environ, "PYTHONPATH": python_path()},
                )
            return self._process

    def _last_error(self) -> str:
        """Return the last line that a process wrote to standard error, and let the next begin anew."""
        with self._lock:
            if self._is_closed:
                return "the manager stops"
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_BYTES))
            said = last_line(self._errors.read().decode(errors="replace"), "killed")
            self._errors.seek(0)
            self._errors.truncate()
            return said

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
