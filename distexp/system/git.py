"""Ask git about a folder."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from distexp.errors import GitTimeout

GIT_S = 10.0  # `git status` of a large repository on a cold disk


def commit_of(folder: Path) -> str:
    """Return git's commit of the folder; empty where there is none, or git takes too long."""
    with suppress(GitTimeout):
        return ask_git(folder, "rev-parse", "HEAD") or ""
    return ""


def ask_git(folder: Path, *words: str, given: str = "", limit_s: float | None = None) -> str | None:
    """Return what git prints, None where it fails or is not there.

    Args:
        given: Its standard input.
        limit_s: How long it may take; None: `GIT_S`.

    Raises:
        GitTimeout: It has not answered by then.
    """
    limit_s = GIT_S if limit_s is None else limit_s
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # looking writes nothing
            input=given.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitTimeout(
            f"{folder}: `git {words[0]}` has not answered for {limit_s:g} s; see whether it is quick there"
        ) from None
    except OSError:
        return None
    return asked.stdout.decode(errors="surrogateescape").strip() if asked.returncode == 0 else None
