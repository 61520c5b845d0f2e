"""On Windows PyPI's torch computes on the CPU alone: offer the CUDA build from PyTorch's own index.

Standard library alone, since `bootstrap` runs before anything is installed.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cu{}{}"
# Of CUDA, with builds of one torch or another. A driver runs older ones, too.
BUILDS = ((12, 6), (12, 8), (12, 9), (13, 0), (13, 2))
DECLINED = "cuda-declined"  # in .venv, once the user wants none
ASK_S = 30.0  # for a driver to wake its GPUs
VERSION = "import importlib.metadata as found; print(found.version('torch'))"


def indexes_for(told: str) -> list[str]:
    """Return the indexes for the driver that `nvidia-smi` tells of, the newest first; none for an old one."""
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", told)
    runs = (int(found[1]), int(found[2])) if found else BUILDS[0]
    return [INDEX.format(*build) for build in reversed(BUILDS) if build <= runs]


def offer(
    venv: Path, python: Path, install: Callable[[Sequence[str]], int], ask: Callable[[str], bool | None]
) -> None:
    """Install the CUDA build of torch if there is a GPU for it, torch is another build, and the user agrees.

    Args:
        venv: Remembers a refusal.
        python: Of that environment.
        install: Runs pip with these words and returns its exit code.
        ask: Returns the answer to a question; None where nobody can be asked: then it is only said.
    """
    if (venv / DECLINED).exists():
        return
    version = _run([str(python), "-c", VERSION])
    driver = _run(["nvidia-smi"]) if version and "+cu" not in version else None
    indexes = indexes_for(driver) if driver else []
    if not indexes:
        return
    answer = ask("nvidia-smi sees a GPU, but PyPI's torch for Windows computes on the CPU alone")
    if answer:
        wanted = f"torch=={version.partition('+')[0]}"
        for index in indexes:  # not each holds this version of torch
            code = install(["--force-reinstall", "--no-deps", wanted, "--index-url", index])
            told = "installed" if code == 0 else f"not installed (exit code {code})"
            print(f"{wanted} from {index}: {told}", file=sys.stderr)
            if code == 0:
                return
    elif answer is False:
        (venv / DECLINED).touch()


def _run(command: Sequence[str]) -> str:
    """Return what a program says; nothing where it does not work."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""
