"""Processes: which one is it, is it gone, and end it with everything that it has started."""

import contextlib
import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from distexp.system.windows_job import end_others_in_job, take_descendants_along

PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])  # that holds `distexp`
MARK_VARIABLE = "DISTEXP_TASK_PROCESS"  # in the environment of all that a task starts
INTERRUPTS = ("SIGINT", "SIGBREAK")  # of a terminal; the latter is Ctrl+Break of Windows
CLUSTER_SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR2")  # sent to every process of a job, or of a terminal
END_S = 10.0  # a killed process is gone by then, unless the kernel holds it in a device call
TRACKER_S = 3.0  # for a resource tracker, which may have only started, to free what it knows and end
NEWBORN_S = 0.1  # a process as young as this may be a resource tracker that has no name of its own yet
POLL_S = 0.005  # between two looks at processes that were killed
PR_SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>


def host_name() -> str:
    """Return the host's short name, as it stands in rows and log lines."""
    return socket.gethostname().split(".")[0]


def python_path() -> str:
    """Return a PYTHONPATH by which an interpreter that is started finds this package, too."""
    return os.pathsep.join(filter(None, [PACKAGE_FOLDER, os.environ.get("PYTHONPATH")]))


def machine_id() -> str:
    """Return a text that two processes share only on one boot of one host, seeing each other's pids."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container without these files
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return f"{platform.node()}/{_boot_id()}"


def _boot_id() -> str:
    """Return what changes with each boot, and is the same in all processes until then, whatever the clock."""
    kernel = 4 if sys.platform == "win32" else 0  # the parent of what it starts itself, and keeps
    processes = (_see(pid) for pid in sorted(_pids()) if pid > kernel)
    first = next((each for each in processes if each and each.parent == kernel), None)
    return repr(first and first.started)


@dataclass(frozen=True)
class ProcessMark:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: float  # as the kernel stored it; on Linux in clock ticks since boot, which no clock's step moves

    @classmethod
    def of(cls, pid: int) -> "ProcessMark | None":
        """Return the mark of a process of this host, or None when there is none, or it cannot be seen."""
        seen = _see(pid)
        return cls(pid, seen.started) if seen else None

    @classmethod
    def own(cls) -> "ProcessMark":
        """Return the mark of this process."""
        return cls.of(os.getpid()) or cls(os.getpid(), 0.0)  # the latter where nothing can be seen

    def is_gone(self) -> bool:
        """Return whether the process has ended. A zombie, which waits for its parent alone, has."""
        seen = _see(self.pid)
        if seen is None:
            return not psutil.pid_exists(self.pid)  # it is there, but we cannot look at it now
        return seen.started != self.started or seen.is_zombie


@dataclass(frozen=True)
class _Seen:
    """What the kernel tells of a process."""

    pid: int
    parent: int
    session: int
    started: float
    is_zombie: bool


if sys.platform == "linux":

    def _see(pid: int) -> _Seen | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                text = file.read()
        except OSError:
            return None
        fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
        return _Seen(pid, int(fields[1]), int(fields[3]), float(fields[19]), fields[0] in (b"Z", b"X"))

    def _pids() -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]

else:

    def _see(pid: int) -> _Seen | None:
        try:
            process = psutil.Process(pid)
            session = os.getsid(pid) if sys.platform != "win32" else -1
            is_zombie = sys.platform != "win32" and process.status() == psutil.STATUS_ZOMBIE
            return _Seen(pid, process.ppid(), session, process.create_time(), is_zombie)
        except (psutil.Error, OSError):
            return None

    def _pids() -> list[int]:
        return psutil.pids()


def ancestors(pid: int) -> list[int]:
    """Return a process's own pid and those of all above it, as far as they can be seen."""
    found: list[int] = []
    while pid > 0 and pid not in found and (seen := _see(pid)):
        found.append(pid)
        pid = seen.parent
    return found


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's own children that run now."""
    return [each.pid for each in _everyone() if each.parent == pid]


def adopted(known: Set[int]) -> list[int]:
    """Return this process's children that have left its session, without those known; on Linux alone.

    After `adopt_orphans`, what dead children had detached is among them. Those that have ended are reaped.
    """
    own = _see(os.getpid())
    if sys.platform != "linux" or own is None:
        return []
    found = []
    for seen in filter(None, map(_see, _pids())):
        if seen.parent == own.pid and seen.session != own.session and seen.pid not in known:
            if seen.is_zombie:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(seen.pid, os.WNOHANG)
            else:
                found.append(seen.pid)
    return found


def end_of(pid: int) -> int | None:
    """Return a descriptor that becomes readable when this process ends; None where the system has none.

    A pipe that the process holds tells less: what it has started may hold it, too, and live on.
    """
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except (AttributeError, OSError):  # an old kernel or Python, or it has ended
        return None


def descendants(pid: int) -> list[int]:
    """Return the pids of all that run below a process now."""
    return [each.pid for each in _below(pid, list(_everyone()))]


def end_tree(root: ProcessMark, mark: str = "", orphans: Callable[[], list[int]] = list) -> list[int]:
    """End a process and everything it has started, again until nothing is left; return what does not end.

    That is all below it, all of its session if it leads one, and every program with the mark in its
    environment; on Windows, what its job object holds. A process that `detach`ed itself is, on Linux,
    above all that it has started while it lives.
    Resource trackers of multiprocessing go last: they free shared memory and semaphores of the dead.

    Args:
        root: It may have ended before.
        mark: The value of `MARK_VARIABLE` that its programs have; empty: none.
        orphans: Returns the pids of more roots, once this one has ended: what it had detached, say.
    """
    signal_process(root, "SIGSTOP")  # so that it starts nothing more
    began_s, trackers = time.monotonic(), set[ProcessMark]()
    while True:
        is_gone = root.is_gone()
        found = {ProcessMark(each.pid, each.started) for each in _family(root, mark, is_gone=is_gone)}
        for pid in orphans() if is_gone else []:
            found |= {seen for each in (pid, *descendants(pid)) if (seen := ProcessMark.of(each))}
        found = {each for each in found if not each.is_gone()}
        trackers |= {each for each in found - trackers if _is_tracker(each.pid)}
        for each in _old_enough(found - trackers, began_s) if found - trackers else {root}:
            signal_process(each, "SIGKILL")
        is_over = time.monotonic() > began_s + END_S
        if is_over or (is_gone and not found - trackers):
            break
        time.sleep(POLL_S)
    _end_trackers(trackers)
    return [each.pid for each in {root, *found, *trackers} if not each.is_gone()]


def end_descendants() -> None:
    """End everything that this process has started; on Linux, after `detach`, also what detached itself."""
    if sys.platform == "win32":
        end_others_in_job()
        return
    began_s, trackers = time.monotonic(), set[ProcessMark]()
    while has_children() and time.monotonic() < began_s + END_S:
        found = {ProcessMark(each.pid, each.started) for each in _below(os.getpid(), list(_everyone()))}
        trackers |= {each for each in found - trackers if _is_tracker(each.pid)}
        if not found - trackers:
            break
        for each in _old_enough(found - trackers, began_s):
            signal_process(each, "SIGKILL")
        time.sleep(POLL_S)
    if trackers:
        own_resource_tracker()  # this one sees that nobody is left to ask for anything
        _end_trackers(trackers)


def end_own_tree() -> NoReturn:
    """End this process, which has `detach`ed itself, and everything it has started, now."""
    start_nothing_more()
    end_descendants()
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def start_nothing_more() -> None:
    """Let no thread of this process start another one: a pool replaces each worker that it loses."""

    def wait_for_ever(*_: object, **__: object) -> NoReturn:
        while True:
            threading.Event().wait()

    in_python = sys.modules.get("multiprocessing.util")  # how that starts a new interpreter
    for module, name in ((os, "fork"), (subprocess, "_fork_exec"), (in_python, "spawnv_passfds")):
        if hasattr(module, name):
            setattr(module, name, wait_for_ever)


def own_resource_tracker() -> None:
    """Let this process have a resource tracker of its own, once it needs one.

    One that is shared with the parent frees what was left behind only when the parent has ended, too. The
    one before ends once nobody else has it.
    """
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    descriptor = getattr(tracker, "_fd", None)
    if tracker is not None and descriptor is not None:
        tracker._fd = tracker._pid = None
        with contextlib.suppress(OSError):
            os.close(descriptor)


def has_children() -> bool:
    """Return False if there are surely none; cheap, since that is the rule."""
    if not hasattr(os, "waitid"):  # Windows, and macOS before Python 3.13
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def signal_process(process: ProcessMark, name: str) -> None:
    """Send a signal by name; nothing happens when the process is gone, or the system knows no such signal."""
    if process.is_gone():
        return
    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform != "win32":
            os.kill(process.pid, getattr(signal, name))
        elif name == "SIGKILL":
            psutil.Process(process.pid).kill()


def has_group(pid: int) -> bool:
    """Return whether anybody is left of the process group that this process leads or led; cheap."""
    if sys.platform == "win32":
        return False
    try:
        os.killpg(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _everyone() -> Iterator[_Seen]:
    for pid in _pids():
        seen = _see(pid)
        if seen is not None and not seen.is_zombie:
            yield seen


def _below(pid: int, everyone: list[_Seen]) -> list[_Seen]:
    children: dict[int, list[_Seen]] = {}
    for each in everyone:
        children.setdefault(each.parent, []).append(each)
    found: list[_Seen] = []
    parents = [pid]
    while parents:
        new = children.pop(parents.pop(), [])
        found += new
        parents += [each.pid for each in new]
    return found


def _family(root: ProcessMark, mark: str, *, is_gone: bool) -> list[_Seen]:
    """Return what `root` has started, as far as can be seen, without itself."""
    if sys.platform == "win32":
        return []  # its job object ends that
    everyone = list(_everyone())
    is_reused = any(each.pid == root.pid and each.started != root.started for each in everyone)
    found = {} if is_gone else {each.pid: each for each in _below(root.pid, everyone)}
    if not is_reused:
        found |= {each.pid: each for each in everyone if each.session == root.pid != each.pid}
    if mark and (is_gone or sys.platform != "linux"):
        found |= {each.pid: each for each in everyone if _has_mark(each.pid, mark)}
        found.pop(root.pid, None)
    found.pop(os.getpid(), None)
    return list(found.values())


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return psutil.Process(pid).environ().get(MARK_VARIABLE) == mark
    except (psutil.Error, OSError):
        return False  # another user's


def _is_tracker(pid: int) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return False


def _old_enough(processes: set[ProcessMark], began_s: float) -> set[ProcessMark]:
    """Return those that can be told from a resource tracker by now; after `NEWBORN_S` that is all of them."""
    if sys.platform != "linux" or time.monotonic() > began_s + NEWBORN_S:
        return processes
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    born_before = (time.clock_gettime(time.CLOCK_BOOTTIME) - NEWBORN_S) * ticks_a_second
    return {each for each in processes if each.started <= born_before}


def _end_trackers(trackers: set[ProcessMark]) -> None:
    until_s = time.monotonic() + TRACKER_S
    while trackers and time.monotonic() < until_s:
        time.sleep(POLL_S)
        trackers = {each for each in trackers if not each.is_gone()}
    for each in trackers:
        signal_process(each, "SIGKILL")


def detach() -> None:
    """Leave the terminal's reach: its Ctrl+C is for the worker; nobody types into a task."""
    for name in INTERRUPTS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    take_descendants_along()
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `unheard_interrupts`
        os.setsid()  # its own group, so that the whole tree can be ended at once
        outlive_cluster_signals()
    adopt_orphans()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


@contextlib.contextmanager
def unheard_interrupts() -> Iterator[None]:
    """Let new interpreters that this thread starts meanwhile miss Ctrl+C until they `detach` themselves."""
    if sys.platform == "win32":  # where it is a flag of the start: `CREATE_NEW_PROCESS_GROUP`
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def lower_priority(by: int) -> None:
    """Let this process, and what it starts, yield to others of the host: by 0 to 19, as `nice` counts."""
    if by > 0 and sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    elif by > 0:
        os.nice(by)


def adopt_orphans() -> None:
    """Let what outlives its parent, below this process, become its child and not init's; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def outlive_cluster_signals() -> None:
    """Survive what a cluster sends to every process: the worker is told, too, and asks for the checkpoint.

    By a handler, since a started program would inherit an ignored signal. What is forked ends by them as
    ever; they are held back during the fork, in which Python loses a signal that has a handler.
    """
    numbers = {getattr(signal, name) for name in CLUSTER_SIGNALS}

    def in_forked() -> None:
        for number in numbers:
            if signal.getsignal(number) is _survive:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    for number in numbers:
        signal.signal(number, _survive)
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers),
        after_in_child=in_forked,
    )


def _survive(number: int, frame: FrameType | None) -> None:
    """Go on."""
