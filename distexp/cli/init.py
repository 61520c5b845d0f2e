"""`init`: a first sweep that runs at once, to be edited."""

import shlex
from pathlib import Path

import click

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


@click.command()
@click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="Folder to write in.",
)
def main(workdir: Path) -> int:
    """Write a commented configs/config_exp1.yaml and a my_experiment.py of ten lines that run at once.

    Nothing is overwritten.
    """
    there = [name for name in FILES if (workdir / name).exists()]
    if there:
        is_there = "is there already" if len(there) == 1 else "are there already"
        raise UserError(f"{workdir}: {' and '.join(there)} {is_there}; choose another folder with --workdir")
    for name, text in FILES.items():
        _write(workdir / name, text)
        print(f"Wrote {workdir / name}")
    option = "" if workdir == Path() else f" --workdir {shlex.quote(str(workdir))}"
    command = click.get_current_context().find_root().info_name
    print(f"What would run:   {command} plan{option}")
    print(f"Run it:           {command} run{option}")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; choose another --workdir") from None
