"""On Windows, a job object: with a process, however it ends, the kernel ends what that has started."""

import contextlib
import ctypes
import os
import sys
import time
from typing import Any

import psutil

KILL_ON_JOB_CLOSE = 0x2000  # of JOBOBJECT_BASIC_LIMIT_INFORMATION.LimitFlags
PROCESS_IDS, EXTENDED_LIMITS = 3, 9  # of JOBOBJECTINFOCLASS
MAX_PROCESSES = 4096  # of a task, that are seen at once
END_S = 10.0  # for those that are told to end
POLL_S = 0.005  # between two looks at them
SIZE, POINTER, INT, UINT32 = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("per_process_time", ctypes.c_int64),
        ("per_job_time", ctypes.c_int64),
        ("flags", UINT32),
        ("minimum_working_set", SIZE),
        ("maximum_working_set", SIZE),
        ("active_processes", UINT32),
        ("affinity", SIZE),
        ("priority_class", UINT32),
        ("scheduling_class", UINT32),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("basic", _BasicLimits),
        ("io_counters", ctypes.c_uint64 * 6),
        ("process_memory", SIZE),
        ("job_memory", SIZE),
        ("peak_process_memory", SIZE),
        ("peak_job_memory", SIZE),
    )


class _ProcessIds(ctypes.Structure):
    _fields_ = (("assigned", UINT32), ("listed", UINT32), ("pids", SIZE * MAX_PROCESSES))


_own: list[int] = []  # the handle of this process's job; nobody inherits it, and it is never closed


def take_descendants_along() -> None:
    """Let everything that this process starts from now on end with it; elsewhere than on Windows do nothing.

    The process is put into a new job, which ends when its only handle is closed: with the process. Jobs nest,
    so it stays in the one that it may be in.

    Raises:
        OSError: The system refuses.
    """
    if sys.platform != "win32":
        return
    kernel = _kernel()
    job = kernel.CreateJobObjectW(None, None)
    limits = _ExtendedLimits(basic=_BasicLimits(flags=KILL_ON_JOB_CLOSE))
    is_set = kernel.SetInformationJobObject(job, EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
    if not is_set or not kernel.AssignProcessToJobObject(job, kernel.GetCurrentProcess()):
        raise ctypes.WinError(ctypes.get_last_error())
    _own.append(job)


def end_others_in_job() -> None:
    """End what this process has started since `take_descendants_along`; return when nothing of it is left."""
    until_s = time.monotonic() + END_S
    while (others := _others()) and time.monotonic() < until_s:
        for pid in others:
            with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
                psutil.Process(pid).kill()
        time.sleep(POLL_S)


def _others() -> list[int]:
    """Return the pids of this process's job without its own."""
    if sys.platform != "win32" or not _own:
        return []
    found = _ProcessIds()
    _kernel().QueryInformationJobObject(_own[0], PROCESS_IDS, ctypes.byref(found), ctypes.sizeof(found), None)
    return [pid for pid in found.pids[: found.listed] if pid != os.getpid()]


def _kernel() -> Any:
    """Return the library with the functions whose types ctypes has to know: a handle has 64 bits."""
    if sys.platform != "win32":
        raise NotImplementedError
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.CreateJobObjectW.argtypes = (POINTER, ctypes.c_wchar_p)
    kernel.CreateJobObjectW.restype = kernel.GetCurrentProcess.restype = POINTER
    kernel.SetInformationJobObject.argtypes = (POINTER, INT, POINTER, UINT32)
    kernel.QueryInformationJobObject.argtypes = (POINTER, INT, POINTER, UINT32, POINTER)
    kernel.AssignProcessToJobObject.argtypes = (POINTER, POINTER)
    return kernel
