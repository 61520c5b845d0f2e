"""A process beside the worker that ends its tasks when the worker is killed, whatever the tasks do.

A task that holds its interpreter, or is stopped, cannot end itself. The watcher shares nothing with it but
the pids that the worker tells over a pipe; the pipe closes with the worker. While anything of a task may be
left, the watcher holds a kernel lock: the manager of this host assigns the task once that is free.
"""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from distexp.system import locks
from distexp.system.process import PACKAGE_FOLDER, ProcessMark, end_tree, signal_process

PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from distexp.worker.watcher import main; main(sys.argv[2:])"
)
READY_S = 10.0  # for the watcher to start; it takes 0.1 s on a quiet machine
LOCK_S = 2.0  # others look whether it is held, for an instant
CLOSE_S = 5.0  # for it to end, and with it a template that hangs in an import
REAPED_S = 0.3  # for the template to do so
LOOK_S = 0.2  # between two looks at processes that do not end
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")  # sent to every process of a job
STARTED, ENDED, READY = "+", "-", b"ready\n"

log = logging.getLogger("distexp.worker")


class Watcher:
    """The worker's side.  Safe from any thread."""

    def __init__(self, lock: Path) -> None:
        """Start the watcher, which is to hold `lock`."""
        self._lock_file = lock
        self._turn = threading.Lock()
        self._orders: dict[int, str] = {}  # by pid, what a new watcher has to be told
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._is_closed = False
        with self._turn:
            self._start()

    def watch(self, process: ProcessMark, mark: str = "") -> None:
        """End this process, and all that it has started, if this one is killed. See `end_tree` for `mark`."""
        with self._turn:
            if self._is_closed:  # a standby that was on its way when the worker left
                end_tree(process, mark)
                return
            order = self._orders[process.pid] = f"{STARTED} {process.pid} {process.started!r} {mark}\n"
            if not self._tell(order):
                log.warning("The process that ends tasks with a killed worker has died; starting another")
                self._hang_up()
                self._start()

    @property
    def pids(self) -> set[int]:
        """The pid of its process."""
        process = self._process
        return {process.pid} if process else set()

    def forget(self, process: ProcessMark) -> None:
        """Watch this process no longer: nothing of it is left."""
        with self._turn:
            if self._orders.pop(process.pid, None):
                self._tell(f"{ENDED} {process.pid}\n")

    def await_ready(self) -> None:
        """Return when the lock is held; a warning says so if that takes too long."""
        if not self._ready.wait(READY_S):
            log.warning("A kill of this worker may leave its task running: no watcher within %g s", READY_S)

    def close(self) -> None:
        """End what is still watched, the watcher, and whatever `watch` is told of later."""
        with self._turn:
            self._is_closed = True
            self._hang_up()

    def _hang_up(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_S)

    def _start(self) -> None:
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, PACKAGE_FOLDER, str(self._lock_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # else who waits for the end of a killed worker's output waits for it
            start_new_session=True,  # out of reach of what kills the worker's group; on Windows this is:
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._ready.clear()
        threading.Thread(target=self._hear, args=(process,), name="watcher", daemon=True).start()
        for order in self._orders.values():
            self._tell(order)

    def _hear(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as said:
            if said.readline() == READY:
                self._ready.set()

    def _tell(self, order: str) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            self._process.stdin.write(order.encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True


def main(words: Sequence[str]) -> None:
    """Watch until the worker's end of the pipe closes; then end what is watched, and release the lock."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    path = Path(words[0])
    lock = held(path, None)
    remove_others(path)
    with contextlib.suppress(OSError):  # the worker may be gone by now, and what it has started not
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
    watched: dict[int, tuple[ProcessMark, str]] = {}
    for order in sys.stdin:
        kind, pid, *more = order.rstrip("\n").split(" ")
        if kind == STARTED:
            watched[int(pid)] = (ProcessMark(int(pid), float(more[0])), more[1])
            lock = held(path, lock)
        else:
            watched.pop(int(pid), None)
    end_all(list(watched.values()), lock)
    if lock:
        with lock, contextlib.suppress(OSError):
            path.unlink()  # Windows keeps it, since it is open


def held(path: Path, lock: locks.FileLock | None) -> locks.FileLock | None:
    """Return `lock`, or a new one where there is none at its path; None where none can be written.

    Somebody may have deleted or replaced the folder, with a manager that starts anew there.
    """
    try:
        if lock is not None and lock.is_at(path):
            return lock
        new = locks.acquire(path, LOCK_S)
    except OSError:
        return lock
    if lock is not None:
        lock.release()
    return new


def remove_others(path: Path) -> None:
    """Remove the locks that killed watchers have left."""
    for other in path.parent.glob(f"*{path.suffix}"):
        with contextlib.suppress(OSError), locks.acquire(other):  # which nobody can take meanwhile
            other.unlink()


def end_all(watched: Sequence[tuple[ProcessMark, str]], lock: locks.FileLock | None) -> None:
    """Return when nothing of all that is watched is left; the note of the lock names what does not end.

    Tasks end first. The template above them goes on meanwhile: ended before, it would leave what they have
    detached, and their entries in the table of processes, which `kill -0` takes for a process.
    """
    tasks, templates = [each for each in watched if each[1]], [each for each in watched if not each[1]]
    for process, _ in tasks:
        signal_process(process, "SIGSTOP")
    left = _end_each(tasks)
    until_s = time.monotonic() + REAPED_S
    while any(psutil.pid_exists(process.pid) for process, _ in tasks) and time.monotonic() < until_s:
        time.sleep(LOOK_S / 20)
    left += _end_each(templates)
    marks = [mark for pid in left if (mark := ProcessMark.of(pid))]
    while marks := [mark for mark in marks if not mark.is_gone()]:
        if lock:
            lock.note(f"pid {marks[0].pid}")
        time.sleep(LOOK_S)


def _end_each(roots: Sequence[tuple[ProcessMark, str]]) -> list[int]:
    with ThreadPoolExecutor(max(1, len(roots))) as pool:
        return [pid for pids in pool.map(lambda root: end_tree(*root), roots) for pid in pids]
