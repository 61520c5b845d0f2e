"""`experiment_runner_gpu.py` as users start and import it."""

import subprocess
import sys
from pathlib import Path

import pytest

import experiment_runner_gpu
from experiment_runner_gpu import get_available_gpu
from tests.live_worker import RUNNER
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, write_scenario


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return tmp_path / "machine.json"


def run(scenario: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RUNNER, *map(str, words)],
        env=environment(scenario, scenario.parent / "gpu-claims"),
        cwd=scenario.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_get_available_gpu_is_public_and_four_gb_are_its_named_default(
    scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    write_scenario(scenario, gpu(0, 900), gpu(1, 4200))
    assert experiment_runner_gpu.MIN_FREE_GB == 4.0
    assert get_available_gpu() == 1
    assert get_available_gpu(min_free_gb=5.0) is None
    assert get_available_gpu(min_free_gb=0.5) == 1


def test_a_gpu_that_is_not_there_ends_with_2_and_one_line(scenario: Path) -> None:
    write_scenario(scenario, init="LibraryNotFound")
    ended = run(scenario, "--device", "gpu")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: No available GPU found")


def test_list_gpus_shows_who_is_free(scenario: Path) -> None:
    write_scenario(scenario, gpu(0, 900), gpu(1, 20000))
    ended = run(scenario, "--list-gpus")
    assert ended.returncode == 0
    first, second = ended.stdout.splitlines()
    assert "busy" in first and "gpu0" in first
    assert "free" in second and "gpu1" in second


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["localhost", "many"], "'many' is not a valid integer"),
        (["--device", "tpu"], "'tpu' is not one of 'auto', 'gpu', 'cpu'"),
        (
            ["--workdir", "absent"],
            "error: --workdir absent: no such folder; name that of your configs and results",
        ),
        (
            ["--slots-per-gpu", "0"],
            "'0': write a number from 1 to 128, or auto",
        ),
        (["--slots-per-gpu", "999999999"], "'999999999': write a number from 1 to 128, or auto"),
        (["--min-free-gb", "nan"], "'nan' is no number that could be meant here"),
        (["--min-free-gb", "inf"], "'inf' is no number that could be meant here"),
        (["--manager-wait-s", "NaN"], "'NaN' is no number that could be meant here"),
        (["--threads", "all"], "'all' is not a valid integer range"),
    ],
)
def test_a_wrong_word_ends_with_2_and_says_what_was_expected(
    scenario: Path, words: list[str], line: str
) -> None:
    write_scenario(scenario)
    ended = run(scenario, *words)
    assert ended.returncode == 2
    assert line in ended.stderr.splitlines()[0]
    assert "Traceback" not in ended.stderr
