"""`run`: a manager and its workers, started and ended together."""

import sys
import time
from pathlib import Path

import pytest
import torch

from distexp.launcher.local_run import LocalRun, ProcessGroup
from tests.live_worker import RUNNER, gated_folder
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import poll

USES_TORCH = "import torch\ndef run(params, context):\n    return {'score': params['width']}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_where_torch_can_use_no_gpu_cpu_workers_finish_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gated_folder(tmp_path, "[1, 2]", USES_TORCH)
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1))
    for name, value in environment(tmp_path / "machine.json", tmp_path / "gpu-claims").items():
        monkeypatch.setenv(name, value)
    words = ("--workdir", str(tmp_path), "--port", "0", "--exit-when-done")
    manager = [sys.executable, str(RUNNER.with_name("experiment_manager.py")), *words]
    worker = [sys.executable, str(RUNNER), "--device", "auto"]
    with ProcessGroup() as group:
        local_run = LocalRun(group, tmp_path, manager, worker, 2)
        poll(lambda: local_run.turn(time.monotonic()), "the end of the sweep", 90)
        assert local_run.exit_code == 0
    assert {(row["worker"][:3], row["score"]) for row in folder.rows()} == {("cpu", "1"), ("cpu", "2")}
    assert (
        "No worker can use its GPU, so CPU workers are started: worker 0: exit code 2, "
        in capsys.readouterr().err
    )
