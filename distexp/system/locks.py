"""A lock of the kernel on a file, for what is locked often.

It ends with its holder, whatever ends that, and excludes those who lock the file with `filelock`. That
library does the same where a lock is taken once; for one row it takes longer than all else but the disk.
"""

import os
import sys
import time
from pathlib import Path

POLL_S = 0.01  # between two tries

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by closing alone: a child being born has it open, too


def acquire(path: str, timeout_s: float) -> int:
    """Lock the file, which is made with its folder if need be, and stays; return what `release` takes.

    Raises:
        TimeoutError: Somebody else has held it all that time.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        descriptor = _open(path)
        is_ours = False
        try:
            is_ours = _try(descriptor)
        finally:
            if not is_ours:
                os.close(descriptor)
        if is_ours:
            return descriptor
        if time.monotonic() >= until_s:
            raise TimeoutError(f"{path}: found it held for {timeout_s:g} s")
        time.sleep(POLL_S)


def release(descriptor: int) -> None:
    """Unlock the file."""
    try:
        _unlock(descriptor)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _try(descriptor: int) -> bool:
    """Return whether the lock is ours, of a file that nobody has deleted since it was opened."""
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):  # the latter on Windows, and on some file systems
        return False
    return os.fstat(descriptor).st_nlink > 0
