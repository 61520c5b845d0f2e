"""Claim a GPU, or a CPU seat, for one worker; pin its children to it. Opens `errors` and `gpu`.

A claim is a kernel lock on a file: the kernel ends it with the process, however that dies; a child, forked
or started, does not inherit it. Only a held lock means anything; a file, its age and its content do not.
Containers exclude each other only where they share the claim folder.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from distexp.errors import UserError
from distexp.gpu import MIB, MIN_FREE_GB, GpuStatus, by_most_free, list_gpus, no_gpu_error, to_mib

CLAIM_FOLDER_VARIABLE = "EXPERIMENT_GPU_CLAIMS"  # environment variable that moves the host's claim folder
MAX_CPU_WORKERS = 1024  # per working folder; far above any host's cores, so a search always ends


@dataclass(frozen=True)
class Claim:
    """A card (or none: the CPU) that this process alone may use until `release` or its end.

    As a context manager it releases itself. `release` may be called from any thread, and twice.
    Keep a reference: a claim that is garbage-collected is released.
    """

    worker_id: str  # "gpu0", "gpu0.1" for slot 1, "gpu0-mig1" for a MIG instance, "cpu0"
    gpu: GpuStatus | None
    _lock: BaseFileLock = field(repr=False, compare=False)

    @property
    def device(self) -> str:
        """The device as torch spells it in a child that got `environment()`."""
        return "cpu" if self.gpu is None else "cuda:0"

    @property
    def device_name(self) -> str:
        """The card's product name, or "cpu"."""
        return "cpu" if self.gpu is None else self.gpu.name

    @property
    def total_mib(self) -> int:
        """The card's memory, or the host's, in MiB."""
        return psutil.virtual_memory().total // MIB if self.gpu is None else self.gpu.total_mib

    def environment(self) -> dict[str, str]:
        """Return the variables that show a child this one device; set them before it starts CUDA."""
        if self.gpu is None:
            return {"CUDA_VISIBLE_DEVICES": "-1"}  # "" would unset it on Windows, and so show every card
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": self.gpu.uuid}

    def release(self) -> None:
        """Let others have the device."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim_gpu(
    min_free_mib: int = to_mib(MIN_FREE_GB),
    *,
    slots: int = 1,
    visible: str | None = None,
    lock_folder: Path | None = None,
) -> Claim:
    """Claim the card with the most free memory that no other worker has. Never waits.

    With several slots a card that no worker has comes first; sharing begins when none is left.

    Args:
        min_free_mib: Pass over cards without more free memory than this, in MiB.
        slots: How many workers may share a card.
        visible: The inherited CUDA_VISIBLE_DEVICES, None when it is not set.
        lock_folder: Of the lock files, None for the one that all users of this host share.

    Raises:
        NoGpuError: No card now; trying again later may help if `list_gpus` lists any. Lists every card.
        UserError: Locks cannot be had in `lock_folder`. The message holds path and cure.
    """
    gpus = list_gpus(visible)
    folder = lock_folder or default_claim_folder()
    _make_shared(folder)
    refused: dict[str, str] = {}
    for slot in range(slots):
        for gpu in by_most_free(gpus, min_free_mib):
            claim = _try_claim(gpu, slot, folder, min_free_mib, visible)
            if isinstance(claim, Claim):
                return claim
            refused[gpu.uuid] = claim
    raise no_gpu_error(gpus, min_free_mib, refused)


def unclaimable(
    gpus: Sequence[GpuStatus], *, slots: int = 1, lock_folder: Path | None = None
) -> dict[str, str]:
    """Return UUID -> why it cannot be claimed, of the cards whose every slot is taken.

    A look: each lock is tried and released at once. A worker that asks in that instant asks again.
    """
    folder = lock_folder or default_claim_folder()
    reasons: dict[str, str] = {}
    for gpu in gpus:
        for slot in range(slots):
            lock = _lock_slot(gpu, slot, folder) if _slot_path(gpu, slot, folder).exists() else None
            if not isinstance(lock, str):  # free
                if lock:
                    lock.release()
                reasons.pop(gpu.uuid, None)
                break
            reasons[gpu.uuid] = lock
    return reasons


def claim_cpu(folder: Path) -> Claim:
    """Claim the lowest free CPU seat of this folder: `cpu0`, `cpu1`, ... Never waits.

    Raises:
        UserError: Locks cannot be had in `folder`, or all seats are taken. The message holds the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(MAX_CPU_WORKERS):
            lock = _try_lock(folder / f"cpu{index}.lock")
            if lock:
                return Claim(f"cpu{index}", None, lock)
    except PermissionError as error:
        raise UserError(f"{folder}: found no permission to lock a file ({error}), expected it") from error
    raise UserError(f"{folder}: found {MAX_CPU_WORKERS} CPU workers, expected fewer")


def default_claim_folder() -> Path:
    """Return the folder of GPU claims that all users and jobs of this host share.

    Not TMPDIR: that differs between users and between Slurm jobs, and then nobody would exclude anybody.
    """
    if chosen := os.environ.get(CLAIM_FOLDER_VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "distexp-gpu-claims")
    return Path("/tmp/distexp-gpu-claims")


def _try_claim(
    gpu: GpuStatus, slot: int, folder: Path, min_free_mib: int, visible: str | None
) -> Claim | str:
    """Return the claim, or why there is none, in words for people."""
    lock = _lock_slot(gpu, slot, folder)
    if isinstance(lock, str):
        return lock
    with ExitStack() as undo:
        undo.callback(lock.release)
        now = {gpu.uuid: gpu for gpu in list_gpus(visible)}.get(
            gpu.uuid
        )  # others may have come before the lock
        if now and now.has_more_than(min_free_mib):
            undo.pop_all()
            return Claim(gpu.label if slot == 0 else f"{gpu.label}.{slot}", now, lock)
    return "its memory was taken in this moment"


def _slot_path(gpu: GpuStatus, slot: int, folder: Path) -> Path:
    return folder / f"{gpu.uuid.replace('/', '_')}.slot{slot}.lock"  # old MIG UUIDs hold slashes


def _lock_slot(gpu: GpuStatus, slot: int, folder: Path) -> BaseFileLock | str:
    """Return the held lock, or why there is none, in words for people."""
    path = _slot_path(gpu, slot, folder)
    try:
        lock = _try_lock(path)
    except PermissionError as error:  # another user's file: for this instant, or for good
        return f"cannot be claimed: {error}, expected a folder of mode 0777 and files of mode 0666"
    return lock or f"claimed by another worker{_read_note(path)}"


def _try_lock(path: Path) -> BaseFileLock | None:
    """Return the held lock, or None when another process or claim holds it.

    Raises:
        PermissionError: This user may not open the file.
        UserError: The file system has no kernel locks, or anything else is wrong with the path.
    """
    lock = FileLock(
        path,
        mode=0o666,  # whatever the umask: the next holder may be another user
        blocking=False,
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
        cure = f"expected a local folder with file locks, such as {CLAIM_FOLDER_VARIABLE}=/tmp/claims"
        raise UserError(f"{path}: cannot be locked ({error}), {cure}") from error
    return lock


def _write_note(descriptor: int) -> None:
    """Write who holds the lock, for people only: nothing is decided by it."""
    with suppress(OSError):  # a full disk must not cost the claim
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()}".encode())


def _read_note(path: Path) -> str:
    try:
        note = path.read_text(errors="replace")[:40]
    except OSError:
        return ""  # Windows locks the content too
    return f" ({note})" if note.isprintable() and note else ""


def _make_shared(folder: Path) -> None:
    """Create the claim folder, open to all users whatever the umask.

    Without the sticky bit: under it the kernel (`fs.protected_regular`) and `filelock` refuse others' files.
    """
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o777)  # only one that was made here: nobody asked for a change of theirs
    except FileExistsError:
        pass
    except OSError as error:
        cure = f"expected a folder that can be made; {CLAIM_FOLDER_VARIABLE} names another"
        raise UserError(f"{folder}: {error.strerror}, {cure}") from error
