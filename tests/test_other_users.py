"""What another user of the host can read, hold up or harm: shown with two real user ids."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distexp.errors import NoGpuError
from distexp.gpu.claim import CLAIM_FOLDER_VARIABLE, KEPT_S, PlaceInLine, claim_gpu, claim_gpus
from distexp.results.spool import Spool
from distexp.system import locks
from distexp.wire.client import Client
from distexp.wire.messages import RequestTask, Status, StatusReply, TaskReply
from distexp.wire.server import MAX_UNAUTHENTICATED
from distexp.workdir import Workdir
from tests.live_manager import Folder
from tests.live_worker import CONFIG, gated_folder, open_gate, worker_process
from tests.stand_in import pynvml as stand_in
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import ENVIRONMENT

pytestmark = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can become another user"
)
BECOME = """
import encodings.idna, fcntl, os, resource, signal, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
READABLE = {".gitignore", "final_results.csv", "log.txt", "params.json", "metrics.csv", "result.json"}


@pytest.fixture(autouse=True)
def open_tmp_path(tmp_path: Path) -> Iterator[None]:
    """Let other users through the folders of this test, and make files as most people's umask does."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    yield
    os.umask(before)


@contextmanager
def stranger(script: str, *words: object) -> Iterator[str]:
    """Run the script as another user until it says its first line, and end it at the end."""
    command = [sys.executable, "-c", f"{BECOME}{script}\nsys.stdin.read()", *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


OPENS = """
def can_open(path):
    try: open(path, 'rb').close()
    except PermissionError: return False
    return True
names = [os.path.join(at, name) for at, _, names in os.walk(sys.argv[1]) for name in names]
print(*sorted(filter(can_open, names)), flush=True)
"""


def test_only_configs_code_and_results_can_be_opened_by_another_user(tmp_path: Path) -> None:
    says = "print('HF_TOKEN=secret')\n"
    config = f"setup: python get_data.py\n{CONFIG}"
    folder = gated_folder(
        tmp_path, "[1]", f"def run(params, context):\n    {says}    return {{'score': 1}}\n", config
    )
    (tmp_path / "get_data.py").write_text(says)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private/key.pem").touch(0o644)
    workdir = Workdir(tmp_path)
    workdir.state.mkdir(0o755)  # of an older version
    (workdir.state / "slurm-7_0.log").touch(0o644)  # as the umask of a job has it
    open_gate(tmp_path)
    Spool(workdir.spool).put("kept", b"a row")
    with (
        folder.serving(freeze_code=True) as manager,
        worker_process(tmp_path, "localhost", manager.port) as worker,
    ):
        worker.await_words("completed")
        with stranger(OPENS, tmp_path) as found:
            own = [Path(name).relative_to(tmp_path) for name in found.split()]
    assert [*workdir.setups.glob("*.log")]
    assert [*workdir.code_copies.glob("*/private/key.pem")]
    assert not [each for each in own if each.parts[0].startswith(".experiment_") or each.name == "key.pem"]
    results = {each.name for each in own if each.parts[0] == "results_exp1"}
    assert {"final_results.csv", "log.txt"} <= results <= READABLE
    assert "experiment_manager.log" not in map(str, own)
    assert not [each for each in own if each.suffix in (".lock", ".log")]


def test_a_lock_that_an_earlier_version_left_open_is_closed_to_others_at_its_first_use(
    tmp_path: Path,
) -> None:
    path = tmp_path / "final_results.csv.lock"
    path.touch(0o644)
    locks.acquire(path).release()
    holds = "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print('held', flush=True)"
    with stranger(f"try:\n {holds}\nexcept PermissionError:\n print('refused', flush=True)", path) as said:
        assert said == "refused"
        locks.acquire(path).release()


SPOILS = """
folder, *uuids = sys.argv[1:]
at = [f"{folder}/{uuid}.slot0.lock" for uuid in uuids]
os.mkfifo(at[0]); os.mkdir(at[1]); os.symlink("/etc/passwd", at[2])
os.close(os.open(at[3], os.O_CREAT, 0o600))
with open(at[4], "w") as sparse: sparse.truncate(3 << 30)
os.chmod(at[4], 0o666)
os.chdir(folder); theirs = socket.socket(socket.AF_UNIX); theirs.bind(os.path.basename(at[6]))
leased = os.open(at[7], os.O_RDWR | os.O_CREAT)
signal.signal(signal.SIGIO, signal.SIG_IGN); fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(flush=True)
"""


def test_what_another_user_puts_into_the_claims_folder_is_not_waited_for_followed_or_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(tmp_path / "machine.json"))
    gpus = [gpu(index) for index in range(8)]
    write_scenario(tmp_path / "machine.json", *gpus)
    claims, thesis = tmp_path / "claims", tmp_path / "thesis.txt"
    monkeypatch.setenv("EXPERIMENT_GPU_CLAIMS", str(claims))
    claims.mkdir()
    claims.chmod(0o777)
    thesis.write_text("chapter 1")
    os.link(thesis, claims / f"{gpus[5]['uuid']}.slot0.lock")  # which Linux mostly refuses a stranger
    with (
        stranger(SPOILS, claims, *(each["uuid"] for each in gpus)),
        claim_gpu() as first,
        claim_gpu() as second,
        pytest.raises(NoGpuError) as none,
    ):
        assert (first.worker_id, second.worker_id) == ("gpu3", "gpu4")  # root opens the closed one, too
        claim_gpu()
    for why in (
        "not a regular file",
        "is a folder",
        "is a link",
        "has another name, too (a hard link)",
        "is a socket",
    ):
        assert why in str(none.value)
    assert thesis.read_text() == "chapter 1"
    assert thesis.stat().st_mode & 0o777 == 0o644


HOLDS = """
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666), fcntl.LOCK_EX)
print("held", flush=True)
"""


def test_another_user_who_holds_the_place_of_a_waiting_worker_costs_that_gpu_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(tmp_path / "machine.json"))
    monkeypatch.setenv(CLAIM_FOLDER_VARIABLE, str(tmp_path / "claims"))
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1), gpu(2))
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims").chmod(0o777)
    path = tmp_path / "claims" / f"{gpu(0)['uuid']}.wanted.lock"
    with stranger(HOLDS, path) as said:
        assert said == "held"
        with PlaceInLine() as place, claim_gpus(2, place=place) as two:
            assert two.worker_id == "gpu1+2"
            with pytest.raises(NoGpuError, match=rf"gpu0 .*kept for a worker that waits .*: {path}"):
                claim_gpu()
        os.utime(path, (path.stat().st_mtime - KEPT_S - 1,) * 2)
        with PlaceInLine() as place, claim_gpus(3, place=place) as three:
            assert three.worker_id == "gpu0+1+2"


CONNECTS = """
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
for each in held: each.sendall(bytes.fromhex(sys.argv[3]))
print(len(held), flush=True)
"""


@pytest.mark.parametrize("begun", ["", "160301", "7b22"], ids=["silent", "in a handshake", "in a message"])
def test_idle_connections_of_another_user_keep_nobody_out_who_has_the_secret(
    folder: Folder, begun: str
) -> None:
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({MAX_UNAUTHENTICATED + 200},) * 2)\n"
    with (
        folder.serving() as manager,
        stranger(limit + CONNECTS, manager.port, MAX_UNAUTHENTICATED + 100, begun) as held,
    ):
        assert int(held) == MAX_UNAUTHENTICATED + 100
        for name in ("first", "second"):
            with Client(Workdir(folder.root)) as client:
                assert client.call(RequestTask(worker_id=name), TaskReply)
                assert client.call(Status(), StatusReply).status.total == 3


# of a process that may not pass over the modes of files, as root does
AS_ANYBODY = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
only_where_root_can_be_anybody = pytest.mark.skipif(not shutil.which("setpriv"), reason="a program of Linux")


def closed(path: Path) -> Path:
    """Give a file or folder to another user, who lets nobody look into it."""
    os.chown(path, 65534, 65534)
    path.chmod(0o700 if path.is_dir() else 0o600)
    return path


@pytest.mark.slow
@only_where_root_can_be_anybody
def test_what_another_user_has_closed_in_a_shared_folder_is_named_and_stops_nobody(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.configure("[1, 2]", CONFIG)
    (tmp_path / "experiment.py").write_text("def run(params, context):\n    return {'score': 1}\n")
    for name in ("results_closed", "results_theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "final_results.csv").write_text("width,score\n1,1\n")
    closed(tmp_path / "results_theirs" / "final_results.csv")
    closed(tmp_path / "results_closed")
    (tmp_path / "data").symlink_to(tmp_path / "results_closed" / "data")
    run = [sys.executable, "-m", "distexp", "run", "--plain", "--port", "0", "--workers", "1"]
    done = subprocess.run(
        [*AS_ANYBODY, *run], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(folder.rows()) == 2
    for name in ("results_closed", "results_theirs"):
        path = tmp_path / name / "final_results.csv"
        assert f"{path}: cannot be read now (Permission denied)" in done.stdout
    for words in (["status"], ["plan"], ["tasks"], ["show", "exp1_vary_width_0_42"], ["report"]):
        look = [*AS_ANYBODY, sys.executable, "-m", "distexp", *words]
        done = subprocess.run(
            look, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


CLAIMS = """
from distexp.errors import NoGpuError
from distexp.gpu.claim import PlaceInLine, claim_gpu, claim_gpus
for claim in (claim_gpu, lambda: claim_gpus(2, place=PlaceInLine())):
    try: claim()
    except NoGpuError as error: print(*str(error).split())
"""


@only_where_root_can_be_anybody
def test_a_claims_folder_that_another_user_has_closed_is_named(tmp_path: Path) -> None:
    scenario, claims = tmp_path / "machine.json", tmp_path / "claims"
    write_scenario(scenario, gpu(0), gpu(1), gpu(2, free_mib=100))
    claims.mkdir()
    sees = environment(scenario, closed(claims))
    command = [*AS_ANYBODY, sys.executable, "-c", CLAIMS]
    done = subprocess.run(command, env=sees, capture_output=True, text=True, check=False)
    told = done.stdout.splitlines()
    assert len(told) == 2, done.stderr
    assert all("cannot be claimed: [Errno 13] Permission denied" in line for line in told)
