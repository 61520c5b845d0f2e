"""The provenance columns of a row: Python, torch and code versions, and the peak GPU memory of its process.

Columns that don't apply stay empty: no GPU, no torch, no git, no repository.
"""

import contextlib
import platform
import sys
from typing import Any

from distexp.system.code import CodeState

_BYTES_PER_MIB = 2**20


def of_code(state: CodeState) -> dict[str, Any]:
    """Return Python's version and which code the task has imported, as fields of `Provenance`."""
    return {
        "python_version": platform.python_version(),
        "git_commit": state.commit,
        "git_dirty": state.is_dirty,
        "code": state.code,
    }


def of_process() -> dict[str, Any]:
    """Return torch's version and torch's peak memory on a GPU, in the task's process at its end.

    In MiB, and as torch's allocator counts it; asked only if the task has imported torch.
    """
    torch: Any = sys.modules.get("torch")
    fields: dict[str, Any] = {"torch_version": str(getattr(torch, "__version__", ""))}
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a memory allocator of the user's that does not count
            peaks = [cuda.max_memory_reserved(index) for index in range(cuda.device_count())]
            fields["peak_gpu_mib"] = round(max(peaks) / _BYTES_PER_MIB)
    return fields
