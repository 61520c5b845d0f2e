"""The two pictures of README, from a real run: `python -m benchmarks.pictures` writes them into docs/.

live_view.svg is the live view in mid-sweep, live_page.png the live page a little later in Chromium.
"""

import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.browser import CHROMIUM, Page, browser
from benchmarks.web import page_of
from distexp.cli.render import render
from distexp.manager.manager import ExperimentManager
from distexp.workdir import Workdir

PROJECT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 80, 12  # of the view, in cells: letters that are read on a small screen, too
CONFIG = """
defaults:
  experiment: distexp.experiments.classification:run
  output_dir: "./results_{dataset}"
  model: mlp
  depth: 1
  width_factor: 4
  weight_decay: 5e-4
  batch_size: 32
  epochs: 60
seeds: [1, 2, 3, 4, 5, 6]
exp1_optimizer:
  defaults: {dataset: digits}
  combinations:
    - optimizer: [sgd, adam]
    - lr: [0.0003, 0.001, 0.003, 0.01, 0.03]
"""
# A heartbeat every half second: these trainings are too short for one every 15 s.
WORKER = """
import sys
from distexp.worker import connection
connection.HEARTBEAT_S = 0.5
from distexp.cli.main import main
sys.exit(main(verb="worker"))
"""


def main() -> int:
    """Write both pictures and return 0; 1 without Chromium."""
    if CHROMIUM is None:
        print("needs Chromium (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "optimizers")
        (root / "configs").mkdir(parents=True)
        (root / "configs" / "config_exp1.yaml").write_text(CONFIG, encoding="utf-8")
        with page_of(Workdir(root)) as address, browser(Path(name, "profile")) as page:
            run(root, lambda: photograph(page, address))
    return 0


def run(root: Path, photograph_page: Callable[[], None]) -> None:
    """Run the sweep with two workers, and make both pictures once half of it is done."""
    manager = ExperimentManager(port=0, workdir=root)
    manager.start()
    runner = [sys.executable, "-c", WORKER, "--device", "cpu", "--workdir", str(root)]
    workers = [subprocess.Popen(runner, cwd=PROJECT, stdout=subprocess.DEVNULL) for _ in range(2)]
    is_drawn = False
    while any(worker.poll() is None for worker in workers):
        view = manager.view()
        if view is not None and not is_drawn and view.status.complete * 2 >= view.status.total:
            is_drawn = len(view.workers) == len(workers) and all(each.metrics for each in view.workers)
            console = Console(record=True, width=WIDTH, file=io.StringIO())
            console.print(render(view, WIDTH, HEIGHT))
            console.print(" ")  # room below the last line, where some fonts have their underscores
            picture = console.export_svg(title="distexp run")
            picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)
            (PROJECT / "docs" / "live_view.svg").write_text(picture, encoding="utf-8")
            photograph_page()
        time.sleep(0.05)
    manager.stop()


def photograph(page: Page, address: str) -> None:
    """Write the head of the live page as a picture."""
    page.open(address, 1280, 1000)
    drawn = "document.querySelector('#tasks-table td') && document.querySelector('#curve-chart path')"
    look = f"const look = () => {drawn} ? done() : requestAnimationFrame(look); look()"
    page.ask(f"new Promise((done) => {{ {look} }})")
    page.ask("document.querySelector('header .quiet').textContent = '/home/ada/optimizers'")
    page.picture(PROJECT / "docs" / "live_page.png")


if __name__ == "__main__":
    sys.exit(main())
