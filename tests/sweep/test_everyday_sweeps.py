"""Sweeps of daily work, as docs/sweeps.md tells to write them: how many tasks, and what each runs."""

from pathlib import Path

import pytest

from distexp.results.audit import audit
from distexp.sweep.command_line import fill_command
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from distexp.task import joined
from tests.sweep.test_docs_sweeps import EXAMPLES


def points_of(start: str) -> list[GridPoint]:
    """The tasks of the page's example whose phase is called so."""
    (text,) = [text for text in EXAMPLES if f"\n{start}:" in text]
    return expand(parse_config(text, "config_exp1.yaml"))


def commands_of(start: str) -> list[str]:
    """What runs for each task of an example."""
    found = []
    for point in points_of(start):
        task = point.task
        assert task.command is not None
        seed = {"seed": task.seed} if task.has_seeds else {}
        words = fill_command(task.command, joined(task.config) | seed, {"run_dir": "RUN", "seed": task.seed})
        found.append(" ".join(words[1:]))
    return found


@pytest.mark.parametrize(
    ("start", "commands"),
    [
        (
            "large",
            [f"--standalone --nproc_per_node=4 train.py --lr={lr} --out RUN" for lr in ("0.0001", "0.0003")],
        ),
        ("switches", ["train.py --bn --lr=0.1", "train.py --bn --lr=0.01", "train.py --no-bn --lr=0.1",
                      "train.py --no-bn --lr=0.01"]),
        ("hydra", [f"train.py hydra.run.dir=RUN/out optimizer.lr={lr} "
                   f"model.name=resnet model.width={width}"
                   for width in (16, 32) for lr in (0.1, 0.01)]),
    ],
)  # fmt: skip
def test_what_runs_is_what_one_would_type(start: str, commands: list[str]) -> None:
    assert commands_of(start) == commands


def test_each_optimizer_has_its_own_grid() -> None:
    configs = [point.task.config for point in points_of("optimizers")]
    assert [config for config in configs if config["optimizer"] == "adam"] == [
        {"optimizer": "adam", "lr": 0.001},
        {"optimizer": "adam", "lr": 0.003},
    ]
    assert len(configs) == 6


def test_a_baseline_and_one_change_each() -> None:
    base = {"dropout": 0.1, "augment": True}
    changes = [{}, {"dropout": 0.0}, {"augment": False}, {"optimizer": "adam", "weight_decay": 0.01}]
    assert [point.task.config for point in points_of("ablation")] == [base | change for change in changes]


def test_forty_draws_are_the_same_for_each_of_four_data_sets() -> None:
    by_data: dict[object, list[object]] = {}
    for point in points_of("random"):
        config = dict(point.task.config)
        by_data.setdefault(config.pop("dataset"), []).append(config)
    first, *others = by_data.values()
    assert (len(first), len(others)) == (40, 3)
    assert all(other == first for other in others)


def test_a_task_on_four_gpus_says_so() -> None:
    assert {point.need.gpus for point in points_of("large")} == {4}


def test_rows_from_before_a_new_name_and_a_new_axis_count(tmp_path: Path) -> None:
    (tmp_path / "results_grid").mkdir()
    rows = "phase,lr,seed,acc\ngrid,0.1,42,0.5\ngrid,0.01,42,0.6\n"
    (tmp_path / "results_grid" / "final_results.csv").write_text(rows, encoding="utf-8")
    points = points_of("lr_and_dropout")
    (file,) = audit(tmp_path, points)
    old = [point.key for point in points if point.task.config["dropout"] == 0.0]
    assert [key for row in file.rows for key in row.keys] == old
