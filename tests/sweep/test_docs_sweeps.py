"""docs/sweeps.md: every example on it is a sweep, and the tables say what commands become."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from distexp.sweep.command_line import fill_command
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = [
    [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_each_example_is_a_sweep(text: str) -> None:
    points = expand(parse_config(text, "config_exp1.yaml"))
    assert len({point.key for point in points}) == len(points) > 1


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 3], ids=lambda row: row[0])
def test_each_word_becomes_what_the_table_says(row: list[str]) -> None:
    value = yaml.safe_load(spans(row[1])[0])
    templates, words = spans(row[0]), spans(row[2])
    for at, template in enumerate(templates):
        name = re.findall(r"\{(\w+)", template)[0]
        expected = shlex.split(words[at].replace("=[64, 32]", "='[64, 32]'")) if words else []
        if template == "{layers:json}":
            expected = [words[at]]
        assert fill_command(f"p {template}", {name: value}, {})[1:] == expected


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 2], ids=lambda row: row[0])
def test_all_parameters_become_what_the_table_says(row: list[str]) -> None:
    values = {"lr": 0.1, "bn": True, "aug": False, "none": None}
    assert fill_command(f"p {spans(row[0])[0]}", values, {})[1:] == spans(row[1])[0].split()
