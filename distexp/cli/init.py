"""`init`: a first sweep that runs at once, to be edited; or one for a script that is there."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from distexp.errors import ConfigError, UserError
from distexp.sweep.config import parse_config
from distexp.text import one_line

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
COMMAND_CONFIG = """\
defaults:
  command: {command}
  output_dir: "./results_{{phase}}"      # rows go to final_results.csv in there
{seeds}
exp1:
  combinations:
{axes}"""
CONFIG_FILE = "configs/config_exp1.yaml"
FILES = {CONFIG_FILE: CONFIG, "my_experiment.py": EXPERIMENT}


class _Init(click.Command):
    """Tells of the flags of a script that stand outside of the quotes of `--command`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        has_command = any(arg.startswith("--command") for arg in args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if has_command and not get_close_matches(error.option_name, self._flags(), cutoff=0.7):
                like = "--command 'python train.py --lr {lr}'"
                told = f"{error.option_name}: put the whole command into quotes, such as {like}"
                raise click.UsageError(told, ctx) from None
            raise

    def _flags(self) -> list[str]:
        return [flag for parameter in self.params for flag in parameter.opts]


@click.command(cls=_Init)
@click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="Folder to write in.",
)
@click.option("--command", metavar="CMD", help="What runs one task, such as 'python train.py --lr {lr}'.")
@click.argument("axes", nargs=-1, metavar="[NAME=VALUE,VALUE...]...")
def main(workdir: Path, command: str | None, axes: tuple[str, ...]) -> int:
    """Write a commented configs/config_exp1.yaml and a my_experiment.py of ten lines that run at once.

    With --command, a config for a script of yours: `init --command "python train.py --lr {lr} --seed {seed}"
    lr=0.1,0.01 seeds=1,2,3`. Nothing is overwritten.
    """
    if axes and command is None:
        raise click.UsageError(
            f"{axes[0]}: is for --command, such as --command 'python train.py --lr {{lr}}'",
            click.get_current_context(),
        )
    files = FILES if command is None else {CONFIG_FILE: config_of(command, axes)}
    there = [str(workdir / name) for name in files if os.path.exists(workdir / name)]
    if there:
        is_there = "is there already" if len(there) == 1 else "are there already"
        raise UserError(f"{' and '.join(there)} {is_there}; choose another folder with --workdir")
    for name, text in files.items():
        _write(workdir / name, text)
        print(f"Wrote {workdir / name}")
    option = "" if workdir == Path() else f" --workdir {shlex.quote(str(workdir))}"
    typed = click.get_current_context().find_root().info_name
    print(f"What would run:   {typed} plan{option}")
    print(f"Run it:           {typed} run{option}")
    return 0


def config_of(command: str, axes: Sequence[str]) -> str:
    """Return a config of one phase that runs the command for each combination of the values.

    Raises:
        UserError: It would be no config; says why, and which of the words is at fault.
    """
    words: dict[str, str] = {}  # by the lines of the config that they make
    given: dict[str, str] = {}  # what the words set -> the name in them
    for axis in axes:
        name, sign, texts = axis.partition("=")
        name = name.strip()
        if not sign or not name:
            raise UserError(f"{axis}: must be NAME=VALUE,VALUE, such as lr=0.1,0.01")
        sets = "seed" if name == "seeds" else name
        if sets in given:
            raise UserError(f"{axis}: {given[sets]} is there already: name all its values at once")
        given[sets] = name
        if len(found := _split(texts)) == 1 and texts.startswith("["):
            raise UserError(f"{axis}: leave the brackets out: NAME=VALUE,VALUE, such as lr=0.1,0.01")
        values = f"[{', '.join(map(value_of, found))}]"
        if name == "seeds":
            line = f"seeds: {values}" if len(axes) > 1 else f"    - seed: {values}"
        else:
            line = f"    - {name}: {values}"
        words[line] = axis
    if not words:
        raise UserError("--command: name what is to vary, such as lr=0.1,0.01 or seeds=1,2,3")
    text = COMMAND_CONFIG.format(
        command=json.dumps(command, ensure_ascii=False),
        seeds="".join(f"{line}\n" for line in words if line.startswith("seeds: ")),
        axes="".join(f"{line}\n" for line in words if line.startswith(" ")),
    )
    try:
        parse_config(text, CONFIG_FILE)
    except ConfigError as error:
        problems = [_of_words(problem, text.splitlines(), words) for problem in error.problems]
        raise UserError("\n".join(problems)) from None
    return text


def _of_words(problem: str, lines: Sequence[str], words: Mapping[str, str]) -> str:
    """Return a problem of a config that nobody sees as one of the word that was typed for its line."""
    where, _, said = problem.partition(": ")
    number = where.rpartition(":")[2]
    word = words.get(lines[int(number) - 1], "") if number.isdecimal() else ""
    said = re.sub(r" \(line \d+\)", "", said)
    place, _, text = said.partition(": ")
    return f"{one_line(word) or '--command'}: {said if ' ' in place else text}"


def _split(texts: str) -> list[str]:
    """Return the values between the commas; those inside of brackets, as in `[64,32],[128]`, are no such."""
    found, depth = [""], 0
    for character in texts:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += character
    return found if depth == 0 else texts.split(",")


def value_of(text: str) -> str:
    """Return a value of the command line as YAML: numbers, true, false and null as they are, texts quoted."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; choose another --workdir") from None
