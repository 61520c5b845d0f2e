"""List the GPUs of this host through NVML, and choose among them.

`pynvml` is imported when a list is asked for; the CPU needs neither it nor a driver. A GB is 1024 MiB
here, as in `nvidia-smi`.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import psutil

from distexp.errors import NoGpuError, UserError
from distexp.task import MIB_PER_GB
from distexp.text import count_text

MIN_FREE_GB = 4.0  # a GPU needs more free memory than this, unless the caller says otherwise
MIB = 1024 * 1024

_NO_DRIVER = "install the driver (`nvidia-smi` shows whether it works), or run with --device cpu"
_ON_MACOS = "Apple's GPU is used only with --device mps"
_INIT_FAILURES = {  # what nvmlInit raises -> (cause, remedy)
    "NVMLError_LibraryNotFound": ("no NVIDIA driver, its NVML library is missing", _NO_DRIVER),
    "NVMLError_DriverNotLoaded": ("the NVIDIA driver is not loaded", _NO_DRIVER),
    "NVMLError_LibRmVersionMismatch": ("the NVIDIA driver was updated since the kernel loaded it", "reboot"),
}


@dataclass(frozen=True)
class GpuStatus:
    """One device that CUDA can be pinned to: a GPU, or one MIG instance of a GPU in MIG mode.

    An unusable device (lost, no permission) is a value too: `error` says why; the rest may be empty.
    """

    uuid: str  # what CUDA_VISIBLE_DEVICES takes: "GPU-..." or "MIG-..."
    index: int  # of the GPU, in PCI bus order, as `nvidia-smi` counts
    name: str = "unknown"
    free_mib: int = 0  # rounded down
    total_mib: int = 0
    utilization_pct: int | None = None  # None: this device does not tell
    holders: tuple[str, ...] = ()  # "pid 1234 (python of ann, 3.1 GB)"; empty also where nobody tells
    others: tuple[str, ...] = ()  # users other than ours who compute on it; "" where that cannot be told
    error: str = ""
    parent_uuid: str = ""  # of the GPU that a MIG instance is part of
    mig: int | None = None  # index of the MIG instance within its GPU

    @property
    def label(self) -> str:
        """What people and worker ids call it: `gpu0`, or `gpu0-mig1` for a MIG instance."""
        return f"gpu{self.index}" if self.mig is None else f"gpu{self.index}-mig{self.mig}"

    @property
    def memory(self) -> str:
        """Free and total memory for people: `3.1/40.0 GB free`."""
        return f"{self.free_mib / MIB_PER_GB:.1f}/{self.total_mib / MIB_PER_GB:.1f} GB free"


@dataclass(frozen=True)
class GpuRequest:
    """Which GPUs a worker asks for, and in which order."""

    min_free_mib: int = int(MIN_FREE_GB * MIB_PER_GB)  # more than this is free
    ids: tuple[int, ...] = ()  # these indices alone, in this order; empty: all, the most free memory first
    idle_only: bool = False  # none on which others compute
    visible: str | None = None  # the inherited CUDA_VISIBLE_DEVICES, None when it is not set
    joins: bool = False  # other workers on a GPU, whatever they leave free: each task is looked at then

    def beside_others(self) -> "GpuRequest":
        """Return the same for a GPU that workers share already: any free memory will do."""
        return replace(self, min_free_mib=-1)

    def gpus(self) -> list[GpuStatus]:
        """Read the devices of this host that `visible` and `ids` allow; never empty.

        Raises:
            NoGpuError: As `list_gpus` does.
            UserError: There is no GPU of one of the `ids`, or CUDA_VISIBLE_DEVICES hides it.
        """
        found = list_gpus(self.visible)
        there = {gpu.index for gpu in found}
        if missing := [str(index) for index in self.ids if index not in there]:
            hidden = "" if self.visible is None else f" that CUDA_VISIBLE_DEVICES={self.visible!r} allows"
            names = ", ".join(sorted({f"gpu{index}" for index in there}))
            raise UserError(f"--gpu-ids {','.join(missing)}: no such GPU; those{hidden}: {names}")
        return [gpu for gpu in found if not self.ids or gpu.index in self.ids]

    def refusal(self, gpu: GpuStatus) -> str:
        """Return why it does not fit now, in words for people; empty when it does."""
        if gpu.error:
            return gpu.error
        if self.is_too_small(gpu):
            return "too small"
        if self.idle_only and gpu.others:
            return "others compute on it"
        return "" if gpu.free_mib > self.min_free_mib else "busy"

    def is_too_small(self, gpu: GpuStatus) -> bool:
        """Return whether it will not fit however free it becomes."""
        return not gpu.error and gpu.total_mib <= self.min_free_mib

    def in_order(self, gpus: Sequence[GpuStatus]) -> list[GpuStatus]:
        """Return those that fit now, the first choice first.

        GPUs without other people's processes come first; then the order of `ids`, or the most free memory;
        on a tie, the lowest index.
        """

        def rank(gpu: GpuStatus) -> tuple[int, ...]:
            wish = self.ids.index(gpu.index) if self.ids else -gpu.free_mib
            return int(bool(gpu.others)), wish, gpu.index, gpu.mig or 0

        return sorted((gpu for gpu in gpus if not self.refusal(gpu)), key=rank)


def list_gpus(visible: str | None = None) -> list[GpuStatus]:
    """Read every device of this host that `visible` allows; never empty.

    Args:
        visible: The inherited CUDA_VISIBLE_DEVICES, None when it is not set. See `visible_gpus`.

    Raises:
        NoGpuError: There is nothing to wait for: no driver, no GPU, or `visible` hides them all.
            The message holds cause and remedy.
    """
    with open_nvml() as nvml:
        gpus = [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _read_gpu(nvml, index)]
    if not gpus:
        remedy = "compare `nvidia-smi -L`, give a container `--gpus all`, or run with --device cpu"
        raise NoGpuError(f"No available GPU found: the NVIDIA driver sees no GPU; {remedy}")
    allowed = visible_gpus(gpus, visible)
    if not allowed:
        seen = ", ".join(f"{gpu.label} {gpu.uuid}" for gpu in gpus)
        raise NoGpuError(
            f"No available GPU found: CUDA_VISIBLE_DEVICES={visible!r} allows none of {seen}; "
            "correct or unset it, or run with --device cpu"
        )
    return allowed


def visible_gpus(gpus: Sequence[GpuStatus], visible: str | None) -> list[GpuStatus]:
    """Return those that a CUDA_VISIBLE_DEVICES value allows, in its order.

    Entries are GPU indices, UUIDs or their unambiguous beginnings. As in CUDA, the first entry that names
    no device ends the list (so "", "-1" and Slurm's "NoDevFiles" allow none).
    Differs: of the MIG instances listed, or on a GPU listed, CUDA shows one; here all are allowed.
    """
    if visible is None:
        return list(gpus)
    allowed: list[GpuStatus] = []
    for entry in visible.split(","):
        named = _named_by(entry.strip(), gpus)
        if not named:
            break
        allowed += [gpu for gpu in named if gpu not in allowed]
    return allowed


def _named_by(entry: str, gpus: Sequence[GpuStatus]) -> list[GpuStatus]:
    """Return the devices of the one GPU, or the one MIG instance, that `entry` names; else none."""
    if entry.isdecimal():
        return [gpu for gpu in gpus if gpu.index == int(entry)]
    if entry.startswith("MIG-"):
        named = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        return named if len(named) == 1 else []
    named = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.parent_uuid.startswith(entry)]
    return named if len({gpu.parent_uuid for gpu in named}) == 1 else []


def choose_gpu(gpus: Sequence[GpuStatus], request: GpuRequest) -> GpuStatus:
    """Return the GPU that the request puts first.

    Pure: it reads no hardware, so a test hands it any machine it likes.

    Raises:
        NoGpuError: No GPU fits. The message lists every GPU and who holds it.
    """
    fit = request.in_order(gpus)
    if not fit:
        raise no_gpu_error(gpus, request)
    return fit[0]


def get_available_gpu(min_free_gb: float = MIN_FREE_GB) -> int | None:
    """Return the index (PCI bus order) of the GPU with the most free memory, or None when none qualifies.

    Looks only; nothing is claimed. GPUs that an inherited CUDA_VISIBLE_DEVICES hides are passed over.
    """
    try:
        request = GpuRequest(to_mib(min_free_gb), visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
        return choose_gpu(request.gpus(), request).index
    except NoGpuError:
        return None


def to_mib(gb: float) -> int:
    """Return GB as whole MiB, rounded down."""
    return int(gb * MIB_PER_GB)


def describe_gpus(
    gpus: Sequence[GpuStatus],
    request: GpuRequest,
    claimed: Mapping[str, str],
    sharing: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """Return a line per GPU: id, `free`, `busy`, `too small` or `error`, name, memory, use, holders. Pure.

    Args:
        gpus: What was looked at.
        request: What a worker would ask for.
        claimed: UUID -> why nobody can claim the GPU.
        sharing: UUID -> how many workers share it.
    """
    return [_describe(gpu, request, claimed.get(gpu.uuid), sharing.get(gpu.uuid, 0)) for gpu in gpus]


def _describe(gpu: GpuStatus, request: GpuRequest, claim: str | None, sharing: int) -> str:
    if sharing and request.joins and not request.is_too_small(gpu):
        request = request.beside_others()
    if gpu.error:
        return f"{gpu.label}  error  {gpu.name}  {gpu.error}"
    refusal = request.refusal(gpu)
    state = refusal if refusal == "too small" else "busy" if refusal or claim else "free"
    use = "" if gpu.utilization_pct is None else f", {gpu.utilization_pct} % in use"
    reasons = [refusal if refusal not in (state, "") else "", claim or ""]
    why = "".join(f", {reason}" for reason in reasons if reason)
    shared = f", {count_text(sharing, 'worker')} on it" if sharing else ""
    return f"{gpu.label}  {state}  {gpu.name}  {gpu.memory}{use}{_held_by(gpu)}{shared}{why}"


def no_gpu_error(
    gpus: Sequence[GpuStatus], request: GpuRequest, claimed: Mapping[str, str] | None = None, count: int = 1
) -> NoGpuError:
    """Return the error that lists every GPU: memory and holders, or what is wrong with it.

    Args:
        gpus: What was looked at.
        request: What was asked for.
        claimed: UUID -> why the claim of a GPU that fits failed.
        count: How many GPUs were asked for.
    """
    reasons = []
    for gpu in gpus:
        refusal = request.refusal(gpu)
        state = gpu.error or f"{gpu.memory}{_held_by(gpu)}"
        why = refusal if refusal not in ("", "busy", gpu.error) else (claimed or {}).get(gpu.uuid, "")
        reasons.append(f"{gpu.label} {gpu.name}: {state}{f', {why}' if why else ''}")
    if count == 1:
        found, remedy = "no unclaimed GPU has more than", "raise --slots-per-gpu, or run with --device cpu"
    else:
        found, remedy = f"fewer than {count} unclaimed GPUs have more than", "or lower --gpus"
    wanted = f"{request.min_free_mib / MIB_PER_GB:g} GB free ({'; '.join(reasons)})"
    idle = "leave out --idle-only, " if request.idle_only else ""
    return NoGpuError(f"No available GPU found: {found} {wanted}; wait, {idle}lower --min-free-gb, {remedy}")


def too_small_error(gpus: Sequence[GpuStatus], request: GpuRequest) -> NoGpuError:
    """Return the error for a host whose every GPU is too small, however free it becomes."""
    limit = f"{request.min_free_mib / MIB_PER_GB:g}"
    small = ", ".join(f"{gpu.label} {gpu.name} with {gpu.total_mib / MIB_PER_GB:.1f} GB" for gpu in gpus)
    return NoGpuError(
        f"No available GPU found: too small for --min-free-gb {limit}: {small}; "
        "lower it, or run with --device cpu"
    )


def _held_by(gpu: GpuStatus) -> str:
    return f", held by {', '.join(gpu.holders)}" if gpu.holders else ""


@contextmanager
def open_nvml() -> Iterator[Any]:
    """Open NVML for the time of a `with`, and turn its failures as a whole into NoGpuError."""
    if sys.platform == "darwin":
        raise NoGpuError(f"No available GPU found: {_ON_MACOS}; run with that, or with --device cpu")
    try:
        import pynvml  # here, not above: see the head of this file
    except ImportError as error:
        remedy = "`pip install nvidia-ml-py`, or run with --device cpu"
        raise NoGpuError(
            f"No available GPU found: the module pynvml is missing ({error}); {remedy}"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        unknown = (f"NVML does not start ({error})", "compare `nvidia-smi`, or run with --device cpu")
        cause, remedy = _INIT_FAILURES.get(type(error).__name__, unknown)
        raise NoGpuError(f"No available GPU found: {cause}; {remedy}") from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        remedy = "compare `nvidia-smi`, or run with --device cpu"
        raise NoGpuError(f"No available GPU found: NVML does not answer ({error}); {remedy}") from error
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(nvml: Any, index: int) -> list[GpuStatus]:
    """Return the GPU, or its MIG instances in its place."""
    uuid = ""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        if not _has_mig_enabled(nvml, handle):
            return [_read_device(nvml, handle, index, uuid)]
        slots = range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        instances = [_read_mig(nvml, handle, index, uuid, mig) for mig in slots]
        name = nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:
        return [GpuStatus(uuid, index, error=str(error), parent_uuid=uuid)]
    empty = "in MIG mode without an instance, make one with `nvidia-smi mig -cgi`"
    return [gpu for gpu in instances if gpu] or [GpuStatus(uuid, index, name, error=empty, parent_uuid=uuid)]


def _has_mig_enabled(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False  # most GPUs know no MIG; drivers older than it lack the function
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _read_mig(nvml: Any, handle: Any, index: int, parent_uuid: str, mig: int) -> GpuStatus | None:
    try:
        instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, mig)
    except nvml.NVMLError_NotFound:
        return None  # instance numbers have gaps
    return _read_device(nvml, instance, index, parent_uuid, mig)


def _read_device(nvml: Any, device: Any, index: int, parent_uuid: str, mig: int | None = None) -> GpuStatus:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    holders, others = _read_processes(nvml, device)
    return GpuStatus(
        uuid=nvml.nvmlDeviceGetUUID(device),
        index=index,
        name=nvml.nvmlDeviceGetName(device),
        free_mib=memory.free // MIB,
        total_mib=memory.total // MIB,
        utilization_pct=read_utilization(nvml, device),
        holders=holders,
        others=others,
        parent_uuid=parent_uuid,
        mig=mig,
    )


def read_utilization(nvml: Any, device: Any) -> int | None:
    """Return how busy the device is, in percent; None where it does not tell."""
    try:
        return int(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
    except nvml.NVMLError:
        return None  # MIG instances and some drivers do not tell; it decides nothing


def _read_processes(nvml: Any, device: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who holds memory of the device, in words for people, and which other users compute on it."""
    found: dict[int, str] = {}
    others: set[str] = set()
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            processes = ask(device)
        except nvml.NVMLError:
            continue  # WSL and some MIG drivers do not tell
        for process in processes:
            name, user = _name_and_user(process.pid)
            found[process.pid] = _holder(process.pid, name, user, process.usedGpuMemory)
            # a desktop only draws
            if user != own_user() and ask is nvml.nvmlDeviceGetComputeRunningProcesses:
                others.add(user)
    return tuple(found.values()), tuple(sorted(others))


def _holder(pid: int, name: str, user: str, used_bytes: int | None) -> str:
    parts = [f"{name} of {user}" if user not in ("", own_user()) else name] if name else []
    if used_bytes is not None:  # None: Windows keeps it to itself
        parts.append(f"{used_bytes / MIB / MIB_PER_GB:.1f} GB")
    return f"pid {pid} ({', '.join(parts)})" if parts else f"pid {pid}"


def _name_and_user(pid: int) -> tuple[str, str]:
    """Return the program's name and whose it is; empty where that cannot be told."""
    name = user = ""
    with suppress(psutil.Error):  # gone since, or of another container
        process = psutil.Process(pid)
        name = process.name()
        user = process.username()
    return name, user


@cache
def own_user() -> str:
    """Return the user of this process."""
    return psutil.Process().username()
