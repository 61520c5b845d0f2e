"""Make or complete the virtual environment `.venv`: `python -m distexp.launcher.bootstrap [--dev] [--cuda]`.

Runs before anything is installed, so standard library only. Both launchers start it with
`.venv`'s own Python, or with the first Python >= 3.11 they find while there is none.
"""

import hashlib
import math
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from distexp.errors import UserError
from distexp.launcher import cuda_build
from distexp.system import locks
from distexp.system.long_work import LongWork

PROJECT = Path(__file__).resolve().parents[2]
RUN_REQUIREMENTS = "requirements.txt"
DEV_REQUIREMENTS = "requirements-dev.txt"
LINE_CELLS = 70  # of pip's last line: a narrow terminal
LOOK_S = 0.5  # between two looks at pip's log
LOG_TAIL_LINES = 20  # of pip's log, shown when it fails: the cause is in its last lines


def main(words: Sequence[str]) -> int:
    """Make `.venv` complete and return the exit code.

    With `--dev`, also for the checks; with `--cuda`, on Windows, with the CUDA build of torch unasked.
    """
    wanted = [RUN_REQUIREMENTS, DEV_REQUIREMENTS] if "--dev" in words else [RUN_REQUIREMENTS]
    try:
        make_environment(PROJECT, wanted)
        if sys.platform == "win32":
            offer_cuda(PROJECT / ".venv", is_agreed="--cuda" in words)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make_environment(project: Path, wanted: Sequence[str]) -> None:
    """Return when `.venv` holds what the files named in `wanted` ask for; in no time when it already does.

    Safe to call from two processes at once: one installs, the other waits for it.

    Raises:
        UserError: Python's `venv` or pip failed; the message names the log and holds its end.
    """
    venv = project / ".venv"
    if not missing(venv, project, wanted):
        return
    with ExitStack() as held:
        with suppress(
            OSError
        ):  # a network drive without locks: nobody is kept out, and pip may be told twice
            held.enter_context(locks.acquire(project / ".experiment_manager" / "environment.lock", math.inf))
        if not _answers(venv_python(venv)):
            _create(venv)
        for name in missing(venv, project, wanted):
            _install(venv, project / name)


def offer_cuda(venv: Path, *, is_agreed: bool) -> None:
    """Offer the CUDA build of torch where it would work: see `cuda_build`."""

    def install(words: Sequence[str]) -> int:
        log = venv / "install-cuda.log"
        _say(f"Installing the CUDA build of torch: once, some minutes (progress: {log})")
        with log.open("w", encoding="utf-8") as output:
            return _watched(pip_install(venv_python(venv), *words), output, log)

    def ask(finding: str) -> bool | None:
        if is_agreed:
            return True
        if not sys.stdin.isatty():
            print(f"{finding}: launch_distributed.bat --cuda VERB installs the CUDA build", file=sys.stderr)
            return None
        return input(f"{finding}. Install the CUDA build (some GB)? [y/N] ").strip().lower() in ("y", "yes")

    cuda_build.offer(venv, venv_python(venv), install, ask)


def missing(venv: Path, project: Path, wanted: Sequence[str]) -> list[str]:
    """Return the files of `wanted` that are not installed as they now read; all of them without a venv."""
    running_there = Path(sys.prefix).resolve() == venv
    if not running_there and not _answers(venv_python(venv)):
        return list(wanted)
    return [name for name in wanted if _stamp(venv, name) != checksum(project / name)]


def venv_python(venv: Path) -> Path:
    """Return where a virtual environment keeps its Python on this system."""
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def pip_install(python: Path, *words: str) -> list[str]:
    """Return the command that installs what the words say."""
    return [str(python), "-m", "pip", "install", "--disable-pip-version-check", *words]


def checksum(requirements: Path) -> str:
    """Return what the stamp of an installed requirements file holds."""
    return hashlib.sha256(requirements.read_bytes()).hexdigest()


def _stamp_path(venv: Path, name: str) -> Path:
    return venv / f"installed-{name}"


def _stamp(venv: Path, name: str) -> str:
    try:
        return _stamp_path(venv, name).read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def _answers(python: Path, *words: str) -> bool:
    """Return whether this Python can do that, or start at all: a venv outlives the Python that made it."""
    try:
        return (
            subprocess.run([python, *(words or ("-c", ""))], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def _create(venv: Path) -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    _say(f"Making .venv with Python {version} ({sys.executable})")
    command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)]
    made = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if made.returncode != 0:
        raise UserError(f"{venv} cannot be made: {_last_line(made.stdout + made.stderr)}")


def _install(venv: Path, requirements: Path) -> None:
    """Install one file; pip itself is put in first, since an interrupted start may have left none."""
    log = venv / f"install-{requirements.stem}.log"
    _say(f"Installing {requirements.name} into .venv: once, some minutes (progress: {log})")
    python = str(venv_python(venv))
    with log.open("w", encoding="utf-8") as output:
        has_pip = _answers(Path(python), "-m", "pip", "--version")
        if not has_pip and _watched([python, "-m", "ensurepip", "--default-pip"], output, log) != 0:
            raise UserError(
                f"{venv}: {sys.executable} has neither pip nor its module ensurepip; install them "
                "(on Debian and Ubuntu: apt-get install python3-venv)"
            )
        code = _watched(pip_install(venv_python(venv), "-r", str(requirements)), output, log)
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        print("\n".join(tail), file=sys.stderr)
        raise UserError(f"{requirements} cannot be installed (pip: exit code {code}), see {log}")
    _stamp_path(venv, requirements.name).write_text(checksum(requirements), encoding="ascii")


def _watched(command: Sequence[str], output: IO[str], log: Path) -> int:
    """Run a command that takes minutes, and tell what it does now and for how long: see `LongWork`."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    with LongWork() as work:
        while True:
            work.begin(_last_line(log.read_text(encoding="utf-8", errors="replace"), "starting")[:LINE_CELLS])
            with suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_S)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # what a verb prints on standard output may be read by a script


def _last_line(text: str, default: str = "no message") -> str:
    return (text.strip().splitlines() or [default])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
