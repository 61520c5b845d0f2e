"""What a row says of the software and the card that computed it. Opens nothing.

What is not there is empty: no card, no torch, no git, no repository.
"""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

GIT_S = 10.0  # `git status` of a large repository on a cold disk; longer, and it is not asked
_BYTES_PER_MIB = 2**20


def of_folder(folder: Path) -> dict[str, Any]:
    """Return what all tasks of a worker share, as fields of `Provenance`: Python's version, git's commit.

    `git_dirty` says whether files that git knows differ from the commit; new files do not count: results are
    such.
    """
    facts: dict[str, Any] = {"python_version": platform.python_version()}
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit:
        facts |= {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}
    return facts


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, None where it fails or is not there."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # looking writes nothing
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_S,
            check=False,
        )
        if asked.returncode == 0:
            return asked.stdout.decode(errors="replace").strip()
    return None


def of_process() -> dict[str, Any]:
    """Return what the task of this process leaves to tell: torch's version, torch's most memory on a card.

    In MiB, and as torch's allocator counts it; asked only if the task has imported torch.
    """
    torch: Any = sys.modules.get("torch")
    facts: dict[str, Any] = {"torch_version": str(getattr(torch, "__version__", ""))}
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a memory allocator of the user's that does not count
            peaks = [cuda.max_memory_reserved(index) for index in range(cuda.device_count())]
            facts["peak_gpu_mib"] = round(max(peaks) / _BYTES_PER_MIB)
    return facts
