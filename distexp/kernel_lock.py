"""A lock of the kernel on a file, for what is locked often. Opens nothing.

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

    _IS_HELD: type[OSError] = PermissionError

    def _try(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    _IS_HELD: type[OSError] = BlockingIOError

    def _try(descriptor: int) -> None:
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
        try:
            _try(descriptor)
            if _is_at(path, descriptor):
                return descriptor
        except _IS_HELD:
            if time.monotonic() >= until_s:
                os.close(descriptor)
                raise TimeoutError(f"{path}: found it held for {timeout_s:g} s") from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
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


def _is_at(path: str, descriptor: int) -> bool:
    """Return whether this file still has its name: somebody may have deleted it before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
