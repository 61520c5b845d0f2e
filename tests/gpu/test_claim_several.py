"""Who gets several GPUs at once: all of them, or none. Races between processes are in `test_claim`."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import (
    CLAIM_FOLDER_VARIABLE,
    INSTANT_S,
    KEPT_S,
    PlaceInLine,
    claim_gpu,
    claim_gpus,
    unclaimable,
)
from distexp.gpu.devices import GpuRequest, describe_gpus, list_gpus
from distexp.system import locks
from distexp.task import MAX_SLOTS
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, mig_instance, write_scenario
from tests.support import poll

FOUR_GB = 4 * 1024
UUID1 = gpu(1)["uuid"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes this process see the GPUs it is given."""
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(tmp_path / "machine.json"))
    yield lambda *gpus: write_scenario(tmp_path / "machine.json", *gpus)
    assert stand_in.open_count() == 0, "an nvmlInit lacks its nvmlShutdown"


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Return the claim folder of this test, which is that of this process meanwhile."""
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, str(tmp_path / "claims"))
    return tmp_path / "claims"


@pytest.fixture
def held(machine):
    """Whatever is entered is released at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def claim(held, claims):
    return lambda **more: held.enter_context(claim_gpu(GpuRequest(FOUR_GB, **more)))


@pytest.fixture
def claim_several(held, claims):
    def claim_here(count, place=None, **more):
        with PlaceInLine() as own:
            return held.enter_context(claim_gpus(count, GpuRequest(FOUR_GB, **more), place=place or own))

    return claim_here


def test_two_gpus_are_claimed_at_once_and_shown_in_their_order(machine, claim, claim_several):
    machine(gpu(0, 9000), gpu(1, 20000, total_mib=80000), gpu(2, 10000), gpu(3, error="GpuIsLost"))
    got = claim_several(2)
    assert (got.worker_id, got.device, got.device_name, got.total_mib) == (
        "gpu1+2",
        "cuda:0",
        "2 x NVIDIA A100",
        40960,
    )
    assert got.environment()["CUDA_VISIBLE_DEVICES"] == f"{UUID1},{gpu(2)['uuid']}"
    assert claim().worker_id == "gpu0"
    with pytest.raises(NoGpuError):
        claim()
    got.release()
    assert [claim().worker_id, claim().worker_id] == ["gpu1", "gpu2"]


def test_gpus_of_two_kinds_are_named_both(machine, claim_several):
    machine(gpu(0), gpu(1, name="NVIDIA H100"))
    assert claim_several(2).device_name == "NVIDIA A100, NVIDIA H100"


def test_of_three_gpus_two_go_to_one_worker_and_the_other_holds_none_while_it_waits(
    machine, claim, claim_several
):
    machine(gpu(0), gpu(1), gpu(2))
    first = claim_several(2)
    with pytest.raises(NoGpuError) as caught:
        claim_several(2)
    told = str(caught.value)
    assert told.startswith(
        "No available GPU found: fewer than 2 unclaimed GPUs have more than 4 GB free (gpu0 NVIDIA A100: "
    )
    assert told.count("claimed by another worker") == 2
    assert told.endswith("; wait, lower --min-free-gb, or lower --gpus")
    third = claim()  # so it was let go
    assert third.worker_id == "gpu2"
    first.release()
    assert claim_several(2).worker_id == "gpu0+1"


def test_memory_that_is_taken_in_the_moment_costs_no_other_gpu(machine, claim, claim_several):
    machine(gpu(0, 30000), gpu(1, [20000, 100, 100, 100]))
    with pytest.raises(NoGpuError, match=r"gpu1 NVIDIA A100: .*its memory was taken in this moment"):
        claim_several(2)
    machine(gpu(0), gpu(1))
    assert claim_several(2).worker_id == "gpu0+1"


def test_a_host_with_too_few_whole_gpus_is_an_error_that_names_what_cannot_be_joined(machine, claim_several):
    machine(gpu(0, mig=[mig_instance(1), mig_instance(2)]), gpu(1))
    with pytest.raises(UserError) as caught:
        claim_several(2)
    assert not isinstance(caught.value, NoGpuError), "waiting would not help"
    assert str(caught.value) == (
        "--gpus 2 is more than this host has: 1 whole GPU (gpu1); "
        "a MIG instance cannot be joined with another (gpu0-mig0, gpu0-mig1)"
    )
    machine(gpu(0), gpu(1))
    with pytest.raises(UserError, match=r"^--gpus 2 is more than this host has: 1 whole GPU \(gpu0\)$"):
        claim_several(2, visible="0")


def test_a_claim_on_several_gpus_takes_every_slot_of_each(machine, claim, claim_several, held):
    machine(gpu(0), gpu(1), gpu(2))
    shared = [held.enter_context(claim_gpu(GpuRequest(FOUR_GB), slots=2)) for _ in range(4)]
    assert [each.worker_id for each in shared] == ["gpu0", "gpu1", "gpu2", "gpu0.1"]
    shared[0].release()
    with pytest.raises(NoGpuError):
        claim_several(3)  # gpu0.1 is still held
    for each in shared:
        each.release()
    assert claim_several(3).worker_id == "gpu0+1+2"
    for slots in (1, 2, 3):  # also one that nobody has ever asked for
        with pytest.raises(NoGpuError, match="claimed by another worker"):
            claim_gpu(GpuRequest(FOUR_GB), slots=slots)
    assert unclaimable(list_gpus(), slots=3).keys() == {gpu(i)["uuid"] for i in range(3)}


def test_workers_that_share_do_not_try_each_slot_of_a_gpu_that_one_has_whole(
    machine, claims, claim, claim_several, monkeypatch
):
    machine(gpu(0), gpu(1))
    claim_several(2)
    tried, acquire = [], locks.acquire

    def noted(path, wait_s=0.0, **more):
        tried.append(wait_s)
        return acquire(path, wait_s, **more)

    monkeypatch.setattr(locks, "acquire", noted)
    with pytest.raises(NoGpuError, match="claimed by another worker"):
        claim_gpu(GpuRequest(FOUR_GB, joins=True), slots=MAX_SLOTS)
    assert unclaimable(list_gpus(), slots=MAX_SLOTS).keys() == {gpu(i)["uuid"] for i in range(2)}
    assert sum(tried) <= 6 * INSTANT_S, "three looks at each GPU"
    assert len([*claims.glob("*.slot*")]) == 2


def test_gpus_that_become_free_are_kept_for_the_first_in_line(machine, claim, claim_several):
    machine(gpu(0), gpu(1), gpu(2))
    first, second, third = claim(), claim(), claim()
    with PlaceInLine() as place:
        first.release()
        with pytest.raises(NoGpuError, match="fewer than 2 unclaimed GPUs"):
            claim_several(2, place)
        assert place.is_first
        with pytest.raises(NoGpuError, match=r"kept for a worker that waits for several GPUs"):
            claim()
        with pytest.raises(NoGpuError, match=r"kept for a worker that waits for several GPUs"):
            claim_several(2)
        third.release()
        assert claim_several(2, place).worker_id == "gpu0+2"
        assert not place.is_first
    second.release()
    assert claim().worker_id == "gpu1"


def test_nothing_is_kept_for_a_worker_that_waits_for_programs_of_others(machine, claim, claim_several):
    machine(gpu(0), gpu(1, 100))
    with PlaceInLine() as place, pytest.raises(NoGpuError, match=r"gpu1 NVIDIA A100: 0\.1/40\.0 GB free"):
        claim_several(2, place)
    assert not place.is_first
    assert claim().worker_id == "gpu0"


def test_a_place_ends_with_whoever_leaves_the_line(machine, claim, claim_several):
    machine(gpu(0), gpu(1))
    first = claim()
    with PlaceInLine() as place, pytest.raises(NoGpuError):
        claim_several(2, place)
    assert claim().worker_id == "gpu1"
    first.release()


def test_only_gpus_that_the_first_in_line_may_use_are_kept_and_listed_so(
    machine, claim, claim_several, claims
):
    machine(*map(gpu, range(4)))
    busy = claim()
    with PlaceInLine() as place:
        with pytest.raises(NoGpuError):
            claim_several(2, place, ids=(0, 1))
        kept = (
            f"kept for a worker that waits for several GPUs (pid {os.getpid()}): {claims / UUID1}.wanted.lock"
        )
        reasons = unclaimable(list_gpus())
        busy_too = f"claimed by another worker (pid {os.getpid()})"
        assert reasons == {gpu(0)["uuid"]: busy_too, UUID1: kept}
        (line,) = [line for line in describe_gpus(list_gpus(), GpuRequest(), reasons) if "gpu1" in line]
        assert line == f"gpu1  busy  NVIDIA A100  19.5/40.0 GB free, {kept}"
        with pytest.raises(NoGpuError) as none:
            claim(ids=(1,))
        assert kept in str(none.value)
        assert [claim().worker_id, claim().worker_id] == ["gpu2", "gpu3"]
        busy.release()
        assert claim_several(2, place, ids=(0, 1)).worker_id == "gpu0+1"


def test_two_that_wait_for_different_gpus_do_not_wait_for_each_other(machine, claim, claim_several):
    machine(*map(gpu, range(4)))
    busy = claim()
    with PlaceInLine() as first, PlaceInLine() as second:
        with pytest.raises(NoGpuError):
            claim_several(2, first, ids=(0, 1))
        with pytest.raises(NoGpuError, match=r"gpu1 .* kept for a worker that waits for several GPUs"):
            claim_several(3, second)
        assert not second.is_first, "it would keep GPUs from others, and cannot be served"
        assert claim_several(2, second).worker_id == "gpu2+3"
        busy.release()
        assert claim_several(2, first, ids=(0, 1)).worker_id == "gpu0+1"


WAITS_FOR_TWO = """
from distexp.errors import NoGpuError
from distexp.gpu.claim import PlaceInLine, claim_gpus
place = PlaceInLine()
try:
    claim_gpus(2, place=place)
except NoGpuError:
    print("waits", flush=True)
input()
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGSTOP")
def test_nothing_is_kept_for_a_worker_that_was_stopped(machine, tmp_path, claims, claim, claim_several):
    machine(gpu(0), gpu(1), gpu(2))
    busy = claim(), claim()
    command, sees = [sys.executable, "-c", WAITS_FOR_TWO], environment(tmp_path / "machine.json", claims)
    with subprocess.Popen(command, env=sees, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiter:
        assert waiter.stdout.readline() == b"waits\n"
        with pytest.raises(NoGpuError, match=rf"waits for several GPUs \(pid {waiter.pid}\)"):
            claim()
        waiter.send_signal(signal.SIGSTOP)
        for path in claims.glob("*.wanted.lock"):
            os.utime(path, (then := path.stat().st_mtime - KEPT_S - 1, then))
        assert claim().worker_id == "gpu2"
        for each in busy:
            each.release()
        assert claim_several(2).worker_id == "gpu0+1"
        waiter.kill()


@pytest.mark.skipif(os.name != "posix", reason="of FIFOs")
def test_what_stands_in_the_place_of_a_lock_costs_no_other_gpu(machine, claims, claim_several):
    machine(gpu(0), gpu(1), gpu(2))
    claims.mkdir()
    os.mkfifo(claims / f"{UUID1}.wanted.lock")
    (claims / f"{gpu(2)['uuid']}.wanted.lock").mkdir()
    with claim_several(3) as several:
        assert several.worker_id == "gpu0+1+2"
    (claims / f"{UUID1}.whole.lock").unlink()
    (claims / f"{UUID1}.whole.lock").mkdir()
    assert claim_several(2).worker_id == "gpu0+2"


ONE_AFTER_THE_OTHER = """
import sys, time
from distexp.errors import NoGpuError
from distexp.gpu.claim import claim_gpu
while True:
    try:
        with claim_gpu():
            print("claimed", flush=True)
            time.sleep(float(sys.argv[1]))
    except NoGpuError:
        time.sleep(0.02)
"""


@pytest.mark.skipif(os.name != "posix", reason="of the folder of claims of a process")
def test_one_that_waits_for_two_is_served_though_workers_with_one_come_and_go(
    machine, tmp_path, claims, claim_several
):
    machine(*map(gpu, range(4)))
    sees = environment(tmp_path / "machine.json", claims)
    with contextlib.ExitStack() as ends:
        for index in range(5):
            command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, str(0.4 + 0.1 * index)]
            worker = ends.enter_context(subprocess.Popen(command, env=sees, stdout=subprocess.PIPE))
            ends.callback(worker.kill)
            if index < 4:
                assert worker.stdout.readline() == b"claimed\n"
        place = ends.enter_context(PlaceInLine())
        got = []

        def is_served():
            with contextlib.suppress(NoGpuError):
                got.append(claim_several(2, place))
            return bool(got)

        poll(is_served, "two GPUs at once", 60)
