"""Ask git for the commit of a folder."""

import contextlib
import os
import subprocess
from pathlib import Path

GIT_S = 10.0  # `git status` of a large repository on a cold disk; longer, and it is not asked


def commit_of(folder: Path) -> str:
    """Return git's commit of the folder; empty where there is none."""
    return ask_git(folder, "rev-parse", "HEAD") or ""


def ask_git(folder: Path, *words: str, given: str = "") -> str | None:
    """Return what git prints, None where it fails or is not there; `given` is its standard input."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # looking writes nothing
            input=given.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=GIT_S,
            check=False,
        )
        if asked.returncode == 0:
            return asked.stdout.decode(errors="surrogateescape").strip()
    return None
