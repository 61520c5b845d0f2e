"""Where a worker computes: a GPU, the CPU, or nowhere yet."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import CLAIM_FOLDER_VARIABLE, Claim, PlaceInLine, claim_gpu, claim_gpus
from distexp.gpu.devices import GpuRequest
from distexp.wire.client import Client
from distexp.workdir import Workdir
from distexp.worker.connection import ManagerConnection
from distexp.worker.device import acquire_device
from distexp.worker.signals import StopRequests
from tests.live_manager import Folder, RawClient, worker
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import gpu, write_scenario
from tests.support import Clock, poll

BUSY = {"processes": [{"pid": 1, "used_mib": 39000}]}


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the machine that this process sees."""
    path = tmp_path / "machine.json"
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(path))
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, str(tmp_path / "gpu-claims"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure("[1]")
    return folder


class SteppingLink(ManagerConnection):
    """A link that takes the next step of a test instead of waiting."""

    steps: list[Callable[[], object]]

    def wait(self, timeout_s: float, more: Any = ()) -> None:
        self.steps.pop(0)()


Find = Callable[..., Claim | None]


@pytest.fixture
def stop() -> Iterator[StopRequests]:
    made = StopRequests()
    yield made
    made.close()


@pytest.fixture
def find(folder: Folder, stop: StopRequests, tmp_path: Path) -> Iterator[Find]:
    """Acquire a device; before each further try, the next of `steps` happens."""
    connection = SteppingLink(Client(Workdir(folder.root)), stop, Clock(), manager_wait_s=60)
    claims = []

    def find_here(device: Any = "auto", *steps: Callable[[], object], gpus: int = 1) -> Claim | None:
        connection.steps = list(steps)
        claim = acquire_device(
            device,
            request=GpuRequest(4096),
            slots=1,
            gpus=gpus,
            cpu_folder=tmp_path / "claims",
            connection=connection,
            stop=stop,
        )
        assert connection.steps == [], "it looked less often than expected"
        if claim is not None:
            claims.append(claim)
        return claim

    yield find_here
    connection.close()
    for claim in claims:
        claim.release()


@pytest.mark.parametrize(
    ("machine", "cause"),
    [({"init": "LibraryNotFound"}, "NVIDIA driver"), ({}, "the NVIDIA driver sees no GPU")],
)
def test_without_a_driver_or_gpu_it_is_the_cpu_and_says_why(
    scenario: Path, find: Find, caplog: pytest.LogCaptureFixture, machine: dict[str, str], cause: str
) -> None:
    caplog.set_level("INFO")
    write_scenario(scenario, **machine)
    claim = find()
    assert claim is not None
    assert (claim.worker_id, claim.device) == ("cpu0", "cpu")
    assert caplog.messages[-1].startswith("Running on the CPU (")
    assert cause in caplog.messages[-1]


def test_on_a_mac_it_is_the_cpu_and_its_own_gpu_is_named(
    find: Find, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    caplog.set_level("INFO")
    find()
    assert caplog.messages == ["Running on the CPU (Apple's GPU is used only with --device mps)"]


def test_mps_is_the_gpu_of_apple_silicon(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    claim = find("mps")
    assert claim is not None
    assert (claim.worker_id, claim.device, claim.device_name) == ("mps0", "mps", "mps")


def test_mps_is_refused_where_it_is_not(find: Find) -> None:
    with pytest.raises(UserError, match="--device mps: only a Mac with Apple silicon has that"):
        find("mps")


def test_a_gpu_that_is_too_small_even_when_it_is_empty_is_not_waited_for(
    scenario: Path, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_scenario(scenario, gpu(0, 3584, total_mib=4096, name="NVIDIA T400"))
    claim = find()
    assert claim is not None
    assert claim.worker_id == "cpu0"
    assert caplog.messages == [
        "Running on the CPU (too small for --min-free-gb 4: gpu0 NVIDIA T400 with 4.0 GB)"
    ]
    with pytest.raises(NoGpuError, match=r"too small for --min-free-gb 4: .*; lower it"):
        find("gpu")
    with pytest.raises(UserError, match=r"--gpus 2 is more than .* too small for --min-free-gb 4: gpu0"):
        write_scenario(scenario, gpu(0, total_mib=4096), gpu(1))
        find("auto", gpus=2)


def test_a_gpu_that_was_asked_for_is_not_replaced_by_the_cpu(scenario: Path, find: Find) -> None:
    write_scenario(scenario, init="LibraryNotFound")
    with pytest.raises(NoGpuError, match="No available GPU found"):
        find("gpu")


def test_the_cpu_that_was_asked_for_is_taken_beside_free_gpus(scenario: Path, find: Find) -> None:
    write_scenario(scenario, gpu(0))
    claim = find("cpu")
    assert claim is not None
    assert claim.worker_id == "cpu0"


def test_it_waits_for_a_busy_gpu_says_who_holds_it_and_takes_it_when_it_is_free(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenario(scenario, gpu(0, 900, **BUSY))
    with folder.serving():
        claim = find("auto", lambda: None, lambda: write_scenario(scenario, gpu(0)))
    assert claim is not None
    assert (claim.worker_id, claim.device) == ("gpu0", "cuda:0")
    (said,) = [message for message in caplog.messages if "Waiting for a GPU" in message]
    assert said.startswith("No available GPU found: no unclaimed GPU has more than 4")
    assert "held by pid 1" in said


def test_memory_that_comes_and_goes_meanwhile_does_not_fill_the_log(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenario(scenario, gpu(0, 900, **BUSY))
    steps = [partial(write_scenario, scenario, gpu(0, free_mib, **BUSY)) for free_mib in (1900, 2900)]
    with folder.serving():
        assert find("auto", *steps, lambda: write_scenario(scenario, gpu(0)))
    assert len([message for message in caplog.messages if "Waiting for a GPU" in message]) == 1


def test_it_waits_for_a_gpu_that_another_worker_has_and_names_that_one(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenario(scenario, gpu(0))
    other = claim_gpu(GpuRequest(4096))
    with folder.serving():
        claim = find("gpu", other.release)
    assert claim is not None
    assert f"claimed by another worker (pid {os.getpid()})" in caplog.text


def test_who_waits_for_a_gpu_leaves_when_no_task_is_left(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_scenario(scenario, gpu(0, 900))
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as talk:
        assert find("auto", lambda: talk.say("cancel", tasks=["exp1_vary_width_0_42"])) is None
    assert "No task is left" in caplog.messages


def test_who_waits_for_a_gpu_leaves_when_nothing_that_is_left_can_run(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_scenario(scenario, gpu(0, 900))
    with folder.serving(exit_when_done=True) as manager:

        def end_in_vain() -> None:
            with worker(manager) as bad:
                task = bad.say("request_task")
                named = {name: task[name] for name in ("lease_id", "key", "task_id")}
                bad.say("task_failed", **named, cause="import", error="No module")
                for _ in range(2):
                    manager.run_once()
                assert bad.say("request_task")["message"] == "no task that is left can run"
            poll(lambda: not manager._registry.connected(), "only the worker without a GPU is left")
            manager.run_once()
            assert not manager._is_done, "that one has not heard it yet"

        assert find("auto", end_in_vain) is None
        assert "No task that is left can run" in caplog.messages


def test_who_waits_for_a_gpu_leaves_when_the_user_says_so(
    scenario: Path, folder: Folder, find: Find, stop: StopRequests
) -> None:
    write_scenario(scenario, gpu(0, 900))
    with folder.serving():
        assert find("auto", stop.interrupt) is None


def test_who_needs_two_gpus_waits_with_a_clear_line_and_gets_them_when_another_leaves(
    scenario: Path, folder: Folder, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    write_scenario(scenario, gpu(0), gpu(1), gpu(2))
    other = claim_gpus(2, GpuRequest(4096), place=PlaceInLine())
    with folder.serving():
        claim = find("auto", lambda: None, other.release, gpus=2)
    assert claim is not None
    assert claim.worker_id == "gpu0+1"
    (said,) = [message for message in caplog.messages if "Waiting for" in message]
    assert said.startswith("No available GPU found: fewer than 2 unclaimed GPUs have more than 4 GB free (")
    assert said.endswith("or lower --gpus. Waiting for 2 GPUs at once")


def test_several_gpus_are_never_replaced_by_the_cpu_or_by_fewer(scenario: Path, find: Find) -> None:
    write_scenario(scenario, init="LibraryNotFound")
    with pytest.raises(NoGpuError, match="No available GPU found"):
        find("auto", gpus=2)
    write_scenario(scenario, gpu(0))
    with pytest.raises(UserError, match=r"--gpus 2 is more than this host has: 1 whole GPU \(gpu0\)"):
        find("auto", gpus=2)
