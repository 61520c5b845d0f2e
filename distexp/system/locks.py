"""Kernel locks on files: they exclude other processes, and end with their holder however it dies.

Standard library alone, since `launcher/bootstrap.py` locks before anything is installed. The lock is flock(2)
on POSIX and the first byte of the file on Windows, as the package `filelock` takes it: programs that use that
package exclude us, and we them. A process that was forked or started by the holder does not hold the lock.
"""

import errno
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distexp.system.files import PRIVATE, set_mode

SHARED = 0o666  # for files that users lock in turn, whatever their umask
POLL_S = 0.01  # between two tries
SOON_POLL_S, SOON_S = 0.001, 0.2  # at first: the lock of a results file is held for an append, some ms
NOTE_BYTES = 40  # of a note that are read: anybody may have written a shared file
_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # for a FIFO in the file's place
)


_NO_LOCK_FILES = {  # by the error of opening them
    errno.ELOOP: "a link",
    errno.EISDIR: "a folder",
    errno.ENXIO: "a socket or a device",
    errno.ENODEV: "a device",
    errno.ETXTBSY: "a program that runs",
}


class NotALockFile(OSError):
    """At the path of a lock stands a link, a folder, a FIFO, ...: only people can fix that."""


if sys.platform == "win32":
    import ctypes
    import msvcrt

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _FIRST_BYTE = (0, 0, 1, 0)  # begin and length, each in two halves

    def _call(function: Any, descriptor: int) -> None:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        if not function(handle, *_FIRST_BYTE):  # at once: these wait for nobody
            raise ctypes.WinError(ctypes.get_last_error())

    def _lock(descriptor: int) -> None:
        _call(_kernel.LockFile, descriptor)

    def _unlock(descriptor: int) -> None:
        _call(_kernel.UnlockFile, descriptor)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by closing alone: a child being born has it open, too


class FileLock:
    """A lock that this process holds until `release` or its end. Safe from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Unlock the file, which stays; nothing happens the second time, or in a forked child."""
        try:
            _held.remove(self)
        except KeyError:
            return
        try:
            _unlock(self._descriptor)
        finally:
            os.close(self._descriptor)

    def is_at(self, path: str | Path) -> bool:
        """Return whether the path still names the locked file: deleted or replaced, it keeps nobody out."""
        return _is_at(path, os.fstat(self._descriptor))

    def note(self, text: str) -> None:
        """Write into the file, for people and `read_note`; no error when the disk is full."""
        try:
            if os.fstat(self._descriptor).st_nlink > 1:
                return  # somebody's file under another name
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, os.write(self._descriptor, text.encode()))
        except OSError:
            pass  # a place in line for GPUs that cannot be renewed ends, nothing else

    def renew(self) -> None:
        """Make the file look new: what cleans /tmp of old files would else delete it under its holder."""
        with suppress(OSError, TypeError):  # Windows knows no times by descriptor, and cleans no such folder
            os.utime(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: set[FileLock] = set()


def _forget_in_child() -> None:
    """Close what a forked child has inherited, so that the lock ends with its holder alone."""
    for lock in _held:
        os.close(lock._descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_in_child)


def acquire(path: str | Path, timeout_s: float = 0.0, *, mode: int = PRIVATE) -> FileLock:
    """Lock the file, which is made with its folder if need be.

    Args:
        path: A regular file; a link is not followed. One of mode `SHARED` has no second name (hard link):
            with a name of another user's choice, his lock would change the mode of a file of ours.
        timeout_s: How long to try while somebody else holds it; 0: once, infinity: for ever.
        mode: What the file's permissions are to be. Only its owner can change them.

    Raises:
        TimeoutError: Somebody else has held it all that time.
        PermissionError: This user may not open it.
        NotALockFile: It is no such file.
        OSError: Its file system has no locks.
    """
    began_s = time.monotonic()
    while True:
        lock = _try(path, mode)
        if lock is not None:
            return lock
        waited_s = time.monotonic() - began_s
        if waited_s >= timeout_s:
            raise TimeoutError(f"{path} is locked by another process (waited {timeout_s:g} s)")
        time.sleep(SOON_POLL_S if waited_s < SOON_S else POLL_S)


def is_held(path: str | Path) -> bool:
    """Return whether somebody holds the lock, by taking it for an instant; False where there is no file.

    Raises:
        OSError: As for `acquire`.
    """
    if not os.path.lexists(path):
        return False
    lock = _try(path, None)
    if lock is not None:
        lock.release()
    return lock is None


def read_note(path: str | Path) -> str:
    """Return what the holder wrote, 40 bytes at most; empty where nothing can be read or printed."""
    try:
        descriptor = os.open(path, (_FLAGS & ~(os.O_RDWR | os.O_CREAT)) | os.O_RDONLY)
    except OSError:
        return ""
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        text = os.read(descriptor, NOTE_BYTES).decode(errors="replace") if is_file else ""
    except OSError:  # Windows locks the content, too
        return ""
    finally:
        os.close(descriptor)
    return text if text.isprintable() else ""


def _try(path: str | Path, mode: int | None) -> FileLock | None:
    """Return the lock unless somebody else holds it, or has replaced the file meanwhile."""
    try:
        descriptor = _open(path, PRIVATE if mode is None else mode)
    except BlockingIOError:  # its owner has leased it, by `fcntl`: for a minute at most
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotALockFile(f"{path} is not a regular file; move it away")
        if mode == SHARED and found.st_nlink > 1:
            raise NotALockFile(f"{path} has another name, too (a hard link); move it away")
        if mode is not None:
            set_mode(descriptor, mode)
        if _is_locked(descriptor) and _is_at(path, found):
            lock, descriptor = FileLock(descriptor), -1
            return lock
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(path: str | Path, mode: int) -> int:
    try:
        return os.open(path, _FLAGS, mode)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, _FLAGS, mode)
    except OSError as error:
        if kind := _NO_LOCK_FILES.get(error.errno or 0):
            raise NotALockFile(f"{path} is {kind}, not a regular file; move it away") from None
        raise


def _is_locked(descriptor: int) -> bool:
    """Return whether the lock is ours now."""
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):  # the latter on Windows, and on some file systems
        return False
    return True


def _is_at(path: str | Path, found: os.stat_result) -> bool:
    """Return whether the path still names the file that was locked: it may have been deleted or replaced."""
    if sys.platform == "win32":
        return True  # which deletes no open file
    try:
        return os.path.samestat(os.lstat(path), found)
    except FileNotFoundError:
        return False
