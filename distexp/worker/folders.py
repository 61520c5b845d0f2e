"""Distinguishes a full disk from a folder that can never be made."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from distexp.run_folder import ROOM_BYTES

DISK_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
MAX_CHAIN = 20  # errors that came from one another; a chain may be a ring
PROBE_FILE = ".probe"


def probe(folder: Path) -> None:
    """Return when `folder` takes `ROOM_BYTES` bytes more.

    Raises:
        OSError: It does not.
    """
    path = folder / PROBE_FILE
    try:
        path.write_bytes(bytes(ROOM_BYTES))
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def is_disk_full(error: OSError) -> bool:
    """Return whether the disk is full or read-only, which is no fault of the task."""
    return error.errno in DISK_FULL


def has_met_full_disk(error: BaseException | None, last_line: str) -> bool:
    """Return whether an error, or one that it came from, tells of a full or read-only disk.

    Of a program only `last_line` tells: the system's words in its last output.
    """
    is_full = any(isinstance(each, OSError) and is_disk_full(each) for each in came_from(error))
    return is_full or os.strerror(errno.ENOSPC) in last_line


def came_from(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then what it came from: those that it was raised from, or while they were handled."""
    for _ in range(MAX_CHAIN):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def why_not_made(error: OSError) -> str:
    """Return why a folder cannot be made; of what stands in its place, what that is and what helps."""
    if isinstance(error, FileExistsError | NotADirectoryError | FileNotFoundError) and error.filename:
        path = Path(error.filename)
        for each in (path, *path.parents):
            if each.is_symlink() and not os.path.exists(each):
                target = os.readlink(each)
                return f"{each} is a link to {target}, which is not there: make that, or remove the link"
            if os.path.isfile(each):
                return f"{each} is a file: move it away"
    return error.strerror or str(error)


def is_full_at(folder: Path) -> bool:
    """Return whether the disk of a folder, which need not exist, is full or read-only now."""
    there = next(each for each in (folder, *folder.parents) if os.path.isdir(each))
    try:
        probe(there)
    except OSError as error:
        return is_disk_full(error)
    return False
