"""`init`: a first sweep that runs at once, to be edited."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from distexp.errors import UserError

CONFIG = """\
# Question: which learning rate finds the slope of a line best, and how much does noise cost?
# Tasks: 18 (3 learning rates x 2 noises x 3 seeds)

defaults:                              # what every phase of this file starts from
  experiment: my_experiment:run        # module:function, found in this folder
  output_dir: "./results_{phase}"      # rows go to final_results.csv in there; {any parameter} may stand here
  steps: 200                           # every other name is a parameter of yours: params["steps"]

seeds: [1, 2, 3]                       # every combination runs once per seed: context.seed

exp1_learning_rate:                    # a phase; add as many as you like, here or in configs/config_exp2.yaml
  combinations:                        # its axes, crossed with each other
    - lr: [0.01, 0.1, 1.0]
    - noise: [0.1, 0.5]
"""
EXPERIMENT = """\
import random


def run(params, context):
    points, slope = random.Random(context.seed), 0.0
    data = [(x / 10, 3 * x / 10 + points.gauss(0, params["noise"])) for x in range(1, 11)]
    for step in range(params["steps"]):  # descend the mean squared error
        slope -= params["lr"] * sum((slope * x - y) * x for x, y in data) / len(data)
        context.report(step + 1, params["steps"], slope=slope)
    return {"slope": slope, "error": abs(slope - 3)}  # numbers, texts, booleans: the columns of the row
"""
FILES = {"configs/config_exp1.yaml": CONFIG, "my_experiment.py": EXPERIMENT}


def main(words: Sequence[str]) -> int:
    """Write the files and say what comes next.

    Raises:
        UserError: One of them is there already, or cannot be written.
    """
    folder: Path = parse(words).workdir
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        found = f"found {', '.join(there)} there already"
        raise UserError(f"{folder}: {found}, expected neither; choose another folder with --workdir")
    for name, text in FILES.items():
        _write(folder / name, text)
        print(f"Wrote {folder / name}")
    script = Path(sys.argv[0])
    option = "" if folder == Path() else f" --workdir {shlex.quote(str(folder))}"
    print("What would run:  ", f"python {script}", f"plan{option}")
    print("Run it:          ", f"python {script}{option}", " (and in another terminal:)")
    print("                 ", f"python {script.with_name('experiment_runner_gpu.py')}{option}")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected a folder to write in") from None


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return where to write."""
    parser = argparse.ArgumentParser(
        prog="experiment_manager.py init",
        description="Write a commented configs/config_exp1.yaml and a my_experiment.py of ten lines that "
        "run at once. Nothing is overwritten.",
        epilog="exit code: 0 done, 2 wrong words or files",
    )
    parser.add_argument("--workdir", type=Path, default=Path(), help="folder to write in (default: .)")
    return parser.parse_args(words)
