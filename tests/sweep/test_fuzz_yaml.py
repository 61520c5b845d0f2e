"""The fuzzing of configs at a small size; `python -m benchmarks fuzz_yaml` is the same at any."""

from pathlib import Path

import pytest

from benchmarks.fuzz_yaml import NAME, judge, read
from benchmarks.yaml_cases import SEEDS, config
from distexp.errors import ConfigError
from distexp.sweep.source import Sweep
from distexp.task import Task, make_task


@pytest.mark.slow
def test_500_mutated_configs_become_tasks_or_lines_to_mend() -> None:
    found = read(1, range(500))
    assert found.problems == []
    assert sum(found.outcomes.values()) == 500
    assert min(found.outcomes["accepted"], found.outcomes["refused"]) > 50


def test_a_config_is_fixed_by_seed_and_number() -> None:
    assert config(1, 7) == config(1, 7)
    assert [config(1, number) for number in range(9)] != [config(2, number) for number in range(9)]


@pytest.mark.slow
def test_every_text_that_is_mutated_becomes_tasks_or_lines_to_mend_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    for text in SEEDS:
        path.write_bytes(text)
        assert judge(Sweep(tmp_path, "configs/*.yaml"), text)[1] == ""


class Answering(Sweep):
    """A sweep that answers as it is told."""

    def __init__(self, answer: list[Task] | ConfigError) -> None:
        super().__init__(Path(), "")
        self._answer = answer

    def load(self) -> list[Task]:
        if isinstance(self._answer, ConfigError):
            raise self._answer
        return self._answer


A_TASK = make_task(task_id="p_0_42", phase="p", config={}, seed=42, output_dir="r", axes=())


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ([A_TASK], ""),
        ([], "neither a task nor"),
        ([A_TASK, A_TASK], "1 ids for 2 tasks"),
        (ConfigError([f"{NAME}:1: p: a must be a list"]), ""),
        (ConfigError([f"{NAME}: and 7 problems more"]), ""),
        (ConfigError([f"{NAME}:9: p: must be 2 (it is 1)"]), "the problem"),
        (ConfigError([f"{NAME}: p: must be 2 (it is 1)"]), "the problem"),
        (ConfigError([f"{NAME}:1: p: must be 2\n(it is 1)"]), "the problem"),
    ],
)
def test_what_is_wrong_with_an_outcome_is_seen(answer: list[Task] | ConfigError, fault: str) -> None:
    found = judge(Answering(answer), b"one line")[1]
    assert found.startswith(fault)
    assert bool(found) is bool(fault)
