"""Other people's programs, each measured by a script that runs on a Python of their own.

`.venv-rivals` in the project's folder holds what `requirements.txt` pins; nothing of ours lies in it, and
nothing of ours changes when it is made or deleted. All that a script starts listens on loopback alone.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import PROJECT, environment
from distexp.system.process import ProcessMark, end_tree

FOLDER = PROJECT / ".venv-rivals"
PYTHON = FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
REQUIREMENTS = PROJECT / "benchmarks" / "requirements.txt"
PATIENCE_S = 120.0  # for one run of a script
LIST = (
    "import importlib.metadata as m, json\n"
    "print(json.dumps({each.name.lower(): each.version for each in m.distributions()}))"
)


@dataclass(frozen=True)
class Rival:
    """One program to stand beside, as far as it is installed."""

    title: str  # in the table, before its version
    script: str  # below benchmarks/rivals/: prints {"value": number} on its last line
    package: str = ""  # of Python
    program: str = ""  # of Debian

    def name(self) -> str:
        """Return title and version, or that it is not installed."""
        if not self.is_installed():
            return f"{self.title}: not installed"
        return f"{self.title} {versions()[self.package]}" if self.package else self.title

    def is_installed(self) -> bool:
        """Return whether it can be measured."""
        has_program = not self.program or shutil.which(self.program) is not None
        return has_program and (not self.package or self.package in versions())

    def run(self, *words: str, with_ours: bool = False, patience_s: float = PATIENCE_S) -> list[float]:
        """Return what one run of the script has measured; nothing if it is not there, or failed (it says so).

        Args:
            words: For the script.
            with_ours: Let it import what our own Python has (torch), too.
            patience_s: For its end.
        """
        if not self.is_installed():
            return []
        python = str(PYTHON) if self.package else sys.executable
        path = [str(PROJECT), *([sysconfig.get_path("purelib")] if with_ours else [])]
        variables = environment(PYTHONPATH=os.pathsep.join(path), PYTHONWARNINGS="ignore")
        variables["PATH"] = f"{PYTHON.parent}{os.pathsep}{variables.get('PATH', '')}"
        command = [python, str(Path(__file__).parent / self.script), *words]
        process = subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what `end_tree` looks for
        )
        root = ProcessMark.of(process.pid)
        try:
            told, problems = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            told, problems = "", f"no end within {patience_s:g} s"
        finally:
            if root:
                end_tree(root)  # with servers and workers that it has left, or that Ctrl+C cut off
            process.wait()
        if process.returncode:
            last = (problems or told or "said nothing").strip().splitlines()[-1]
            print(f"{self.script} failed: {last}", file=sys.stderr)
            return []
        return [float(json.loads(told.splitlines()[-1])["value"])]


@functools.cache
def versions() -> dict[str, str]:
    """Return what the rivals' Python has, by name in small letters; nothing where there is none."""
    if not PYTHON.exists():
        return {}
    listed = subprocess.run([str(PYTHON), "-c", LIST], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(listed.stdout)
    return found
