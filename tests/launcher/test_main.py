"""What the verbs that start processes decide by themselves: which manager, which GPUs."""

import json
import shutil
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
from tests.live_manager import Folder
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


def test_a_manager_that_answers_on_another_host_is_named_by_stop_and_used_by_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours", Folder(tmp_path / "theirs")
    theirs.configure([1])
    words = ("--workdir", str(ours))
    monkeypatch.setenv("PATH", str(tmp_path))  # without Slurm
    with theirs.serving(host="0.0.0.0") as manager:
        (there := Workdir(ours)).make_state()  # the same folder, as this host sees it: without the lock
        shutil.copy(manager.workdir.token, there.token)
        told = {**manager.workdir.read_info(), "name": "localhost"}
        there.info.write_text(json.dumps(told), encoding="utf-8")
        assert main(["stop", *words]) == 2
        assert main(["slurm", "1", "--with-manager", *words]) == 2
    assert main(["stop", *words]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"error: the manager of {ours} runs on localhost: type `distexp stop` in that folder there",
        f"A manager of {ours} already runs on localhost: the workers use it",
        "error: sbatch, the program of Slurm, is not installed here; run this where you submit your jobs",
    ]
    assert said.out == f"No manager runs in {ours}\n"


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
