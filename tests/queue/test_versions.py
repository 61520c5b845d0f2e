"""What a worker of an earlier version may run."""

from typing import Any

import pytest
from msgspec import structs

from distexp import __version__
from distexp.queue.versions import earlier_version, novelty_in, parse_version
from distexp.sweep.grid import Grid, GridPoint
from distexp.task import Halving
from tests.row_cases import a_task


@pytest.mark.parametrize(
    "command", ["python a.py --w {width} --s={seed} {output_dir}", "a {{x}} '{width} b'"]
)
def test_0_1_0_runs_commands_that_it_fills_as_we_do(command: str) -> None:
    task = structs.replace(a_task(), command=command, config={"width": 4, "lr": None})
    assert novelty_in(task, (0, 1)) is None


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"lr": None}, "a --lr {lr}"),
        ({"lr": None}, "a --lr={lr}"),
        ({"lr": ""}, "a {lr}"),
        ({"lr": [1, 2]}, "a {lr}"),
        ({}, "a {lr}"),
        ({"model": {"width": 4}}, "a {model.width}"),
        ({"lr": 1}, "a {lr:json}"),
        ({"lr": 1}, "a {args:flags}"),
        ({"lr": 1}, "a {overrides}"),
        ({"lr": 1}, "a {run_dir}"),
        ({"lr": 1}, "bash -c 'a > $DISTEXP_RUN_DIR/out' {lr}"),
    ],
)
def test_0_1_0_is_given_no_command_that_it_would_fill_otherwise(config: dict[str, Any], command: str) -> None:
    task = structs.replace(a_task(), command=command, config=config)
    assert novelty_in(task, (0, 1)) is not None
    assert novelty_in(task, (0, 2)) is None


def test_0_1_0_is_given_no_task_that_may_be_stopped_early() -> None:
    point = GridPoint(a_grid(halving=Halving(metric="a")), 0, "results", "key")
    assert novelty_in(point, (0, 1)) is not None
    assert novelty_in(GridPoint(a_grid(), 0, "results", "key"), (0, 1)) is None


def a_grid(**more: Any) -> Grid:
    return Grid(
        **{"phase": "p", "axes": {"w": [1]}, "seeds": (42,), "defaults": {}, "experiment": "a:run"},
        **{"command": None, "timeout_s": None, "process": "forked"},
        **more,
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.1.0", (0, 1)),
        ("0.2.0.dev0", (0, 2)),
        ("12.30", (12, 30)),
        ("new", (0, 0)),
        ("2", (2, 0)),
        ("v0.10rc1", (0, 10)),
    ],
)
def test_a_version_is_compared_by_its_first_two_numbers(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


def test_only_an_earlier_version_is_heeded() -> None:
    assert earlier_version(__version__) is earlier_version("9.9") is None
    assert earlier_version(None) is not None
