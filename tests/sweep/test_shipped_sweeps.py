import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distexp.context import Context
from distexp.experiments.settings import parse_settings
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.task import Task

ROOT = Path(__file__).parents[2]
PHASES = [
    "exp1_vary_width",
    "exp2_vary_depth",
    "exp3_vary_label_noise",
    "exp4_vary_batch_size",
    "exp5_vary_optimizer",
]
SEEDS = {42, 101, 2024, 3141, 9876}


def run(params: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Import torch with the first training: each process of pytest reads every test file."""
    from distexp.experiments.classification import run

    return dict(run(dict(params), context))


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [point.task for point in expand(load_configs([Path("configs/config_exp*.yaml")], ROOT))]


def test_the_shipped_sweeps_are_240_tasks_of_five_phases(tasks: list[Task]) -> None:
    assert len(tasks) == 240
    assert list(dict.fromkeys(task.phase for task in tasks)) == PHASES
    assert {task.seed for task in tasks} == SEEDS
    assert "exp1_vary_width_0_42" in {task.task_id for task in tasks}


def test_no_training_is_asked_for_twice(tasks: list[Task]) -> None:
    assert len({task.key for task in tasks}) == len({task.task_id for task in tasks}) == 240
    assert len({(parse_settings(task.config), task.seed) for task in tasks}) == 240  # defaults filled in


def test_each_phase_varies_data_sets_under_every_seed(tasks: list[Task]) -> None:
    for phase in PHASES:
        of_phase = [task for task in tasks if task.phase == phase]
        assert len({task.config["dataset"] for task in of_phase}) >= 2
        assert set(Counter(task.seed for task in of_phase).values()) == {len(of_phase) // len(SEEDS)}


def test_results_of_each_phase_and_data_set_have_a_folder_of_their_own(tasks: list[Task]) -> None:
    for task in tasks:
        folder = f"results_{task.phase.partition('_')[0]}_{task.config['dataset']}"
        assert Path(task.output_dir) == Path(folder)


@pytest.mark.parametrize("phase", PHASES)
def test_each_file_opens_with_question_count_and_cost(phase: str, tasks: list[Task]) -> None:
    text = (ROOT / "configs" / f"config_{phase.partition('_')[0]}.yaml").read_text()
    head = re.match(r"# Question: .+\?\n# Tasks: (\d+) \((.+)\)\n# Cost: about \d+ s .+\n# Seen: .+\n", text)
    assert head is not None
    count, factors = head.groups()
    of_phase = [task for task in tasks if task.phase == phase]
    assert int(count) == len(of_phase)
    axes = [len({str(task.config[axis]) for task in of_phase}) for axis in of_phase[0].axes]
    assert [int(number) for number in re.findall(r"\d+", factors)] == [*axes, len(SEEDS)]


@pytest.mark.parametrize("phase", PHASES)
def test_a_task_of_each_phase_trains(phase: str, tasks: list[Task], tmp_path: Path) -> None:
    last = [task for task in tasks if task.phase == phase][-1]
    result = run(last.config, Context(seed=last.seed, checkpoint_dir=tmp_path))
    assert float(result["test_acc"]) > 0.5


def test_the_answers_point_the_right_way(tasks: list[Task], tmp_path: Path) -> None:
    """One seed, both ends of two axes; the file heads quote the means over all seeds."""

    def test_acc(phase: str, **wanted: object) -> float:
        [task] = [
            t for t in tasks if t.phase == phase and t.seed == 42 and wanted.items() <= t.config.items()
        ]
        return float(run(task.config, Context(seed=42, checkpoint_dir=tmp_path / task.task_id))["test_acc"])

    wide, narrow = (test_acc("exp1_vary_width", dataset="wine", width_factor=w) for w in (4, 0.25))
    assert wide > narrow
    clean, noisy = (
        test_acc("exp3_vary_label_noise", dataset="breast_cancer", label_noise=n) for n in (0, 0.4)
    )
    assert clean > noisy


def test_the_search_sweep_is_the_one_of_its_page_and_none_of_the_240() -> None:
    phase, adaptive = load_configs([Path("configs/search/*.yaml")], ROOT)
    assert len(expand([phase])) == 40
    assert adaptive.space is not None and adaptive.halving is not None
    assert phase.halving is not None and phase.halving.rungs(9) == [1, 3, 9, 27]
    page = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    file = (ROOT / "configs" / "search" / "early_stopping.yaml").read_text(encoding="utf-8")
    shown = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert shown is not None and shown[1] in file
    assert all(parse_settings(point.task.config) for point in expand([phase])[:3])
