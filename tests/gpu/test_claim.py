"""Who gets which GPU: claims in this process, and races, kills and users with real processes."""

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import (
    CLAIM_FOLDER_VARIABLE,
    INSTANT_S,
    claim_cpu,
    claim_gpu,
    default_claim_folder,
    taken_slots,
    unclaimable,
)
from distexp.gpu.devices import GpuRequest, describe_gpus, list_gpus
from distexp.system import locks
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, mig_instance, write_scenario

FOUR_GB = 4 * 1024
UUID0, UUID1 = gpu(0)["uuid"], gpu(1)["uuid"]
posix_only = pytest.mark.skipif(os.name != "posix", reason="uses POSIX modes, users, fork or inherited pipes")


@pytest.fixture
def scenario(tmp_path):
    return tmp_path / "machine.json"


@pytest.fixture
def machine(scenario, monkeypatch):
    """Return a function that makes this process see the GPUs it is given."""
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario))
    yield lambda *gpus: write_scenario(scenario, *gpus)
    assert stand_in.open_count() == 0, "an nvmlInit lacks its nvmlShutdown"


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Return the claim folder of this test, which is that of this process meanwhile."""
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, str(tmp_path / "claims"))
    return tmp_path / "claims"


@pytest.fixture
def claim(machine, claims):
    """Return `claim_gpu` in the claim folder of this test; what it claims is released at the end."""
    with contextlib.ExitStack() as held:

        def claim_here(min_free_mib=FOUR_GB, *, slots=1, **more):
            request = GpuRequest(min_free_mib, **more)
            return held.enter_context(claim_gpu(request, slots=slots))

        yield claim_here


@pytest.fixture
def start(scenario, claims):
    """Return a function that starts a Python script as workers are started; all are killed at the end."""
    started = []

    def start_here(script, *arguments, **more):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=environment(scenario, claims),
            stdout=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        return process

    yield start_here
    for process in started:
        process.kill()
        with process:  # closes its pipes and waits for it
            pass


# -- one process


def test_a_claim_names_the_worker_and_pins_its_children_to_the_gpu(machine, claim):
    machine(gpu(0, 9000), gpu(1, 20000))
    got = claim()
    assert (got.worker_id, got.device, got.device_name, got.total_mib) == (
        "gpu1",
        "cuda:0",
        "NVIDIA A100",
        40960,
    )
    assert got.environment() == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": UUID1}


def test_two_claims_get_two_equal_gpus_and_a_third_gets_none(machine, claim, claims):
    machine(gpu(0), gpu(1))
    assert [claim().worker_id, claim().worker_id] == ["gpu0", "gpu1"]
    with pytest.raises(NoGpuError) as caught:
        claim()
    by = (
        f"claimed by another worker (pid {os.getpid()})"
        if os.name == "posix"
        else "claimed by another worker"
    )
    assert str(caught.value) == (
        "No available GPU found: no unclaimed GPU has more than 4 GB free "
        f"(gpu0 NVIDIA A100: 19.5/40.0 GB free, {by}; gpu1 NVIDIA A100: 19.5/40.0 GB free, {by}); "
        "wait, lower --min-free-gb, raise --slots-per-gpu, or run with --device cpu"
    )


def test_a_look_names_the_gpus_whose_every_slot_is_taken_and_takes_none(machine, claim, claims):
    machine(gpu(0), gpu(1))
    gpus = list_gpus()
    assert unclaimable(gpus) == {}
    assert not claims.exists()
    claim()
    for _ in range(2):
        assert unclaimable(gpus).keys() == {UUID0}
        assert unclaimable(gpus, slots=2) == {}
    assert [claim(slots=2).worker_id for _ in range(3)] == ["gpu1", "gpu0.1", "gpu1.1"]
    reasons = unclaimable(gpus, slots=2)
    assert all(reason.startswith("claimed by another worker") for reason in reasons.values())
    assert reasons.keys() == {UUID0, UUID1}


def test_a_released_gpu_can_be_claimed_again(machine, claim):
    machine(gpu(0))
    first = claim()
    first.release()
    first.release()
    assert claim().worker_id == "gpu0"


def test_of_a_claim_that_somebody_deletes_two_workers_share_the_gpu(machine, claim, claims):
    machine(gpu(0))
    first = claim()
    [lock_file] = claims.iterdir()
    lock_file.unlink()
    second = claim()
    assert (first.worker_id, second.worker_id) == ("gpu0", "gpu0")
    with pytest.raises(NoGpuError, match="claimed by another worker"):
        claim()


def test_a_busy_gpu_is_passed_over_and_all_busy_is_an_error(machine, claim):
    machine(gpu(0, FOUR_GB), gpu(1, FOUR_GB + 1))
    assert claim().worker_id == "gpu1"
    machine(gpu(0, 100, processes=[{"pid": 2**30, "used_mib": 40000}]), gpu(1, error="GpuIsLost"))
    with pytest.raises(NoGpuError, match=rf"held by pid {2**30} \(39.1 GB\); gpu1 unknown: GPU is lost"):
        claim()


def test_slots_are_shared_only_when_every_gpu_has_a_worker(machine, claim):
    machine(gpu(0, 20000), gpu(1, 30000))
    assert [claim(slots=2).worker_id for _ in range(4)] == ["gpu1", "gpu0", "gpu1.1", "gpu0.1"]
    with pytest.raises(NoGpuError):
        claim(slots=2)


def test_a_shared_gpu_still_needs_more_free_memory_than_asked_for(machine, claim):
    machine(gpu(0))
    claim(slots=2)
    machine(gpu(0, FOUR_GB))
    with pytest.raises(NoGpuError, match=r"4\.0/40\.0 GB free"):
        claim(slots=2)


def test_memory_taken_between_list_and_lock_lets_the_gpu_go(machine, claim, claims):
    machine(gpu(0, [30000, 100]), gpu(1, [20000, 20000]))
    assert claim().worker_id == "gpu1"
    machine(gpu(0), gpu(1))
    assert claim().worker_id == "gpu0"  # its lock was let go


def test_a_gpu_lost_between_list_and_lock_is_let_go(machine, claim, claims):
    machine(gpu(0, [30000, "GpuIsLost"]))
    with pytest.raises(NoGpuError, match="its memory was taken in this moment"):
        claim()
    machine(gpu(0))
    assert claim().worker_id == "gpu0"


def test_mig_instances_are_claimed_one_by_one(machine, claim):
    machine(gpu(0, mig=[mig_instance(1), mig_instance(2)]))
    first, second = claim(), claim()
    assert [first.worker_id, second.worker_id] == ["gpu0-mig0", "gpu0-mig1"]
    assert first.environment()["CUDA_VISIBLE_DEVICES"] == mig_instance(1)["uuid"]


def test_the_uuid_of_an_old_mig_driver_can_be_claimed(machine, claim):
    machine(gpu(0, mig=[mig_instance(uuid="MIG-GPU-aa11/1/0")]))
    assert claim().environment()["CUDA_VISIBLE_DEVICES"] == "MIG-GPU-aa11/1/0"


def test_a_claim_keeps_to_the_visible_devices(machine, claim):
    machine(gpu(0), gpu(1))
    assert claim(visible="1").worker_id == "gpu1"
    with pytest.raises(NoGpuError):
        claim(visible="1")


def test_cpu_workers_are_counted_per_folder_from_the_lowest_free(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    with claim_cpu(here) as first, claim_cpu(here) as second, claim_cpu(there) as other:
        assert [first.worker_id, second.worker_id, other.worker_id] == ["cpu0", "cpu1", "cpu0"]
        first.release()
        with claim_cpu(here) as again:
            assert again.worker_id == "cpu0"
        assert (second.gpus, second.device, second.device_name) == ((), "cpu", "cpu")
        assert second.total_mib == psutil.virtual_memory().total // 2**20


def test_a_cpu_worker_sees_no_gpu(machine, claim, tmp_path):
    machine(gpu(0))
    with claim_cpu(tmp_path) as claim_, pytest.raises(NoGpuError, match="allows none"):
        claim(visible=claim_.environment()["CUDA_VISIBLE_DEVICES"])


# -- folder and files


def test_a_claim_folder_that_is_a_file_is_told_with_path_and_remedy(machine, claim, claims):
    machine(gpu(0))
    claims.write_text("")
    with pytest.raises(UserError, match=rf"^{claims}.*use a local folder.*{CLAIM_FOLDER_VARIABLE}="):
        claim()


def test_a_claim_folder_that_cannot_be_made_is_told_with_path_and_remedy(machine, tmp_path, monkeypatch):
    machine(gpu(0))
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, str(tmp_path / "file" / "claims"))
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path}/file/claims cannot be made \(Not a directory\): set {CLAIM_FOLDER_VARIABLE}",
    ):
        claim_gpu()


def test_the_claim_folder_of_the_host_ignores_tmpdir(monkeypatch):
    monkeypatch.delenv(CLAIM_FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/slurm.4711")
    expected = "/tmp/distexp-gpu-claims" if os.name == "posix" else r"C:\ProgramData\distexp-gpu-claims"
    assert default_claim_folder() == Path(expected)
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, "/elsewhere")
    assert default_claim_folder() == Path("/elsewhere")


CLAIM_UNDER_A_STRICT_UMASK = """
import os
os.umask(0o077)
from distexp.gpu.claim import claim_gpu
claim_gpu()
"""


@posix_only
def test_folder_and_files_are_open_to_all_users_whatever_the_umask(scenario, claims, start):
    write_scenario(scenario, gpu(0))
    assert start(CLAIM_UNDER_A_STRICT_UMASK).wait() == 0
    [lock_file] = claims.iterdir()
    assert stat.S_IMODE(claims.stat().st_mode) == 0o777  # no sticky bit
    assert stat.S_IMODE(lock_file.stat().st_mode) == 0o666
    assert lock_file.name == f"{UUID0}.slot0.lock"


CLAIM_AS_ANOTHER_USER = """
import os
import pynvml
from distexp.gpu.claim import claim_gpu
from distexp.errors import NoGpuError
os.setgid(65534)
os.setuid(65534)
try:
    print(claim_gpu().worker_id)
except NoGpuError as error:
    print(error)
"""


@pytest.fixture
def open_tmp_path(tmp_path):
    """Let other users through the folders of this test."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_users_exclude_each_other_and_can_take_over_each_others_files(
    scenario, claims, start, claim, open_tmp_path
):
    write_scenario(scenario, gpu(0))
    mine = claim()
    assert "claimed by another worker" in start(CLAIM_AS_ANOTHER_USER).communicate()[0]
    mine.release()
    assert start(CLAIM_AS_ANOTHER_USER).communicate()[0] == "gpu0\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_another_user_closed_is_told_with_path_and_mode(
    scenario, claims, start, claim, open_tmp_path
):
    write_scenario(scenario, gpu(0))
    claim().release()
    [lock_file] = claims.iterdir()
    lock_file.chmod(0o600)
    told = start(CLAIM_AS_ANOTHER_USER).communicate()[0]
    assert f"cannot be claimed: [Errno 13] Permission denied: '{lock_file}'" in told
    assert "; the folder needs mode 0777, its files 0666" in told


# -- many processes

RACE = """
import os, sys
import pynvml
from distexp.gpu.claim import PlaceInLine, claim_gpu, claim_gpus, unclaimable
from distexp.gpu.devices import list_gpus
from distexp.errors import NoGpuError

def claim_pair(gpus):
    while True:  # as a worker does: another one may be first in line, and leave it the next moment
        try:
            with PlaceInLine() as place:
                return claim_gpus(gpus, place=place)
        except NoGpuError:
            taken = [why for why in unclaimable(list_gpus()).values() if why.startswith("claimed")]
            if len(taken) >= 2 * gpus:
                raise

held, folder = [], os.environ["EXPERIMENT_GPU_CLAIMS"]
slots, gpus = map(int, sys.argv[1].split("/"))
for barrier in map(int, sys.argv[2:]):
    print("ready", flush=True)
    os.read(barrier, 1)  # returns in all processes at once: when the test closes the other end
    try:
        os.environ["EXPERIMENT_GPU_CLAIMS"] = os.path.join(folder, str(barrier))  # fresh in each round
        held.append(claim_pair(gpus) if gpus > 1 else claim_gpu(slots=slots))
        print(held[-1].worker_id, flush=True)
    except NoGpuError:
        print("none", flush=True)
sys.stdin.read()  # hold what was claimed until the test is over
"""


def race(start, *, workers, slots=1, gpus=1, rounds=4):
    """Return, for each round, what each of the workers got that began in the same instant."""
    pipes = [os.pipe() for _ in range(rounds)]
    readers = [reader for reader, _ in pipes]
    processes = [
        start(RACE, f"{slots}/{gpus}", *readers, pass_fds=readers, stdin=subprocess.PIPE)
        for _ in range(workers)
    ]
    outcomes = []
    for _reader, writer in pipes:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * workers
        os.close(writer)
        outcomes.append(sorted(process.stdout.readline().strip() for process in processes))
    for reader in readers:
        os.close(reader)
    return outcomes


@posix_only
def test_of_six_workers_started_at_once_exactly_one_gets_the_gpu(scenario, start):
    write_scenario(scenario, gpu(0))
    assert race(start, workers=6) == [["gpu0"] + ["none"] * 5] * 4


@posix_only
def test_two_workers_started_at_once_get_two_equal_gpus(scenario, start):
    write_scenario(scenario, gpu(0), gpu(1))
    assert race(start, workers=2) == [["gpu0", "gpu1"]] * 4


@posix_only
def test_six_workers_started_at_once_fill_two_slots_of_two_gpus(scenario, start):
    write_scenario(scenario, gpu(0), gpu(1))
    filled = ["gpu0", "gpu0.1", "gpu1", "gpu1.1", "none", "none"]
    assert race(start, workers=6, slots=2) == [filled] * 4


@pytest.mark.slow
@posix_only
def test_of_six_workers_started_at_once_as_many_get_two_gpus_as_there_are_pairs(scenario, start):
    write_scenario(scenario, *map(gpu, range(5)))
    for got in race(start, workers=6, gpus=2):
        pairs = [name.removeprefix("gpu").split("+") for name in got if name != "none"]
        assert len(pairs) == 2
        assert len({index for pair in pairs for index in pair}) == 4


CLAIM_WITH_CHILD = """
import multiprocessing, os, signal, subprocess, sys
from distexp.gpu.claim import claim_gpu
claim = claim_gpu()
live = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
kind = sys.argv[1]
if kind == "os.fork":
    if os.fork() == 0:
        exec(live)
elif kind == "subprocess":
    child = subprocess.Popen([sys.executable, "-c", live], close_fds=False)
else:
    multiprocessing.get_context(kind).Process(target=exec, args=(live,)).start()
signal.pause()
"""


@posix_only
@pytest.mark.parametrize("kind", ["os.fork", "fork", "forkserver", "subprocess"])
def test_a_claim_dies_with_its_worker_though_a_child_lives_on(machine, claim, start, kind):
    machine(gpu(0))
    worker = start(CLAIM_WITH_CHILD, kind)
    child = psutil.Process(int(worker.stdout.readline()))  # the child itself says that it lives
    with pytest.raises(NoGpuError, match=rf"claimed by another worker \(pid {worker.pid}\)"):
        claim()  # the child did not free the lock either
    try:
        child.suspend()  # it must not leave by itself
        worker.kill()
        worker.wait()
        assert child.is_running()
        assert claim().worker_id == "gpu0"
    finally:
        child.kill()


def test_workers_that_share_by_memory_join_a_gpu_that_others_of_them_have_filled(machine, claim):
    machine(gpu(0, 20_000), gpu(1, 3000))
    auto = {"slots": 16, "joins": True}
    assert claim(**auto).worker_id == "gpu0"
    machine(gpu(0, 100), gpu(1, 3000))
    assert claim(**auto).worker_id == "gpu0.1"
    assert taken_slots(list_gpus()) == {UUID0: 2}
    machine(gpu(0, 100), gpu(1, 5000))
    assert claim(**auto).worker_id == "gpu1"
    machine(gpu(0, 100), gpu(1, 3000))
    with pytest.raises(NoGpuError, match=r"gpu0 NVIDIA A100: 0.1/40.0 GB free"):
        claim(slots=16)


def test_workers_that_share_do_not_wait_at_each_slot_that_others_have(machine, claim, monkeypatch):
    machine(gpu(0), gpu(1))
    for _ in range(6):
        claim(slots=16, joins=True)
    waits, acquire = [], locks.acquire

    def noted(path, wait_s=0.0, **more):
        waits.append(wait_s)
        return acquire(path, wait_s, **more)

    monkeypatch.setattr(locks, "acquire", noted)
    assert claim(slots=16, joins=True).worker_id == "gpu0.3"
    assert sum(waits) <= 2 * INSTANT_S, "a look at each GPU"
    waits.clear()
    assert taken_slots(list_gpus()) == {UUID0: 4, UUID1: 3}
    assert sum(waits) == 0


def test_nobody_joins_a_gpu_that_is_too_small_for_a_task_alone(machine, claim):
    machine(gpu(0, 3000, total_mib=4000))
    claim(1000)
    with pytest.raises(NoGpuError, match="too small"):
        claim(slots=16, joins=True)


def test_a_list_of_gpus_says_how_many_workers_share_each(machine, claim):
    machine(gpu(0, 20_000), gpu(1, 3000))
    for _ in range(2):
        claim(slots=16, joins=True)
    machine(gpu(0, 100), gpu(1, 3000))
    found, request = list_gpus(), GpuRequest(FOUR_GB, joins=True)
    taken = taken_slots(found)
    assert describe_gpus(found, request, unclaimable(found, slots=16), taken) == [
        "gpu0  free  NVIDIA A100  0.1/40.0 GB free, 2 workers on it",
        "gpu1  busy  NVIDIA A100  2.9/40.0 GB free",
    ]
