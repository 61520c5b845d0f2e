"""Claim GPUs, or a CPU worker's number, for one worker; pin its children to it.

A claim is a kernel lock on a file: the kernel ends it with the process, however that dies; a child, forked
or started, does not inherit it. Only a held lock means anything; a file, its age and its content do not.
Containers exclude each other only where they share the claim folder.
"""

import glob
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

from distexp.errors import UserError
from distexp.gpu.devices import MIB, GpuRequest, GpuStatus, no_gpu_error
from distexp.system import locks
from distexp.system.files import PRIVATE
from distexp.system.locks import FileLock
from distexp.task import MIB_PER_GB
from distexp.text import count_text

CLAIM_FOLDER_VARIABLE = "EXPERIMENT_GPU_CLAIMS"  # environment variable that moves the host's claim folder
MAX_CPU_WORKERS = 1024  # per working folder; far above any host's cores, so a search always ends
SHARED_MODES = "the folder needs mode 0777, its files 0666"
ANY_GPU = GpuRequest()
INSTANT_S = 0.2  # for somebody who only looks whether a lock is held
KEPT_S = 30.0  # since a worker last said that it waits for a GPU: more than a try without a manager takes


@dataclass(frozen=True)
class Claim:
    """The GPUs (none: the CPU) that this process alone may use until `release` or its end.

    As a context manager it releases itself. `release` may be called from any thread, and twice.
    """

    worker_id: str  # "gpu0", "gpu0.1" for slot 1, "gpu0-mig1" for a MIG instance, "gpu0+3" for two, "cpu0"
    gpus: tuple[GpuStatus, ...]  # as CUDA counts them in a child
    _locks: tuple[FileLock, ...] = field(repr=False, compare=False)
    without_gpus: Literal["cpu", "mps"] = "cpu"  # where it computes if it has none of NVML

    @property
    def device(self) -> str:
        """The first device as torch spells it in a child that got `environment()`."""
        return "cuda:0" if self.gpus else self.without_gpus

    @property
    def device_name(self) -> str:
        """The product names of the GPUs, or "cpu" or "mps": `NVIDIA H100`, `2 x NVIDIA H100`."""
        counts = Counter(gpu.name for gpu in self.gpus)
        names = [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]
        return ", ".join(names) or self.without_gpus

    @property
    def total_mib(self) -> int:
        """The memory of the smallest GPU, or the host's, in MiB."""
        host_mib = psutil.virtual_memory().total // MIB
        return min((gpu.total_mib for gpu in self.gpus), default=host_mib)

    def environment(self) -> dict[str, str]:
        """Return the variables that show a child these GPUs alone; set them before it starts CUDA."""
        if not self.gpus:
            return {"CUDA_VISIBLE_DEVICES": "-1"}  # "" would unset it on Windows, and so show every GPU
        uuids = ",".join(gpu.uuid for gpu in self.gpus)
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": uuids}

    def renew(self) -> None:
        """Show that the claim is in use: months may pass, and /tmp be cleaned of old files meanwhile."""
        for lock in self._locks:
            lock.renew()

    def release(self) -> None:
        """Let others have the device."""
        for lock in self._locks:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def default_claim_folder() -> Path:
    """Return the folder of GPU claims that all users and jobs of this host share.

    Not TMPDIR: that differs between users and between Slurm jobs, and then nobody would exclude anybody.
    """
    if chosen := os.environ.get(CLAIM_FOLDER_VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "distexp-gpu-claims")
    return Path("/tmp/distexp-gpu-claims")


def _make_shared(folder: Path) -> None:
    """Create the claim folder, open to all users whatever the umask.

    Without the sticky bit: under it the kernel (`fs.protected_regular`) refuses the files of other users.
    """
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o777)  # only one that was made here: nobody asked for a change of theirs
    except FileExistsError:
        pass
    except OSError as error:
        remedy = f"set {CLAIM_FOLDER_VARIABLE} to a folder that can"
        raise UserError(f"{folder} cannot be made ({error.strerror}): {remedy}") from error


def claim_gpu(request: GpuRequest = ANY_GPU, *, slots: int = 1) -> Claim:
    """Claim the GPU that the request puts first and no other worker has. Never waits.

    With several slots a GPU that no worker has comes first; sharing begins when none is left. A worker that
    waits for several GPUs is served first: those that are kept for it are passed over.

    Args:
        request: Which GPUs will do.
        slots: How many workers may share a GPU.

    Raises:
        NoGpuError: No GPU now; trying again later may help if `list_gpus` lists any. Lists every GPU.
        UserError: Locks cannot be had in the claim folder. The message holds path and remedy. Or as
            `GpuRequest.gpus`.
    """
    gpus = request.gpus()
    folder = default_claim_folder()
    _make_shared(folder)
    refused: dict[str, str] = {}
    is_claimed = cache(lambda gpu: _is_claimed(gpu, folder))  # to look takes a moment, if it is
    is_whole = cache(lambda gpu: _is_held(_whole_path(gpu, folder)))  # one worker has its every slot
    kept = cache(lambda gpu: _kept(gpu, folder))
    for slot in range(slots):
        wanted = request.beside_others() if slot and request.joins else request
        for gpu in wanted.in_order(gpus):
            if slot and is_whole(gpu):
                continue
            if wanted is not request and (request.is_too_small(gpu) or not is_claimed(gpu)):
                continue  # its memory is not held by somebody who shares
            claim = kept(gpu) or _try_claim(gpu, slot, folder, wanted)
            if isinstance(claim, Claim):
                return claim
            refused[gpu.uuid] = claim
    raise no_gpu_error(gpus, request, refused)


class PlaceInLine:
    """A worker's place at the head of the line for several GPUs: a kernel lock for each that it may use.

    Those of these GPUs that become free are kept for it: no worker takes one alone. Its locks end with it,
    and count for nothing once it has not called `take` for `KEPT_S`: Ctrl+Z, say, has stopped it.
    """

    def __init__(self) -> None:
        self._folder = default_claim_folder()
        self._locks: dict[str, FileLock] = {}  # by UUID

    @property
    def is_first(self) -> bool:
        """Whether GPUs are kept for us."""
        return bool(self._locks)

    def take(self, gpus: Sequence[GpuStatus], count: int) -> dict[str, str]:
        """Take or renew the place for `count` of these; return UUID -> for whom else that GPU is kept.

        Nothing is kept for us when too few are left to us. Where no lock can be had (a FIFO stands there, the
        folder is closed), the GPU is anybody's.
        """
        _make_shared(self._folder)
        others: dict[str, str] = {}
        for gpu in gpus:
            path = _wanted_path(gpu, self._folder)
            with suppress(PermissionError, locks.NotALockFile):
                if lock := self._renewed(gpu, path) or _try_lock(path, INSTANT_S):
                    self._locks[gpu.uuid] = lock
                elif kept := _kept(gpu, self._folder):
                    others[gpu.uuid] = kept
        if len(gpus) - len(others) < count:
            self.leave()
        return others

    def _renewed(self, gpu: GpuStatus, path: Path) -> FileLock | None:
        """Return our lock on it, shown to be alive, if it is still on the file that others look at."""
        lock = self._locks.get(gpu.uuid)
        if lock and not lock.is_at(path):
            self._locks.pop(gpu.uuid).release()
            return None
        if lock:
            lock.note(_note())
        return lock

    def leave(self) -> None:
        """Let the next one have it."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def claim_gpus(count: int, request: GpuRequest = ANY_GPU, *, place: PlaceInLine) -> Claim:
    """Claim `count` whole GPUs at once, those that the request puts first, or none; every slot of each.

    Args:
        request: Which GPUs will do.
        place: Kept after a failure while other workers hold what is missing, so that the next call succeeds
            once they have ended. Left where programs of others do: they may never end.

    Raises:
        NoGpuError: Too few are free now; trying again later may help. Lists every GPU.
        UserError: This host has too few whole GPUs with memory enough; or as for `claim_gpu`.
    """
    gpus = request.gpus()
    whole = [gpu for gpu in gpus if gpu.mig is None]
    large = [gpu for gpu in whole if not request.is_too_small(gpu)]
    if len(large) < count:
        raise _too_few(gpus, count, request)
    folder = default_claim_folder()
    refused = place.take(large, count)
    ours = [gpu for gpu in large if gpu.uuid not in refused]
    with ExitStack() as undo:
        claims: list[Claim] = []
        for gpu in request.in_order(ours) if len(ours) >= count else []:
            claim = _try_claim_whole(gpu, folder, request)
            if isinstance(claim, Claim):
                claims.append(undo.enter_context(claim))
            else:
                refused[gpu.uuid] = claim
            if len(claims) == count:
                undo.pop_all()
                place.leave()
                return _joined(claims)
    if sum(not request.refusal(gpu) or _is_claimed(gpu, folder) for gpu in ours) < count:
        place.leave()
    raise no_gpu_error(whole, request, refused, count)


def _joined(claims: Sequence[Claim]) -> Claim:
    """Return one claim on all the GPUs, in the order of their slots in the host."""
    ordered = sorted(claims, key=lambda claim: claim.gpus[0].index)
    gpus = tuple(claim.gpus[0] for claim in ordered)
    worker_id = "gpu" + "+".join(str(gpu.index) for gpu in gpus)
    return Claim(worker_id, gpus, tuple(lock for claim in ordered for lock in claim._locks))


def _too_few(gpus: Sequence[GpuStatus], count: int, request: GpuRequest) -> UserError:
    whole = [gpu.label for gpu in gpus if gpu.mig is None]
    parts = [gpu.label for gpu in gpus if gpu.mig is not None]
    there = f"{count_text(len(whole), 'whole GPU')} ({', '.join(whole) or 'none'})"
    hint = f"; a MIG instance cannot be joined with another ({', '.join(parts)})" if parts else ""
    small = [gpu.label for gpu in gpus if gpu.mig is None and request.is_too_small(gpu)]
    if small:
        hint += f"; too small for --min-free-gb {request.min_free_mib / MIB_PER_GB:g}: {', '.join(small)}"
    asked = f"--gpus {count} is more than --gpu-ids allows" if request.ids else ""
    return UserError(f"{asked or f'--gpus {count} is more than this host has'}: {there}{hint}")


def _kept(gpu: GpuStatus, folder: Path) -> str:
    """Return for whom this GPU is kept, in words for people; empty: for nobody, or one that was stopped."""
    path = _wanted_path(gpu, folder)
    try:
        age_s = time.time() - os.lstat(path).st_mtime
    except OSError:
        return ""
    if abs(age_s) > KEPT_S or not _is_held(path):
        return ""
    return f"kept for a worker that waits for several GPUs{_holder(path)}: {path}"


def _is_held(path: Path, wait_s: float = INSTANT_S) -> bool:
    """Return whether a worker holds this lock, not only looks at it: that it does for less than `wait_s`."""
    if not os.path.exists(path):
        return False
    try:
        lock = _try_lock(path, wait_s)
    except (PermissionError, locks.NotALockFile):
        return False  # another user's file: nothing can be told
    if lock:
        lock.release()
    return lock is None


def unclaimable(gpus: Sequence[GpuStatus], *, slots: int = 1) -> dict[str, str]:
    """Return UUID -> why it cannot be claimed, of the GPUs whose every slot is taken, or that are kept.

    A look: each lock is tried and released at once. A worker that asks in that instant asks again.
    """
    folder = default_claim_folder()
    reasons: dict[str, str] = {}
    for gpu in gpus:
        for slot in range(1 if _is_held(_whole_path(gpu, folder)) else slots):
            lock = _lock_slot(gpu, slot, folder) if os.path.exists(folder) else None
            if not isinstance(lock, str):  # free
                if lock:
                    lock.release()
                reasons.pop(gpu.uuid, None)
                break
            reasons[gpu.uuid] = lock
        if gpu.uuid not in reasons and (kept := _kept(gpu, folder)):
            reasons[gpu.uuid] = kept
    return reasons


def taken_slots(gpus: Sequence[GpuStatus]) -> dict[str, int]:
    """Return UUID -> how many workers have a slot of it, of the GPUs that any has. A look, as above."""
    folder = default_claim_folder()
    if not os.path.exists(folder):
        return {}
    is_held = partial(_is_held, wait_s=0.0)  # there are many, and nothing depends on it
    taken = {gpu.uuid: sum(map(is_held, _slot_paths(gpu, folder))) for gpu in gpus}
    return {uuid: number for uuid, number in taken.items() if number}


def claim_cpu(folder: Path, device: Literal["cpu", "mps"] = "cpu") -> Claim:
    """Claim the lowest free CPU worker's number of this folder: `cpu0`, `cpu1`, ... Never waits.

    Apple's GPU is claimed the same way: its workers, `mps0`, ..., share it with everything else, as the CPU.

    Raises:
        UserError: Locks cannot be had in `folder`, or all numbers are taken. The message holds the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(MAX_CPU_WORKERS):
            lock = _try_lock(folder / f"{device}{index}.lock", mode=PRIVATE)
            if lock:
                return Claim(f"{device}{index}", (), (lock,), device)
    except PermissionError as error:
        raise UserError(f"{folder}: a file there cannot be locked ({error}); fix its permissions") from error
    except locks.NotALockFile as error:
        raise UserError(str(error)) from error
    raise UserError(f"{folder}: {MAX_CPU_WORKERS} CPU workers run already, and more are not possible")


def _try_claim(gpu: GpuStatus, slot: int, folder: Path, request: GpuRequest) -> Claim | str:
    """Return the claim, or why there is none, in words for people."""
    lock = _lock_slot(gpu, slot, folder)
    if isinstance(lock, str):
        return lock
    return _claim_of(gpu, gpu.label if slot == 0 else f"{gpu.label}.{slot}", [lock], request)


def _try_claim_whole(gpu: GpuStatus, folder: Path, request: GpuRequest) -> Claim | str:
    """Return a claim on every slot, or why there is none, in words for people."""
    with ExitStack() as undo:
        whole = _lock(_whole_path(gpu, folder), INSTANT_S)
        if isinstance(whole, str):
            return whole
        held = [undo.enter_context(whole)]
        for path in _slot_paths(gpu, folder):
            lock = _lock(path)
            if isinstance(lock, str):
                return lock
            held.append(undo.enter_context(lock))
        undo.pop_all()
    return _claim_of(gpu, gpu.label, held, request)


def _claim_of(gpu: GpuStatus, worker_id: str, held: Sequence[FileLock], request: GpuRequest) -> Claim | str:
    """Return a claim by these locks, unless others took the memory before they were held."""
    with ExitStack() as undo:
        for lock in held:
            undo.callback(lock.release)
        now = {each.uuid: each for each in request.gpus()}.get(gpu.uuid)
        if now and not request.refusal(now):
            undo.pop_all()
            return Claim(worker_id, (now,), tuple(held))
    return "its memory was taken in this moment"


def _slot_path(gpu: GpuStatus, slot: int | str, folder: Path) -> Path:
    return folder / f"{gpu.uuid.replace('/', '_')}.slot{slot}.lock"  # old MIG UUIDs hold slashes


def _whole_path(gpu: GpuStatus, folder: Path) -> Path:
    return folder / f"{gpu.uuid.replace('/', '_')}.whole.lock"


def _wanted_path(gpu: GpuStatus, folder: Path) -> Path:
    return folder / f"{gpu.uuid.replace('/', '_')}.wanted.lock"


def _slot_paths(gpu: GpuStatus, folder: Path) -> list[Path]:
    """Return the first slot and those that workers have ever asked for."""
    prefix = _slot_path(gpu, "", folder).name.removesuffix(".lock")
    others = glob.glob(f"{glob.escape(str(folder / prefix))}*")  # none in a folder that is closed to us
    return sorted({_slot_path(gpu, 0, folder), *map(Path, others)})


def _is_claimed(gpu: GpuStatus, folder: Path) -> bool:
    return any(_is_held(path) for path in _slot_paths(gpu, folder))


def _lock_slot(gpu: GpuStatus, slot: int, folder: Path) -> FileLock | str:
    """Return the held lock, or why there is none, in words for people.

    Who takes a further slot looks for a whole claim once it has it; who claims the whole looks at the slots
    once it has that: so never do both succeed.
    """
    lock = _lock(_slot_path(gpu, slot, folder))
    if isinstance(lock, FileLock) and slot > 0 and _is_held(whole := _whole_path(gpu, folder)):
        lock.release()
        return f"claimed by another worker{_holder(whole)}"
    return lock


def _lock(path: Path, wait_s: float = 0.0) -> FileLock | str:
    try:
        lock = _try_lock(path, wait_s)
    except PermissionError as error:  # another user's file: for this instant, or for good
        return f"cannot be claimed: {error}; {SHARED_MODES}"
    except locks.NotALockFile as error:
        return f"cannot be claimed: {error}"
    return lock or f"claimed by another worker{_holder(path)}"


def _try_lock(path: Path, wait_s: float = 0.0, mode: int = locks.SHARED) -> FileLock | None:
    """Return the held lock, or None when another process or claim still holds it after `wait_s`.

    Raises:
        PermissionError: This user may not open the file.
        NotALockFile: A link, a FIFO, ... stands in its place.
        UserError: The file system has no kernel locks, or anything else is wrong with the path.
    """
    try:
        lock = locks.acquire(path, wait_s, mode=mode)
    except TimeoutError:
        return None
    except (PermissionError, locks.NotALockFile):
        raise
    except OSError as error:
        remedy = f"use a local folder with file locks, such as {CLAIM_FOLDER_VARIABLE}=/tmp/claims"
        raise UserError(f"{path} cannot be locked ({error}): {remedy}") from error
    lock.note(_note())
    return lock


def _note() -> str:
    return f"pid {os.getpid()}"


def _holder(path: Path) -> str:
    """Return who holds the lock, in brackets after a space; empty where nobody can be read."""
    note = locks.read_note(path)
    return f" ({note})" if note else ""
