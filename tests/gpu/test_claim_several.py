"""Who gets several GPUs at once: all of them, or none. Races between processes are in `test_claim`."""

import contextlib
import sys

import pytest

from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import claim_gpu, claim_gpus
from distexp.system import locks
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import gpu, mig_instance, write_scenario

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
def claims(tmp_path):
    return tmp_path / "claims"


@pytest.fixture
def held(machine):
    """Whatever is entered is released at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def claim(held, claims):
    return lambda: held.enter_context(claim_gpu(FOUR_GB, lock_folder=claims))


@pytest.fixture
def claim_several(held, claims):
    return lambda count, **more: held.enter_context(claim_gpus(count, FOUR_GB, lock_folder=claims, **more))


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


def test_who_cannot_choose_now_says_what_it_waits_for(machine, claims, claim_several, monkeypatch):
    machine(gpu(0), gpu(1))
    monkeypatch.setattr("distexp.gpu.claim.TURN_S", 0.1)
    turn = locks.acquire(claims / "several.lock")
    with pytest.raises(NoGpuError, match=r"another worker has chosen GPUs for 0.1 s, see .*several.lock"):
        claim_several(2)
    turn.release()
    assert claim_several(2).worker_id == "gpu0+1"
