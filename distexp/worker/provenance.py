"""The provenance columns of a row: Python, torch and git versions, and the peak GPU memory of its process.

Columns that don't apply stay empty: no GPU, no torch, no git, no repository.
"""

import contextlib
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distexp.system.git import ask_git, commit_of

ASK_EVERY_S = 5.0  # how old an answer of git may be
ASKING_SHARE = 0.05  # of the time, at most, in a repository that takes long
_BYTES_PER_MIB = 2**20


def of_folder(folder: Path) -> dict[str, Any]:
    """Return what all tasks of a worker share, as fields of `Provenance`: Python's version, git's commit.

    `git_dirty` says whether files that git knows differ from the commit; new files do not count: results are
    such.
    """
    facts: dict[str, Any] = {"python_version": platform.python_version()}
    if commit := commit_of(folder):
        changes = ask_git(folder, "status", "--porcelain", "--untracked-files=no")
        facts |= {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}
    return facts


class Code:
    """What `of_folder` says of a folder that may get new commits meanwhile.  For one thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask once: what is imported from now on is, at the earliest, of this commit."""
        self._folder, self._clock = folder, clock
        self._due_s = -math.inf
        self._facts: dict[str, Any] = {}
        self._first = self.facts().get("git_commit")

    def facts(self, *, is_imported: bool = False) -> dict[str, Any]:
        """Return the folder's facts of now, at most `ASK_EVERY_S` old.

        Args:
            is_imported: The task runs what was imported since this object was made. If there is another
                commit since, `git_dirty` is True: what ran is perhaps not what that commit holds.
        """
        began_s = self._clock()
        if began_s >= self._due_s:
            self._facts = of_folder(self._folder)
            ended_s = self._clock()
            self._due_s = ended_s + max(ASK_EVERY_S, (ended_s - began_s) / ASKING_SHARE)
        is_stale = is_imported and self._facts.get("git_commit") != self._first
        return self._facts | ({"git_dirty": True} if is_stale else {})


def of_process() -> dict[str, Any]:
    """Return torch's version and torch's peak memory on a GPU, in the task's process at its end.

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
