"""Replace a file whole, so that it is there after a kill or a power cut."""

import os
from contextlib import suppress
from pathlib import Path


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
            os.fsync(file.fileno())
        os.replace(half, path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):  # a full disk is not to be filled with halves
            half.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of the folder last; where folders cannot be synced, do nothing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_ignored(folder: Path) -> None:
    """Make a folder, and in it a `.gitignore` of everything.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
