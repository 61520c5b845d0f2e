"""A process and all that it has started: out of the terminal's reach, ended together."""

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

import psutil

PR_SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>
MARK_VARIABLE = "DISTEXP_TASK_PROCESS"  # in the environment of all that a child starts
CLUSTER_SIGNALS = ("SIGTERM", "SIGUSR2")  # Slurm sends them to every process of a job


def detach() -> None:
    """Leave the terminal's reach: its Ctrl+C is for the worker; nobody types into a task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        os.setsid()  # its own group, so that the whole tree can be ended at once
        outlive_cluster_signals()
    if sys.platform == "linux":  # what outlives its parent below becomes this process's child, not init's
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


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


def end_marked(mark: str) -> None:
    """End the programs that a process with this mark has started with its environment, detached ones too."""
    for _ in range(2):  # again for what was started while the first list was made
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK_VARIABLE) == mark:
                    process.kill()


def end_own_tree() -> None:
    """End this process and everything it has started, now."""
    end_descendants()
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_descendants() -> None:
    """End everything this process has started; on Linux also what has detached itself."""
    if not has_children():
        return
    for _ in range(2):  # again for what was started while the first list was made
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()


def has_children() -> bool:
    """Return False if there are surely none; cheap, since that is the rule."""
    if sys.platform == "win32":
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
