"""Which GPUs are there, and which is chosen, on machines that the stand-in NVML makes up."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.errors import NoGpuError, UserError
from distexp.gpu import devices
from distexp.gpu.devices import (
    GpuRequest,
    GpuStatus,
    choose_gpu,
    describe_gpus,
    get_available_gpu,
    list_gpus,
    to_mib,
    visible_gpus,
)
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import gpu, mig_instance, write_scenario

FOUR_GB = GpuRequest(4 * 1024)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes this process see the GPUs it is given."""
    scenario = tmp_path / "machine.json"
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield lambda *gpus, init=None: write_scenario(scenario, *gpus, init=init)
    assert stand_in.open_count() == 0, "an nvmlInit lacks its nvmlShutdown"


def status_of(index, free_mib, **more):
    """Return a GpuStatus as `list_gpus` would."""
    uuid = f"GPU-{index}"
    facts = {"name": "NVIDIA A100", "total_mib": 40960, "parent_uuid": uuid} | more
    return GpuStatus(uuid, index, free_mib=free_mib, **facts)


# -- list


def test_a_gpu_is_read_with_memory_use_and_holders(machine):
    process = {"pid": os.getpid(), "used_mib": 3174}
    machine(gpu(7, 12000, utilization_pct=35, processes=[process, {"pid": 2**30, "used_mib": None}]))
    [found] = list_gpus()
    name = devices.psutil.Process().name()
    assert found == GpuStatus(
        uuid="GPU-00000007-aaaa-bbbb-cccc-dddddddddddd",
        index=0,
        name="NVIDIA A100",
        free_mib=12000,
        total_mib=40960,
        utilization_pct=35,
        holders=(f"pid {os.getpid()} ({name}, 3.1 GB)", f"pid {2**30}"),
        others=("",),  # nobody can tell whose the second is
        parent_uuid="GPU-00000007-aaaa-bbbb-cccc-dddddddddddd",
    )


def test_what_a_driver_does_not_tell_is_left_out(machine):
    machine(gpu(0, utilization_pct=None, processes=None))
    [found] = list_gpus()
    assert (found.utilization_pct, found.holders, found.error) == (None, (), "")


@pytest.mark.parametrize(
    ("init", "cause"),
    [
        ("LibraryNotFound", "no NVIDIA driver, its NVML library is missing; install the driver"),
        ("DriverNotLoaded", "the NVIDIA driver is not loaded; install the driver"),
        (
            "LibRmVersionMismatch",
            "the NVIDIA driver was updated since the kernel loaded it; reboot",
        ),
        ("Unknown", "NVML does not start (Unknown Error); compare `nvidia-smi`, or run with --device cpu"),
    ],
)
def test_a_driver_that_does_not_work_is_told_with_cause_and_remedy(machine, init, cause):
    machine(init=init)
    with pytest.raises(NoGpuError) as caught:
        list_gpus()
    assert str(caught.value).startswith(f"No available GPU found: {cause}")
    assert "\n" not in str(caught.value)


def test_a_missing_module_is_told_with_cause_and_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(
        NoGpuError, match=r"No available GPU found: the module pynvml is missing .*`pip install nvidia-ml-py`"
    ):
        list_gpus()


def test_a_driver_without_a_gpu_is_told_with_cause_and_remedy(machine):
    machine()
    with pytest.raises(NoGpuError, match=r"the NVIDIA driver sees no GPU; compare `nvidia-smi -L`"):
        list_gpus()


def test_importing_the_room_needs_no_pynvml():
    script = "import sys; sys.modules['pynvml'] = None; import distexp.gpu.devices, distexp.gpu.claim"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_a_lost_gpu_is_a_value_and_hides_no_other(machine):
    machine(gpu(0, error="GpuIsLost"), gpu(1, 8000))
    lost, fine = list_gpus()
    assert (lost.index, lost.error, GpuRequest(0).refusal(lost)) == (0, "GPU is lost", "GPU is lost")
    assert (fine.index, fine.free_mib) == (1, 8000)
    assert choose_gpu([lost, fine], FOUR_GB) == fine


def test_mig_instances_stand_in_place_of_their_gpu(machine):
    machine(gpu(0, mig=[mig_instance(5, 9000), None, mig_instance(6, 3000)]), gpu(1))
    first, second, plain = list_gpus()
    assert [first.label, second.label, plain.label] == ["gpu0-mig0", "gpu0-mig2", "gpu1"]
    assert (first.uuid, first.free_mib, first.total_mib) == (mig_instance(5)["uuid"], 9000, 9984)
    assert first.parent_uuid == gpu(0)["uuid"] and first.utilization_pct is None


def test_a_gpu_in_mig_mode_without_instances_says_how_to_make_one(machine):
    machine(gpu(0, mig=[]))
    [found] = list_gpus()
    assert (found.name, GpuRequest(0).refusal(found)) == ("NVIDIA A100", found.error)
    assert "`nvidia-smi mig -cgi`" in found.error


# -- CUDA_VISIBLE_DEVICES

GPUS = [
    GpuStatus("GPU-aa11", 0, parent_uuid="GPU-aa11"),
    GpuStatus("GPU-aa22", 1, parent_uuid="GPU-aa22"),
    GpuStatus("MIG-bb11", 2, parent_uuid="GPU-cc33", mig=0),
    GpuStatus("MIG-bb22", 2, parent_uuid="GPU-cc33", mig=1),
]


@pytest.mark.parametrize(
    ("visible", "allowed"),
    [
        (None, ["GPU-aa11", "GPU-aa22", "MIG-bb11", "MIG-bb22"]),
        ("1", ["GPU-aa22"]),
        (" 1 , 0 ", ["GPU-aa22", "GPU-aa11"]),
        ("0,0", ["GPU-aa11"]),
        ("2", ["MIG-bb11", "MIG-bb22"]),
        ("GPU-aa2", ["GPU-aa22"]),
        ("GPU-aa", []),  # two GPUs begin so
        ("GPU-cc33", ["MIG-bb11", "MIG-bb22"]),
        ("MIG-bb22,MIG-bb11", ["MIG-bb22", "MIG-bb11"]),
        ("MIG-bb", []),
        ("MIG-bb22,0", ["MIG-bb22", "GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("0,7,1", ["GPU-aa11"]),
        ("0,,1", ["GPU-aa11"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_allow_what_cuda_would(visible, allowed):
    assert [found.uuid for found in visible_gpus(GPUS, visible)] == allowed


def test_a_list_keeps_to_the_visible_devices_and_keeps_the_index_of_the_machine(machine):
    machine(gpu(0), gpu(1), gpu(2))
    assert [found.label for found in list_gpus("2,1")] == ["gpu2", "gpu1"]


def test_a_lost_gpu_does_not_shift_the_indices_of_visible_devices(machine):
    machine(gpu(0, error="GpuIsLost"), gpu(1))
    assert [found.uuid for found in list_gpus("1")] == [gpu(1)["uuid"]]


def test_visible_devices_that_hide_all_gpus_are_told(machine):
    machine(gpu(0))
    with pytest.raises(NoGpuError) as caught:
        list_gpus("NoDevFiles")
    assert str(caught.value) == (
        "No available GPU found: CUDA_VISIBLE_DEVICES='NoDevFiles' allows none of "
        f"gpu0 {gpu(0)['uuid']}; correct or unset it, or run with --device cpu"
    )


# -- choose


def test_the_gpu_with_the_most_free_memory_is_chosen():
    assert choose_gpu([status_of(0, 5000), status_of(1, 9000), status_of(2, 7000)], FOUR_GB).index == 1


def test_of_two_equal_gpus_the_lowest_index_is_chosen():
    assert choose_gpu([status_of(2, 9000), status_of(1, 9000)], FOUR_GB).index == 1
    instances = [status_of(0, 9000, mig=1), status_of(0, 9000, mig=0)]
    assert choose_gpu(instances, FOUR_GB).mig == 0


@pytest.mark.parametrize(("free_mib", "qualifies"), [(4095, False), (4096, False), (4097, True)])
def test_a_gpu_needs_more_than_four_gb_not_just_four(machine, free_mib, qualifies):
    machine(gpu(0, free_mib))
    assert get_available_gpu() == (0 if qualifies else None)


def test_when_no_gpu_qualifies_the_error_lists_each_gpu_and_its_holders():
    busy = status_of(0, 1024, holders=("pid 1234 (python, 36.1 GB)", "pid 99"))
    lost = GpuStatus("", 1, error="GPU is lost")
    with pytest.raises(NoGpuError) as caught:
        choose_gpu([busy, lost], FOUR_GB)
    assert str(caught.value) == (
        "No available GPU found: no unclaimed GPU has more than 4 GB free "
        "(gpu0 NVIDIA A100: 1.0/40.0 GB free, held by pid 1234 (python, 36.1 GB), pid 99; "
        "gpu1 unknown: GPU is lost); "
        "wait, lower --min-free-gb, raise --slots-per-gpu, or run with --device cpu"
    )


def test_the_default_of_four_gb_can_be_overridden(machine):
    machine(gpu(0, 2000), gpu(1, 3000))
    assert get_available_gpu() is None
    assert get_available_gpu(min_free_gb=2.5) == 1
    assert (devices.MIN_FREE_GB, to_mib(2.5)) == (4.0, 2560)


def test_the_available_gpu_is_looked_for_within_the_visible_devices(machine, monkeypatch):
    machine(gpu(0, 30000), gpu(1, 20000))
    assert get_available_gpu() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert get_available_gpu() == 1


def test_no_gpu_is_available_without_a_driver(machine):
    machine(init="LibraryNotFound")
    assert get_available_gpu() is None


def test_a_gpu_on_which_others_compute_comes_last_and_with_idle_only_not_at_all():
    shared, empty, small = status_of(0, 30000, others=("ann",)), status_of(1, 9000), status_of(2, 5000)
    assert [gpu.index for gpu in GpuRequest(4096).in_order([shared, small, empty])] == [1, 2, 0]
    alone = GpuRequest(4096, idle_only=True)
    assert [gpu.index for gpu in alone.in_order([shared, empty])] == [1]
    with pytest.raises(NoGpuError, match=r"gpu0 .*, others compute on it\); wait, leave out --idle-only"):
        choose_gpu([shared], alone)


def test_gpu_ids_restrict_and_order(machine):
    machine(
        gpu(0, 30000), gpu(1, 20000), gpu(2, 9000), gpu(3, 8000, processes=[{"pid": 2**30, "used_mib": 1}])
    )
    request = GpuRequest(4096, ids=(3, 2, 1))
    assert [gpu.index for gpu in request.in_order(request.gpus())] == [2, 1, 3]
    with pytest.raises(UserError, match="--gpu-ids 4,9: no such GPU; those: gpu0, gpu1, gpu2, gpu3"):
        GpuRequest(ids=(1, 4, 9)).gpus()
    with pytest.raises(
        UserError, match="--gpu-ids 0: no such GPU; those that CUDA_VISIBLE_DEVICES='1' allows: gpu1"
    ):
        GpuRequest(ids=(0, 1), visible="1").gpus()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else"
)
def test_a_process_of_another_user_is_named_with_him_and_one_of_a_desktop_does_not_count(machine):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user="nobody") as other:
        process = {"pid": other.pid, "used_mib": 3174}
        machine(gpu(0, processes=[process]), gpu(1, graphics=[process]), gpu(2))
        busy, desktop, free = list_gpus()
        other.communicate()
    assert [busy.others, desktop.others, free.others] == [("nobody",), (), ()]
    assert re.fullmatch(r"pid \d+ \(cat of nobody, 3.1 GB\)", busy.holders[0])
    assert busy.holders == desktop.holders


def test_the_list_for_people_has_a_line_per_gpu():
    gpus = [
        status_of(0, 39936, utilization_pct=0),
        status_of(1, 1024, holders=("pid 1234 (python, 36.1 GB)",)),
        GpuStatus("", 2, error="GPU is lost"),
        status_of(3, 39936),
        status_of(4, 3584, total_mib=4096),
        status_of(5, 39936, others=("ann",), holders=("pid 7 (python of ann, 0.5 GB)",)),
    ]
    request = GpuRequest(4096, idle_only=True)
    assert describe_gpus(gpus, request, {gpus[3].uuid: "claimed by another worker (pid 7)"}) == [
        "gpu0  free  NVIDIA A100  39.0/40.0 GB free, 0 % in use",
        "gpu1  busy  NVIDIA A100  1.0/40.0 GB free, held by pid 1234 (python, 36.1 GB)",
        "gpu2  error  unknown  GPU is lost",
        "gpu3  busy  NVIDIA A100  39.0/40.0 GB free, claimed by another worker (pid 7)",
        "gpu4  too small  NVIDIA A100  3.5/4.0 GB free",
        "gpu5  busy  NVIDIA A100  39.0/40.0 GB free, held by pid 7 (python of ann, 0.5 GB), "
        "others compute on it",
    ]


# -- the stand-in is like the real module


@pytest.fixture
def real_nvml():
    """The module of the distribution nvidia-ml-py."""
    return importlib.import_module("pynvml")


def test_every_function_of_the_stand_in_has_the_real_parameters(real_nvml):
    functions = {name: value for name, value in vars(stand_in).items() if name.startswith("nvml")}
    assert len(functions) > 10
    for name, function in functions.items():
        assert inspect.signature(function) == inspect.signature(getattr(real_nvml, name)), name


def test_every_constant_and_error_of_the_stand_in_is_the_real_one(real_nvml):
    for name, value in vars(stand_in).items():
        if name.startswith("NVML_"):
            assert value == getattr(real_nvml, name), name
        if name.startswith("NVMLError_"):
            real_error = getattr(real_nvml, name)()
            assert (value.value, str(value())) == (real_error.value, str(real_error)), name


def test_every_nvml_name_that_the_room_uses_is_real(real_nvml):
    source = Path(devices.__file__).read_text()
    used = set(re.findall(r"nvml\.((?:nvml|NVML)\w+)", source)) | set(devices._INIT_FAILURES)
    assert "nvmlDeviceGetMemoryInfo" in used and len(used) > 15
    for name in used:
        assert hasattr(real_nvml, name), f"the real module has no {name}"
        assert hasattr(stand_in, name), f"the stand-in has no {name}"


@pytest.mark.gpu
def test_a_real_machine_lists_real_gpus():
    try:
        gpus = list_gpus()
    except NoGpuError as error:
        pytest.skip(str(error))
    assert all(found.error or (found.uuid and 0 <= found.free_mib <= found.total_mib) for found in gpus)
