"""What the verbs that start processes decide by themselves: which manager, which GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distexp.cli.main import main
from distexp.errors import UserError
from distexp.gpu.claim import claim_gpu
from distexp.launcher.main import MANAGER, count_free_gpus, find_manager, run
from distexp.workdir import Workdir
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, write_scenario


def test_a_process_that_got_the_pid_of_an_ended_manager_is_no_manager(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    assert find_manager(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", "input()", MANAGER], stdin=subprocess.PIPE) as another:
        try:
            with folder.hold():
                told = {"pid": another.pid, "host": "127.0.0.1", "port": 5000}
                folder.info.write_text(json.dumps(told), encoding="utf-8")
                assert find_manager(tmp_path) == psutil.Process(another.pid)
            assert find_manager(tmp_path) is None
        finally:
            another.kill()


def test_a_free_gpu_is_one_that_a_worker_could_claim_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1), gpu(2, 900))
    for name, value in environment(tmp_path / "machine.json", tmp_path / "claims").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    assert count_free_gpus() == 2
    with claim_gpu(), claim_gpu():
        assert count_free_gpus() == 0
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in shown] == [[f"gpu{index}", "busy"] for index in range(3)]


def test_slurm_needs_a_number_and_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm"]) == 2
    assert main(["slurm", "4", "--workdir", str(tmp_path / "typo")]) == 2
    assert main(["slurm", "4", "--workdir", str(tmp_path), "--", "--time=60"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: Missing argument 'N'.",
        "See `distexp slurm --help`.",
        f"error: --workdir {tmp_path / 'typo'}: no such folder; name that of your configs and results",
        f"No manager runs in {tmp_path} yet; the workers wait for one for 300 s (--manager-wait-s)",
        "error: sbatch, the program of Slurm, is not installed here; run this where you submit your jobs",
    ]


def test_a_run_with_more_gpus_a_worker_than_are_free_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1, 900))
    for name, value in environment(tmp_path / "machine.json", tmp_path / "claims").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        run(tmp_path, [], gpus=2)
    assert str(caught.value) == "--gpus 2: only 1 GPU is free"
