"""Replace a file whole, so that it is there after a kill or a power cut; open regular files alone."""

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl as _fcntl

    fcntl: Any = _fcntl
except ImportError:  # Windows
    fcntl = None

FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # of macOS, whose fsync leaves data in the drive's own memory

SMALL_BYTES = 1 << 20  # more than any token, address or key has: a sparse file would fill the memory
PRIVATE_FOLDER = 0o700
PRIVATE = 0o600  # of what other users of the host must not read, lock or change
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def regular(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a regular file, as the `opener` of `open`: whoever put a FIFO or a device there holds up nobody.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, flags | _AT_ONCE, mode)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a FIFO that nobody reads
            raise
    else:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISREG(kind):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "it is not a regular file; move it away", os.fspath(path))


def private(path: str | os.PathLike[str], flags: int) -> int:
    """Do the same for a file that its owner alone may use, whatever mode it had."""
    descriptor = regular(path, flags, PRIVATE)
    set_mode(descriptor, PRIVATE)
    return descriptor


def set_mode(descriptor: int, mode: int) -> None:
    """Give a file of ours its permissions: those of a new one depend on the umask, or on an older version.

    Nothing happens to a file of somebody else, to one with another name, too (which may be of another user's
    choice), and on a disk without permissions.
    """
    found = os.fstat(descriptor)
    is_ours = os.name == "posix" and found.st_uid == os.geteuid() and found.st_nlink == 1
    if is_ours and stat.S_IMODE(found.st_mode) != mode:
        with suppress(OSError):
            os.fchmod(descriptor, mode)


def read_bytes(path: Path, at_most: int = sys.maxsize) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: It cannot be read, is no regular file, or holds more bytes than `at_most`.
    """
    with open(path, "rb", opener=regular) as file:
        if os.fstat(file.fileno()).st_size > at_most:
            raise OSError(errno.EFBIG, f"it has more than {at_most} bytes; move it away", os.fspath(path))
        return file.read()


def replace_durably(path: Path, data: bytes | memoryview, mode: int = 0o666, writer: str = "") -> None:
    """Put `data` in the place of a file, whole or not at all.

    Args:
        writer: Tells the temporary file `.NAME.WRITER.tmp` from that of another process, where two may write;
            then the caller removes what a kill has left. Empty: the next write goes over it.

    Raises:
        OSError: The file is as it was, and nothing half is left.
    """
    half = path.with_name(f".{path.name}.{writer}.tmp" if writer else f".{path.name}.tmp")
    try:
        half.unlink(missing_ok=True)  # it may have another mode
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        os.replace(half, path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):  # a full disk is not to be filled with halves
            half.unlink()
        raise


def sync(descriptor: int) -> None:
    """Make what was written to a file last.

    Raises:
        OSError: The disk does not take it.
    """
    if FULL_SYNC is not None:
        with suppress(OSError):  # of a file system without it
            fcntl.fcntl(descriptor, FULL_SYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of the folder last; where folders cannot be synced, do nothing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_ignored(folder: Path) -> None:
    """Make a folder that its owner alone may enter, and in it a `.gitignore` of everything.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    found = folder.stat()
    if os.name == "posix" and found.st_uid == os.geteuid() and found.st_mode & 0o077:
        with suppress(OSError):  # a disk without permissions
            folder.chmod(PRIVATE_FOLDER)  # of an older version
    ignore = folder / ".gitignore"
    if not os.path.exists(ignore):
        ignore.write_text("*\n", encoding="ascii")
