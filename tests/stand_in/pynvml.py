"""A stand-in for NVML's Python module: what `distexp.gpu.devices` uses, on a made-up machine.

Put this folder on the PYTHONPATH of a worker, and the path of a scenario file into FAKE_NVML_SCENARIO.
The file is read again at every call, so a test can change the machine under a running worker. `machine.py`
beside this file writes such files. A scenario is one JSON object::

    {"init": "LibraryNotFound",            # optional: nvmlInit raises NVMLError_LibraryNotFound
     "gpus": [{
        "uuid": "GPU-0000", "name": "NVIDIA A100",
        "free_mib": 20000,                 # or a list: one per read in this process, the last one stays;
                                           # the name of an error, such as "GpuIsLost", is raised
        "total_mib": 40960,
        "utilization_pct": 30,             # null: NVMLError_NotSupported
        "processes": [{"pid": 1, "used_mib": 100}],        # null: NVMLError_NotSupported
        "graphics": [], "mps": [],         # the same of those that draw, and of clients of CUDA MPS
        "error": "GpuIsLost",              # optional: every question about the GPU raises this
        "mig": [{...a GPU...}, null]      # optional: MIG mode is on, with these instances; null is a gap
     }]}

Processes may take memory over time, too, see `gpu_memory.py`: that is no longer free, and they are listed.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

NVML_DEVICE_MIG_DISABLE = 0
NVML_DEVICE_MIG_ENABLE = 1
NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
NVML_ERROR_UNKNOWN = 999

MIB = 1024 * 1024


class NVMLError(Exception):
    """Base of NVML's errors; the real one turns its code into the subclass and the text in the same way."""

    value = NVML_ERROR_UNKNOWN
    text = "Unknown Error"

    def __str__(self):
        return self.text


def _error_class(name, value, text):
    return type(f"NVMLError_{name}", (NVMLError,), {"value": value, "text": text})


NVMLError_Uninitialized = _error_class("Uninitialized", NVML_ERROR_UNINITIALIZED, "Uninitialized")
NVMLError_InvalidArgument = _error_class("InvalidArgument", NVML_ERROR_INVALID_ARGUMENT, "Invalid Argument")
NVMLError_NotSupported = _error_class("NotSupported", NVML_ERROR_NOT_SUPPORTED, "Not Supported")
NVMLError_NoPermission = _error_class("NoPermission", NVML_ERROR_NO_PERMISSION, "Insufficient Permissions")
NVMLError_NotFound = _error_class("NotFound", NVML_ERROR_NOT_FOUND, "Not Found")
NVMLError_DriverNotLoaded = _error_class("DriverNotLoaded", NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded")
NVMLError_LibraryNotFound = _error_class(
    "LibraryNotFound", NVML_ERROR_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found"
)
NVMLError_FunctionNotFound = _error_class(
    "FunctionNotFound", NVML_ERROR_FUNCTION_NOT_FOUND, "Function Not Found"
)
NVMLError_GpuIsLost = _error_class("GpuIsLost", NVML_ERROR_GPU_IS_LOST, "GPU is lost")
NVMLError_LibRmVersionMismatch = _error_class(
    "LibRmVersionMismatch",
    NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    "RM has detected an NVML/RM version mismatch.",
)
NVMLError_Unknown = _error_class("Unknown", NVML_ERROR_UNKNOWN, "Unknown Error")

_open: list = []  # an item per nvmlInit that still lacks its nvmlShutdown
_reads: Counter = Counter()  # (scenario file, handle) -> memory reads so far


def _fail(name):
    raise getattr(sys.modules[__name__], f"NVMLError_{name}")


def _scenario():
    if not _open:
        raise NVMLError_Uninitialized
    return json.loads(Path(os.environ["FAKE_NVML_SCENARIO"]).read_text())


def _device(handle):
    """Return the part of the scenario that a handle, ("gpu",) or ("gpu", "mig") indices, stands for."""
    gpus = _scenario()["gpus"]
    if handle[0] >= len(gpus):  # the scenario has changed since the handle was given
        _fail("GpuIsLost")
    gpu = gpus[handle[0]]
    device = gpu if len(handle) == 1 else gpu["mig"][handle[1]]
    for part in (gpu, device):
        if part.get("error"):
            _fail(part["error"])
    return device


def open_count():
    """Return how many nvmlInit calls lack their nvmlShutdown; not part of NVML."""
    return len(_open)


def held(uuid):
    """Return MiB by pid, of the processes that have taken memory of this GPU and run; not part of NVML."""
    folder = Path(f"{os.environ['FAKE_NVML_SCENARIO']}.held", uuid)
    files = [path for path in folder.glob("*") if path.name.isdecimal() and _runs(path.name)]
    return {int(path.name): int(path.read_text()) for path in files}


def _runs(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def nvmlInit():
    _open.append("nvmlInit")
    failure = _scenario().get("init")
    if failure:
        _open.pop()
        _fail(failure)


def nvmlShutdown():
    _scenario()
    _open.pop()


def nvmlDeviceGetCount():
    return len(_scenario()["gpus"])


def nvmlDeviceGetHandleByIndex(index):
    if index not in range(nvmlDeviceGetCount()):
        raise NVMLError_InvalidArgument
    _device((index,))
    return (index,)


def nvmlDeviceGetHandleByUUID(uuid):
    for index, gpu in enumerate(_scenario()["gpus"]):
        for mig, device in [(None, gpu), *enumerate(gpu.get("mig") or [])]:
            if device and device["uuid"] == uuid:
                return (index,) if mig is None else (index, mig)
    raise NVMLError_NotFound


def nvmlDeviceGetUUID(handle):
    return _device(handle)["uuid"]


def nvmlDeviceGetName(handle):
    return _device(handle)["name"]


def nvmlDeviceGetMemoryInfo(handle, version=None):
    device = _device(handle)
    free = device["free_mib"]
    if isinstance(free, list):
        key = (os.environ["FAKE_NVML_SCENARIO"], handle)
        free = free[min(_reads[key], len(free) - 1)]
        _reads[key] += 1
    if isinstance(free, str):
        _fail(free)
    free -= sum(held(device["uuid"]).values())
    total = device["total_mib"]
    return SimpleNamespace(total=total * MIB, free=free * MIB, used=(total - free) * MIB)


def nvmlDeviceGetUtilizationRates(handle):
    percent = _device(handle).get("utilization_pct")
    if percent is None:
        raise NVMLError_NotSupported
    return SimpleNamespace(gpu=percent, memory=0)


def nvmlDeviceGetComputeRunningProcesses(handle):
    device = _device(handle)
    taken = [{"pid": pid, "used_mib": mib} for pid, mib in held(device["uuid"]).items()]
    listed = device.get("processes", [])
    return _processes(listed if listed is None else [*listed, *taken])


def nvmlDeviceGetMPSComputeRunningProcesses(handle):
    return _processes(_device(handle).get("mps", []))


def nvmlDeviceGetGraphicsRunningProcesses(handle):
    return _processes(_device(handle).get("graphics", []))


def _processes(processes):
    if processes is None:
        raise NVMLError_NotSupported
    return [
        SimpleNamespace(
            pid=process["pid"],
            usedGpuMemory=None if process.get("used_mib") is None else process["used_mib"] * MIB,
        )
        for process in processes
    ]


def nvmlDeviceGetMigMode(device):
    if "mig" not in _device(device):
        raise NVMLError_NotSupported
    return [NVML_DEVICE_MIG_ENABLE, NVML_DEVICE_MIG_ENABLE]


def nvmlDeviceGetMaxMigDeviceCount(device):
    return max(7, len(_device(device)["mig"]))


def nvmlDeviceGetMigDeviceHandleByIndex(device, index):
    instances = _device(device)["mig"]
    if index >= len(instances) or instances[index] is None:
        raise NVMLError_NotFound
    return (*device, index)
