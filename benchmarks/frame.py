"""`load_results` of 100,000 rows beside a bare `pandas.read_csv`, and what `code` costs a task."""

import subprocess
import time
from pathlib import Path

import pandas as pd

from benchmarks.figures import Figure, at_most, times_at_most
from benchmarks.harness import ROUNDS, folder
from benchmarks.html_report import CONFIG, write_rows
from distexp.reporting.frame import load_results
from distexp.results.results_file import RESULTS_FILE
from distexp.system.code import FolderCode

FILES = 1000  # of the folder whose code is looked at


def measure() -> list[Figure]:
    """Return one figure for the loading, and two for a look at the code."""
    with folder(CONFIG) as workdir:
        write_rows(workdir)
        ours, bare = zip(*[(_load(workdir.root), _read(workdir.root)) for _ in range(ROUNDS)], strict=True)
        same, edited = _look_at_code(workdir.root / "code")
    return [
        Figure("load_results, 100,000 rows", "s", ours, times_at_most(3), "bare pandas.read_csv", bare),
        Figure("code of 1,000 files, unchanged", "ms", same, at_most(20)),
        Figure("code of 1,000 files, one edited", "ms", edited),
    ]


def _load(root: Path) -> float:
    began_s = time.monotonic()
    load_results(root)
    return time.monotonic() - began_s


def _read(root: Path) -> float:
    began_s = time.monotonic()
    pd.concat([pd.read_csv(path) for path in root.glob(f"results_*/{RESULTS_FILE}")])
    return time.monotonic() - began_s


def _look_at_code(root: Path) -> tuple[list[float], list[float]]:
    root.mkdir()
    for number in range(FILES):
        (root / f"module_{number}.py").write_text(f"value = {number}\n")
    for words in (("init", "--quiet"), ("add", ".")):
        subprocess.run(["git", *words], cwd=root, check=True)
    code, same, edited = FolderCode(root), list[float](), list[float]()
    code.now()
    for turn in range(ROUNDS):
        same.append(_look(code))
        (root / "module_0.py").write_text(f"value = -{turn}\n")
        edited.append(_look(code))
    return same, edited


def _look(code: FolderCode) -> float:
    began_s = time.monotonic()
    code.now()
    return 1000 * (time.monotonic() - began_s)
