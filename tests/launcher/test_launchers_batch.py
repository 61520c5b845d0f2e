"""launch_distributed.bat under wine, with a stand-in python.exe that prints the words it was given."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from distexp.launcher.main import PROJECT

BATCH = "launch_distributed.bat"
WINE = shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine")  # Debian keeps it off the PATH
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")
PATIENCE_S = 120.0  # a call takes 2 s; a busy machine needs ten times that
PYTHON = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words) {
    int asks_version = count > 1 && strcmp(words[1], "-c") == 0;
    int launches = count > 1 && strstr(words[1], "experiment_manager.py") != 0;
    const char *code = getenv(asks_version ? "IS_OLD" : launches ? "LAUNCH_CODE" : "INSTALL_CODE");
    for (int i = 1; i < count && !asks_version; i++) printf(i + 1 < count ? "[%s]" : "[%s]\n", words[i]);
    return code ? atoi(code) : 0;
}
"""
SETTINGS = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WINE is None, reason="needs wine64 (Debian package wine64)"),
    pytest.mark.skipif(COMPILER is None, reason="needs mingw (Debian package gcc-mingw-w64-x86-64-win32)"),
    pytest.mark.timeout(300),
]


def inherited() -> dict[str, str]:
    """Return the environment of every wine process; the user's own DISTEXP_PYTHON has no business there."""
    return {name: value for name, value in os.environ.items() if name != "DISTEXP_PYTHON"} | SETTINGS


@dataclass(frozen=True)
class Windows:
    """A folder with the .bat, its name full of what cmd treats specially, and a stand-in python.exe."""

    root: Path
    prefix: Path

    @property
    def python(self) -> Path:
        """The stand-in, in a folder of its own."""
        return self.root.parent / "bin" / "python.exe"

    def call(
        self, *words: str, typed: str = "", cwd: Path | None = None, **variables: str
    ) -> tuple[int, str]:
        """Return exit code and output (line ends as here) of a command line of cmd."""
        assert WINE is not None
        done = subprocess.run(
            [WINE, "cmd", "/c", *words],
            cwd=cwd or self.root,
            env={**inherited(), "WINEPREFIX": str(self.prefix), **variables},
            input=typed.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout.decode().replace("\r\n", "\n")

    def add_environment(self) -> None:
        """Put the stand-in where a complete .venv has its Python."""
        folder = self.root / ".venv" / "Scripts"
        folder.mkdir(parents=True)
        shutil.copy2(self.python, folder)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a compiled stand-in and a wine folder that is ready."""
    assert WINE is not None and COMPILER is not None
    folder = tmp_path_factory.mktemp("machine")
    (folder / "python.c").write_text(PYTHON, encoding="ascii")
    subprocess.run([COMPILER, "-o", folder / "python.exe", folder / "python.c"], check=True)
    environment = {**inherited(), "WINEPREFIX": str(folder / "wine")}
    subprocess.run([WINE, "wineboot", "-i"], env=environment, capture_output=True, check=True)
    return folder / "python.exe", folder / "wine"


@pytest.fixture
def windows(machine: tuple[Path, Path], tmp_path: Path) -> Windows:
    """Return a fresh folder without an environment."""
    python, prefix = machine
    root = tmp_path / "a (b) & c"
    root.mkdir()
    shutil.copy2(PROJECT / BATCH, root)
    (tmp_path / "bin").mkdir()
    shutil.copy2(python, tmp_path / "bin")
    return Windows(root, prefix)


def on_windows(path: Path) -> str:
    """Return the path as wine shows it."""
    return "Z:" + str(path).replace("/", "\\")


def script(windows: Windows) -> str:
    """Return the path of the script that the .bat starts."""
    return on_windows(windows.root / "experiment_manager.py")


def test_words_and_exit_code_pass_through_from_a_folder_of_any_name(windows: Windows) -> None:
    python = on_windows(windows.python)
    told = windows.call(BATCH, "run", "--port", "5001", "x & y", DISTEXP_PYTHON=python, LAUNCH_CODE="7")
    assert told == (7, f"[{script(windows)}][run][--port][5001][x & y]\n")


def test_it_works_from_another_folder(windows: Windows) -> None:
    caller = windows.root.parent / "caller.bat"
    caller.write_text(
        f'@call "{on_windows(windows.root / BATCH)}" status\n', encoding="ascii", newline="\r\n"
    )
    windows.add_environment()
    told = windows.call("caller.bat", cwd=caller.parent)[1]
    assert told == f"[-m][distexp.launcher.bootstrap]\n[{script(windows)}][status]\n"


def test_the_environment_is_made_with_a_python_of_the_path(windows: Windows) -> None:
    path = on_windows(windows.python.parent)
    code, output = windows.call(BATCH, "test", "-k", "x", WINEPATH=path, INSTALL_CODE="2")
    assert code != 0  # wine 8 turns any exit code behind `call` into 1
    assert output == "[-m][distexp.launcher.bootstrap][--dev]\n"


def test_cuda_before_the_verb_is_for_the_environment_alone(windows: Windows) -> None:
    path = on_windows(windows.python.parent)
    windows.add_environment()
    output = windows.call(BATCH, "--cuda", "status", "--workdir", "x & y", WINEPATH=path)[1]
    assert (
        output == f"[-m][distexp.launcher.bootstrap][--cuda]\n[{script(windows)}][status][--workdir][x & y]\n"
    )


def test_without_a_recent_python_it_says_what_it_found(windows: Windows) -> None:
    windows.add_environment()
    code, output = windows.call(BATCH, "run", IS_OLD="1")
    assert (code, output) == (
        2,
        "launch_distributed.bat: needs Python 3.11 or later (here: no Python). "
        "Install one, or set DISTEXP_PYTHON to its path\n",
    )


@pytest.mark.parametrize(
    ("typed", "words"), [("1", "[run]"), ("2", "[manager]"), ("3", "[workers][1]"), ("4", "[report]")]
)
def test_a_double_click_asks_what_to_start_and_keeps_the_window(
    windows: Windows, typed: str, words: str
) -> None:
    python = on_windows(windows.python)
    code, output = windows.call(BATCH, typed=f"{typed}\r\n", DISTEXP_PYTHON=python, LAUNCH_CODE="7")
    assert code == 7
    assert f"[{script(windows)}]{words}\n" in output
    assert output.endswith("Press any key to continue... ")


def test_another_choice_is_refused(windows: Windows) -> None:
    code, output = windows.call(BATCH, typed="9\r\n")
    assert code == 2
    assert "launch_distributed.bat: choose 1, 2, 3 or 4\n" in output


def test_help_needs_no_python(windows: Windows) -> None:
    code, output = windows.call(BATCH, "help")
    assert code == 0
    assert output.startswith("Usage: launch_distributed.bat VERB")


def test_the_file_has_the_line_ends_that_cmd_needs() -> None:
    text = (PROJECT / BATCH).read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n")
