"""A report of 100,000 rows is made within 20 s, and open in a browser within 3 s.

Beside the making stands a bare loop that reads the same rows with the standard library. Open means: loaded,
the script has run, the table shows its first rows, a chart is drawn.
"""

import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.browser import CHROMIUM, browser
from benchmarks.figures import Figure, at_most
from benchmarks.harness import PROJECT, ROUNDS, folder
from distexp.results.csv_format import Dialect, line_of
from distexp.results.results_file import RESULTS_FILE
from distexp.results.row import row_for
from distexp.sweep.config_files import DEFAULT_CONFIGS
from distexp.sweep.source import Sweep
from distexp.system.gc import set_aside
from distexp.task import Provenance
from distexp.workdir import Workdir

MADE_S, OPEN_S = 20.0, 3.0
CONFIG = f"""
defaults: {{experiment: "mine:run", output_dir: "./results_{{phase}}", epochs: 30, momentum: 0.9}}
seeds: {list(range(100))}
exp1_shape:  # 50,000
  combinations:
    - dataset: [digits, wine, iris, breast_cancer, blobs]
    - width_factor: [1, 2, 4, 8, 16]
    - depth: [1, 2, 3, 4]
    - lr: [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]
exp2_training:  # 50,000
  combinations:
    - dataset: [digits, wine, iris, breast_cancer, blobs]
    - batch_size: [16, 32, 64, 128]
    - lr: [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]
    - weight_decay: [0, 5e-5, 5e-4, 5e-3, 5e-2]
"""


def measure() -> list[Figure]:
    """Return one figure for the making, and one for the opening where there is a Chromium."""
    with folder(CONFIG) as workdir:
        write_rows(workdir)
        made_s, bare_s = zip(*[(_make(workdir), _read_bare(workdir)) for _ in range(ROUNDS)], strict=True)
        figures = [
            Figure(
                "report of 100,000 rows, made", "s", made_s, at_most(MADE_S), "a loop that reads them", bare_s
            )
        ]
        if CHROMIUM:
            opened_s = [_open(workdir.root / "report.html") for _ in range(ROUNDS)]
            figures.append(Figure("report of 100,000 rows, opened", "s", opened_s, at_most(OPEN_S)))
        return figures


def _make(workdir: Workdir) -> float:
    began_s = time.monotonic()
    script = str(PROJECT / "experiment_manager.py")
    words = [sys.executable, script, "report", "--workdir", str(workdir.root)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s


@set_aside()
def write_rows(workdir: Workdir) -> None:
    """Write a row of each task of `CONFIG`."""
    draw = random.Random(1)
    by_folder: dict[str, list[list[str]]] = {}
    for point in Sweep(workdir.root, DEFAULT_CONFIGS).load():
        run = Provenance(
            worker=f"gpu{point.number % 8}", host="ada", device="H100", duration_s=draw.random() * 60
        )
        result = {
            name: draw.random() for name in ("test_acc", "test_loss", "val_acc", "val_loss", "train_loss")
        }
        row = row_for(point.task, {**result, "best_epoch": draw.randint(1, 30)}, run)
        rows = by_folder.setdefault(point.output_dir, [list(row)])
        rows.append(list(row.values()))
    for output_dir, rows in by_folder.items():
        path = workdir.results_folder(output_dir)
        path.mkdir()
        (path / RESULTS_FILE).write_bytes(b"".join(line_of(row, Dialect()) for row in rows))


def _read_bare(workdir: Workdir) -> float:
    began_s = time.monotonic()
    for path in workdir.root.glob(f"results_*/{RESULTS_FILE}"):
        with open(path, newline="", encoding="utf-8") as file:
            list(csv.DictReader(file))
    return time.monotonic() - began_s


def _open(report: Path) -> float:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser(Path(profile)) as page,
    ):
        began_s = time.monotonic()
        page.open(report)
        drawn = "document.querySelector('.plot .main-svg') && document.querySelector('#table tbody tr')"
        look = f"const look = () => {drawn} ? done() : requestAnimationFrame(look); look()"
        page.ask(f"new Promise((done) => {{ {look} }})")
        return time.monotonic() - began_s
