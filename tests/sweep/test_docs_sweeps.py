"""docs/sweeps.md: every example on it is a sweep, and the tables say what commands become."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from distexp.sweep.command_line import fill_command
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.options import OPTIONS, TOP_OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def _tables() -> dict[str, list[list[str]]]:
    """Return the rows of each table by the name of its first column."""
    tables: dict[str, list[list[str]]] = {}
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        tables[f"{head[0]}{len(head) if head[0] in TABLES_OF_COMMANDS else ''}"] = rows
    return tables


TABLES_OF_COMMANDS = ("in the command",)
TABLES = _tables()


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_each_example_is_a_sweep(text: str) -> None:
    points = expand(parse_config(text, "config_exp1.yaml", lambda name: "defaults: {epochs: 30}"))
    assert len({point.key for point in points}) == len(points) > 1


def test_the_numbers_that_the_page_tells() -> None:
    texts = [text for text in EXAMPLES if "include" not in text]
    counts = {text: len(expand(parse_config(text, "f.yaml"))) for text in texts}
    told = {"pairs:": 6, "ablation:": 4, "optimizers:": 6, "some:": 7, "random:": 160, "axes:": 144}
    for start, count in told.items():
        assert [n for text, n in counts.items() if f"\n{start}" in text] == [count]


@pytest.mark.parametrize("text", re.findall(r"^\| (\{.*?\}) \|", PAGE, re.MULTILINE))
def test_each_distribution_of_the_table_is_one(text: str) -> None:
    config = f"p: {{search: {{samples: 2}}, combinations: [{{x: {text}}}, {{u: {{min: 0.0, max: 1.0}}}}]}}"
    assert len(expand(parse_config(config, "f.yaml"))) == 2


def test_every_key_of_a_phase_is_on_the_page() -> None:
    keys = {row[0].strip("`") for row in TABLES["key"]}
    assert keys == {*OPTIONS, *TOP_OPTIONS, "include", "defaults"}


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


@pytest.mark.parametrize("row", TABLES["in the command3"], ids=lambda row: row[0])
def test_each_word_becomes_what_the_table_says(row: list[str]) -> None:
    value = yaml.safe_load(spans(row[1])[0])
    templates, words = spans(row[0]), spans(row[2])
    for at, template in enumerate(templates):
        name = re.findall(r"\{(\w+)", template)[0]
        expected = shlex.split(words[at].replace("=[64, 32]", "='[64, 32]'")) if words else []
        if template == "{layers:json}":
            expected = [words[at]]
        assert fill_command(f"p {template}", {name: value}, {})[1:] == expected


@pytest.mark.parametrize("row", TABLES["in the command2"], ids=lambda row: row[0])
def test_all_parameters_become_what_the_table_says(row: list[str]) -> None:
    values = {"lr": 0.1, "bn": True, "aug": False, "none": None}
    assert fill_command(f"p {spans(row[0])[0]}", values, {})[1:] == spans(row[1])[0].split()
