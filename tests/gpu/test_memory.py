"""What a shared GPU's memory looks like to a worker, on machines that the stand-in NVML makes up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.gpu.devices import open_nvml
from distexp.gpu.memory import read_shared_gpu
from distexp.task import SharedGpu
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import gpu, mig_instance, write_scenario


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(tmp_path / "machine.json"))
    return tmp_path / "machine.json"


def read(device: dict[str, object]) -> SharedGpu:
    with open_nvml() as nvml:
        return read_shared_gpu(nvml, str(device["uuid"]), 4096)


def test_what_a_process_holds_counts_for_all_above_it_whatever_it_uses_the_gpu_for(scenario: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        device = gpu(
            0,
            9000,
            processes=[{"pid": child.pid, "used_mib": 700}, {"pid": os.getpid(), "used_mib": 40}],
            graphics=[{"pid": child.pid, "used_mib": 700}],
            mps=[{"pid": os.getppid(), "used_mib": 5}, {"pid": 2**22 + 1, "used_mib": 9000}],
        )
        write_scenario(scenario, device)
        seen = read(device)
        child.communicate()
    assert (seen.total_mib, seen.free_mib, seen.min_free_mib) == (40_960, 9000, 4096)
    held = [seen.held_by(pid) for pid in (child.pid, os.getpid(), os.getppid(), 0)]
    assert held == [700, 740, 745, 0]


@pytest.mark.parametrize("processes", [None, [{"pid": os.getpid(), "used_mib": None}]])
def test_a_driver_that_tells_nothing_of_processes_tells_what_is_free(
    scenario: Path, processes: list[dict[str, object]] | None
) -> None:
    device = gpu(0, 9000, processes=processes, graphics=None, mps=None)
    write_scenario(scenario, device)
    assert read(device) == SharedGpu(total_mib=40_960, free_mib=9000, min_free_mib=4096)


def test_a_mig_instance_is_shared_like_a_gpu(scenario: Path) -> None:
    instance = mig_instance(3, 9000)
    write_scenario(scenario, gpu(0, mig=[None, instance]))
    assert read(instance).free_mib == 9000


def test_what_workers_have_left_is_free_again() -> None:
    seen = SharedGpu(total_mib=100, free_mib=10, held_mib={1: 30, 2: 40})
    assert seen.without([1, 7, 0]).free_mib == 40
