"""How busy a GPU is, on machines that the stand-in NVML makes up."""

import os
import sys
import threading
from pathlib import Path

import pytest

import distexp.worker.gpu_monitor
from distexp.task import State
from distexp.wire.messages import GpuUse
from tests.live_manager import Folder, RawClient
from tests.live_worker import CONFIG, gated_folder, open_gate, worker_process
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import poll

REPORT = """
import time
from pathlib import Path
def run(params, context):
    context.report(1, 10, loss=0.5)
    while not Path("gate").exists(): time.sleep(0.01)
    return {"score": 1}
"""


@pytest.mark.parametrize("utilization_pct", [35, None])
def test_the_use_of_a_gpu_is_read_by_its_uuid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utilization_pct: int | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(tmp_path / "machine.json"))
    second = gpu(1, 12_000, utilization_pct=utilization_pct)
    write_scenario(tmp_path / "machine.json", gpu(0, 500), second)
    use = GpuUse(used_mib=40_960 - 12_000, free_mib=12_000, utilization_pct=utilization_pct)
    assert distexp.worker.gpu_monitor.read_use(str(second["uuid"])) == use
    assert distexp.worker.gpu_monitor.read_use("GPU-gone") is None
    write_scenario(tmp_path / "machine.json", init="DriverNotLoaded")
    assert distexp.worker.gpu_monitor.read_use(str(second["uuid"])) is None
    assert stand_in.open_count() == 0


def test_a_driver_that_hangs_holds_up_no_heartbeat_and_is_met_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use, driver = GpuUse(used_mib=1, free_mib=2, utilization_pct=3), threading.Event()

    def hang(uuid: str) -> GpuUse | None:
        driver.wait()
        return use

    monkeypatch.setattr(distexp.worker.gpu_monitor, "read_use", hang)
    monitor = distexp.worker.gpu_monitor.GpuMonitor(["GPU-1"])
    assert monitor.usage() is None
    driver.set()
    poll(lambda: monitor.usage() == use, "a driver that answers", 60)


@pytest.mark.skipif(os.utime not in os.supports_fd, reason="Windows cleans no such folder")
def test_each_look_keeps_the_claim_from_what_cleans_its_folder_of_old_files(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", REPORT)
    write_scenario(tmp_path / "machine.json", gpu(0))
    sees = environment(tmp_path / "machine.json", tmp_path / "claims")
    with folder.serving() as manager, worker_process(tmp_path, device="auto", environment=sees) as process:
        poll(lambda: manager.queue.counts()[State.ASSIGNED] == 1, "its task assigned")
        (claim,) = (tmp_path / "claims").iterdir()
        os.utime(claim, (0, 0))
        poll(lambda: claim.stat().st_mtime > 0, "the claim made new")
        open_gate(tmp_path)
        assert process.code() == 0


def test_of_several_gpus_the_use_is_told_together_and_the_free_memory_of_the_fullest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = tmp_path / "machine.json"
    monkeypatch.setattr(distexp.worker.gpu_monitor, "READ_TIMEOUT_S", 60.0)  # the machine may be busy
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))
    write_scenario(scenario, gpu(0, 9000, utilization_pct=50), gpu(1, 7000, utilization_pct=70), gpu(2, 100))
    monitor = distexp.worker.gpu_monitor.GpuMonitor([str(gpu(number)["uuid"]) for number in (0, 1)])
    assert monitor.usage() == GpuUse(used_mib=2 * 40_960 - 16_000, free_mib=16_000, utilization_pct=60)
    assert monitor.free_mib() == 7000
    write_scenario(scenario, gpu(0, 9000), gpu(1, error="GpuIsLost"))
    assert (monitor.usage(), monitor.free_mib()) == (None, 0)


def test_a_worker_tells_progress_and_use_of_its_gpu_soon_after_its_task_has_something_to_tell(
    tmp_path: Path,
) -> None:
    folder: Folder = gated_folder(tmp_path, "[1]", REPORT, CONFIG)
    scenario = folder.root / "machine.json"
    write_scenario(scenario, gpu(0, 12_000, utilization_pct=35))
    sees = environment(scenario, folder.root / "gpu-claims")
    with (
        folder.serving() as manager,
        RawClient(manager.port, token=folder.token) as user,
        worker_process(folder.root, device="auto", environment=sees) as process,
    ):
        told: dict[str, object] = {}

        def is_told() -> bool:
            told.update(*user.say("workers")["workers"])
            return bool(told.get("progress") and told["gpu"])

        poll(is_told, "progress, and a driver that has answered in time", 60)
        open_gate(folder.root)
        assert process.code() == 0
    assert told["gpu"] == {"used_mib": 28_960, "free_mib": 12_000, "utilization_pct": 35}
    assert (told["progress"], told["metrics"]) == ([1, 10], {"loss": 0.5})
