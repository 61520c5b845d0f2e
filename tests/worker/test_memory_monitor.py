"""What a worker measures of its tasks on a shared GPU."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import distexp.worker.memory_monitor
from distexp.task import PeakMemory, SharedGpu
from distexp.worker.memory_monitor import ENOUGH_OF_NOTHING, MemoryMonitor
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import gpu, write_scenario
from tests.support import poll

UUID = str(gpu(0)["uuid"])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that makes this process see one GPU, with so much memory in use by these pids."""
    scenario = tmp_path / "machine.json"
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))

    def see(free_mib: int, held: dict[int, int] | None = None) -> None:
        processes = [{"pid": pid, "used_mib": mib} for pid, mib in (held or {}).items()]
        write_scenario(scenario, gpu(0, free_mib, processes=processes))

    monkeypatch.setattr(distexp.worker.memory_monitor, "READ_TIMEOUT_S", 60.0)  # the machine may be busy
    yield see
    poll(lambda: stand_in.open_count() == 0, "the monitor's thread looks no more")


def test_the_peak_of_a_task_is_what_the_processes_below_this_one_have_held(machine: Any) -> None:
    machine(30_000)
    monitor = MemoryMonitor(UUID, 4096)
    seen = monitor.now()
    assert seen is not None and (seen.free_mib, seen.min_free_mib) == (30_000, 4096)
    assert monitor.peak() is None, "no task runs"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as task:
        with monitor:
            machine(20_000, {task.pid: 900, os.getppid(): 5000})
            poll(lambda: monitor.peak() == PeakMemory(mib=900), "what it holds is seen")
            machine(20_500, {task.pid: 400})
            poll(lambda: (now := monitor.now()) is not None and now.free_mib == 20_500, "it is seen")
            assert monitor.peak() == PeakMemory(mib=900)
            monitor.ended(0.0, 3.0, 1200)
            assert monitor.peak() == PeakMemory(mib=1200, ran_s=3.0), "torch has seen more"
        assert monitor.peak() is None
        with monitor:
            poll(lambda: monitor.peak() == PeakMemory(mib=400), "the next task begins anew")
            monitor.ended(math.inf, 0.0, 100)  # it began after the last look
            assert monitor.peak() is None, "it was too short"
        task.communicate()


def test_where_no_process_is_told_the_growth_of_the_gpu_is_the_peak_after_some_looks(machine: Any) -> None:
    machine(30_000)
    monitor = MemoryMonitor(UUID, 4096)
    monitor.now()
    machine(24_000)
    with monitor:
        poll(lambda: len(monitor._looks_s) == ENOUGH_OF_NOTHING, "many looks")
        assert monitor.peak() is None, "it may not have come to that yet"
        monitor.ended(0.0, 3.0, 100)
        assert monitor.peak() == PeakMemory(mib=6000, of_gpu=True, ran_s=3.0)


def test_a_driver_that_hangs_or_fails_holds_up_nothing_and_is_met_again(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, real = threading.Event(), distexp.worker.memory_monitor.read_shared_gpu

    def hang(*about: Any) -> SharedGpu:
        driver.wait()
        return real(*about)

    monkeypatch.setattr(distexp.worker.memory_monitor, "read_shared_gpu", hang)
    monkeypatch.setattr(distexp.worker.memory_monitor, "READ_TIMEOUT_S", 0.5)
    machine(30_000)
    monitor = MemoryMonitor(UUID, 4096)
    assert monitor.now() is None
    driver.set()
    poll(lambda: monitor.now() is not None, "a driver that answers")
    write_scenario(Path(os.environ["FAKE_NVML_SCENARIO"]), init="DriverNotLoaded")
    with monitor:
        poll(lambda: monitor.now() is None, "a driver that fails")
        machine(30_000)
        poll(lambda: monitor.now() is not None, "a driver that is back")
