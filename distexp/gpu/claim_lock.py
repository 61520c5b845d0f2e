"""The lock files of claims, in a folder that all users of this host share."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from distexp.errors import UserError

CLAIM_FOLDER_VARIABLE = "EXPERIMENT_GPU_CLAIMS"  # environment variable that moves the host's claim folder


def default_claim_folder() -> Path:
    """Return the folder of GPU claims that all users and jobs of this host share.

    Not TMPDIR: that differs between users and between Slurm jobs, and then nobody would exclude anybody.
    """
    if chosen := os.environ.get(CLAIM_FOLDER_VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "distexp-gpu-claims")
    return Path("/tmp/distexp-gpu-claims")


def try_lock(path: Path, wait_s: float = 0.0) -> BaseFileLock | None:
    """Return the held lock, or None when another process or claim still holds it after `wait_s`.

    Raises:
        PermissionError: This user may not open the file.
        UserError: The file system has no kernel locks, or anything else is wrong with the path.
    """
    lock = FileLock(
        path,
        mode=0o666,  # whatever the umask: the next holder may be another user
        timeout=wait_s,
        thread_local=False,  # a claim is released by whichever thread ends the worker
        fallback_to_soft=False,  # a lock that outlives its process would block the card for ever
        on_acquired=_write_note,
    )
    try:
        lock.acquire()
    except Timeout:
        return None
    except PermissionError:
        raise
    except OSError as error:
        remedy = f"expected a local folder with file locks, such as {CLAIM_FOLDER_VARIABLE}=/tmp/claims"
        raise UserError(f"{path}: cannot be locked ({error}), {remedy}") from error
    return lock


def _write_note(descriptor: int) -> None:
    """Write who holds the lock, for people only: nothing is decided by it."""
    with suppress(OSError):  # a full disk must not cost the claim
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()}".encode())


def read_note(path: Path) -> str:
    """Return who holds the lock, in brackets after a space; empty where nobody can be read."""
    try:
        note = path.read_text(errors="replace")[:40]
    except OSError:
        return ""  # Windows locks the content too
    return f" ({note})" if note.isprintable() and note else ""


def make_shared(folder: Path) -> None:
    """Create the claim folder, open to all users whatever the umask.

    Without the sticky bit: under it the kernel (`fs.protected_regular`) and `filelock` refuse others' files.
    """
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o777)  # only one that was made here: nobody asked for a change of theirs
    except FileExistsError:
        pass
    except OSError as error:
        remedy = f"expected a folder that can be made; {CLAIM_FOLDER_VARIABLE} names another"
        raise UserError(f"{folder}: {error.strerror}, {remedy}") from error
