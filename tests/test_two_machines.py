"""README's section on several machines, with network namespaces as the machines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from distexp.workdir import Workdir
from tests.live_manager import Folder
from tests.live_worker import CONFIG, GATED
from tests.support import ENVIRONMENT, poll

HOUSE = Path(__file__).parent.parent
LISTEN = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
print("listens", flush=True)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(wire.recv(65535))
"""
RELAY = """
import sys
from benchmarks.chaos.relay import Relay
relay = Relay(lambda: int(sys.argv[2]), sys.argv[1])
relay.delay_s = 0.05
print(relay.port, flush=True)
for word in sys.stdin:
    getattr(relay, word.strip())()
    print("done", flush=True)
"""
SHIFTED = """
import datetime, time
real, now = time.time, datetime.datetime
time.time = lambda: real() + {shift_s}
class Shifted(now):
    @classmethod
    def now(cls, tz=None): return now.fromtimestamp(time.time(), tz)
datetime.datetime = Shifted
"""
STATUS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.sendall(b'{"type": "status"}')
    print(sock.makefile().readline())
"""
NAMES = ("here", "there", "far")
EXPERIMENT = "def run(params, context): return {'score': 10 * params['width']}\n"


def may_make_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not may_make_namespaces(), reason="network namespaces need Linux, root and the `ip` command"
    ),
]


@dataclass(frozen=True)
class Machine:
    """A network namespace with one address."""

    name: str
    address: str

    def start(self, *words: object, **more: object) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", self.name, sys.executable, *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)  # type: ignore[call-overload]

    def run(self, *words: object, **more: object) -> tuple[int, str]:
        """Return exit code and output of a Python program there."""
        process = self.start(*words, **more)
        output, _ = process.communicate(timeout=100)
        return process.returncode, output

    @contextmanager
    def running(self, *words: object, **more: object) -> Iterator["subprocess.Popen[str]"]:
        process = self.start(*words, **more)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@pytest.fixture
def three() -> Iterator[tuple[Machine, Machine, Machine]]:
    """Three machines at one switch, which stands at the first."""
    number = os.getpid()
    here, *others = (Machine(f"{name}{number}", f"10.77.0.{at}") for at, name in enumerate(NAMES, 1))
    made: list[Machine] = []
    try:
        for machine in (here, *others):
            ip(f"netns add {machine.name}")
            made.append(machine)
            ip(f"-n {machine.name} link set lo up")
        ip(f"-n {here.name} link add wire0 type bridge")
        for machine in others:
            port = f"port{machine.address[-1]}"
            ip(f"link add {port} netns {here.name} type veth peer name wire0 netns {machine.name}")
            ip(f"-n {here.name} link set {port} master wire0 up")
        for machine in (here, *others):
            ip(f"-n {machine.name} addr add {machine.address}/24 dev wire0")
            ip(f"-n {machine.name} link set wire0 up")
        yield here, *others  # type: ignore[misc]
    finally:
        for machine in made:
            ip(f"netns del {machine.name}")


@pytest.fixture
def machines(three: tuple[Machine, Machine, Machine]) -> tuple[Machine, Machine]:
    """Two machines and a cable between them."""
    return three[:2]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "here")
    folder.root.mkdir()
    folder.configure([1, 2], CONFIG)
    return folder


def port_of(folder: Folder) -> int:
    info = folder.root / ".experiment_manager" / "manager.json"
    poll(info.exists, "the manager's word where it serves")
    return int(json.loads(info.read_text())["port"])


def test_a_worker_on_another_machine_works_with_the_token_and_only_with_it(
    machines: tuple[Machine, Machine], folder: Folder, tmp_path: Path
) -> None:
    here, there = machines
    (elsewhere := tmp_path / "there").mkdir()
    (elsewhere / "experiment.py").write_text(EXPERIMENT)
    manager = (HOUSE / "experiment_manager.py", "--workdir", folder.root, "--port", 0, "--host", "0.0.0.0")
    runner = (HOUSE / "experiment_runner_gpu.py", "--device", "cpu", "--workdir", elsewhere)
    with here.running(*manager), here.running("-c", LISTEN, tmp_path / "heard") as ear:
        assert ear.stdout is not None
        assert ear.stdout.readline() == "listens\n"
        where = (here.address, port_of(folder))
        code, said = there.run("-c", STATUS, *where)
        assert code == 0
        assert "connection refused: clients on other machines must use TLS" in json.loads(said)["error"]
        code, said = there.run(*runner, *where)
        assert code == 1
        assert "missing; copy it from the manager's folder" in said
        shutil.copy(folder.root / ".experiment_manager" / "token", elsewhere / ".experiment_token")
        code, said = there.run(*runner, *where)
        assert code == 0, said
        code, said = there.run(HOUSE / "experiment_manager.py", "status", *where, "--workdir", elsewhere)
        assert json.loads(said)["progress"] == "2/2 (100.0%)"
    assert [row["score"] for row in folder.rows()] == ["10", "20"]
    heard = (tmp_path / "heard").read_bytes()
    assert b"clients on other machines must use TLS" in heard, "the ear hears"
    assert not any(word in heard for word in (b"exp1_vary_width", b"request_task", folder.token.encode()))


def test_a_worker_on_another_machine_outlives_a_cable_that_is_pulled(
    machines: tuple[Machine, Machine], folder: Folder, tmp_path: Path
) -> None:
    here, there = machines
    (elsewhere := tmp_path / "there").mkdir()
    (elsewhere / "experiment.py").write_text(
        "from pathlib import Path\nimport time\n"
        "def run(params, context):\n"
        "    Path(f'began{params[\"width\"]}').touch()\n"
        "    while not Path('gate').exists(): time.sleep(0.01)\n"
        "    return {'score': 1}\n"
    )
    manager = (HOUSE / "experiment_manager.py", "--workdir", folder.root, "--port", 0, "--host", "0.0.0.0")
    runner = (HOUSE / "experiment_runner_gpu.py", "--device", "cpu", "--workdir", elsewhere)
    with here.running(*manager):
        where = (here.address, port_of(folder))
        shutil.copy(folder.root / ".experiment_manager" / "token", elsewhere / ".experiment_token")
        with there.running(*runner, *where) as worker:
            poll((elsewhere / "began1").exists, "the first task's begin")
            ip(f"-n {there.name} link set wire0 down")
            (elsewhere / "gate").touch()
            spool = elsewhere / ".experiment_spool"
            poll(lambda: any(spool.glob("*.result")), "the result in the spool")
            ip(f"-n {there.name} link set wire0 up")
            assert worker.wait(100) == 0
    assert [row["attempt"] for row in folder.rows()] == ["1", "1"]


LAB = {
    "src/model.py": "import helper\ndef run(params, context):\n"
    "    return {'score': helper.TIMES * params['width'], 'data': open('data/set.txt').read().strip()}\n",
    "helper.py": "TIMES = 10\n",
    "get_data.sh": 'mkdir -p "$DISTEXP_WORKDIR/data"\necho digits > "$DISTEXP_WORKDIR/data/set.txt"\n',
    ".gitignore": "data/\nsecrets.txt\n",
    "secrets.txt": "not for others\n",
    "configs/config_exp1.yaml": "setup: bash get_data.sh\n"
    "defaults: {output_dir: ./results_exp1, experiment: 'model:run'}\n"
    "exp1_vary_width: {combinations: [{width: [1, 2]}]}\n",
}


def test_a_machine_with_nothing_but_the_address_and_the_token_fetches_code_and_data(
    machines: tuple[Machine, Machine], folder: Folder, tmp_path: Path
) -> None:
    here, there = machines
    (elsewhere := tmp_path / "empty folder").mkdir()
    for name, text in LAB.items():
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_text(text)
    subprocess.run(["git", "init", "-q", folder.root], check=True)
    manager = ("-m", "distexp", "manager", "--host", "0.0.0.0", "--port", 0)
    with here.running(*manager, cwd=folder.root, env=ENVIRONMENT):
        where = (here.address, port_of(folder))
        poll(Workdir(folder.root).token.exists, "the token")
        given = ENVIRONMENT | {"EXPERIMENT_TOKEN": folder.token_text}
        code, said = there.run(
            "-m", "distexp", "worker", *where, "--fetch", "--device", "cpu", cwd=elsewhere, env=given
        )
        assert code == 0, said
    assert [(row["score"], row["data"]) for row in folder.rows()] == [("10", "digits"), ("20", "digits")]
    fetched = {path.name for path in elsewhere.rglob("*") if path.is_file()}
    assert {*map(os.path.basename, LAB)} - {"secrets.txt"} < fetched
    assert not {"secrets.txt", "token", "certificate.pem", "final_results.csv"} & fetched
    assert (elsewhere / "data/set.txt").read_text() == "digits\n"


# -- three machines


def commit(folder: Path, message: str) -> str:
    """Make a commit of the folder's experiment and return it."""
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "experiment.py"], ["commit", "-q", "--allow-empty", "-m", message]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


@dataclass(frozen=True)
class Sweep:
    """A manager at the first of three machines, in a time that runs faster, and a folder at each."""

    machines: tuple[Machine, Machine, Machine]
    folder: Folder
    speed: float = 1.0

    def root(self, at: int) -> Path:
        return self.folder.root.parent / NAMES[at]

    def running(
        self, at: int, script: str, *words: object, **variables: str
    ) -> AbstractContextManager["subprocess.Popen[str]"]:
        """Start a script of the product at a machine, in that machine's own folder and by its name."""
        environment = {"CHAOS_WALL": "no such file", "CHAOS_HOST": NAMES[at], **variables}
        command = ("-m", "benchmarks.chaos.fast", self.speed, HOUSE / script, "--workdir", self.root(at))
        return self.machines[at].running(*command, *words, cwd=HOUSE, env=os.environ | environment)

    def manager(self) -> AbstractContextManager["subprocess.Popen[str]"]:
        return self.running(0, "experiment_manager.py", "--port", 0, "--host", "0.0.0.0")

    def worker(
        self, at: int, host: str = "", port: int = 0, **variables: str
    ) -> AbstractContextManager["subprocess.Popen[str]"]:
        """Start a worker there, with a copy of the token."""
        where = (host or self.machines[0].address, port or port_of(self.folder))
        if at:
            shutil.copy(
                self.folder.root / ".experiment_manager" / "token", self.root(at) / ".experiment_token"
            )
        return self.running(at, "experiment_runner_gpu.py", "--device", "cpu", *where, **variables)

    def await_began(self, at: int, attempt: int = 1) -> None:
        poll(lambda: any(self.root(at).glob(f"began-*-{attempt}")), f"attempt {attempt} at {NAMES[at]}", 90)

    def open_gate(self, *places: int) -> None:
        for at in places:
            (self.root(at) / "gate").touch()


@pytest.fixture
def sweep(three: tuple[Machine, Machine, Machine], folder: Folder) -> Sweep:
    made = Sweep(three, folder)
    for at in range(3):
        made.root(at).mkdir(exist_ok=True)
        (made.root(at) / "experiment.py").write_text(GATED)
    return made


def test_three_machines_share_a_sweep_and_the_one_with_other_code_is_told(sweep: Sweep) -> None:
    sweep.folder.configure([1, 2, 3], CONFIG)
    first = commit(sweep.root(0), "First")
    shutil.copytree(sweep.root(0) / ".git", sweep.root(1) / ".git")
    other = commit(sweep.root(2), "Other")
    with sweep.manager(), sweep.worker(0) as near, sweep.worker(1) as there, sweep.worker(2) as far:
        for at in range(3):
            sweep.await_began(at)
        poll(lambda: any("git commit" in line for line in sweep.folder.log()), "the warning", 90)
        sweep.open_gate(0, 1, 2)
        assert [worker.wait(100) for worker in (near, there, far)] == [0, 0, 0]
    rows = sorted(sweep.folder.rows(), key=lambda row: row["host"])
    assert [(row["host"], row["git_commit"]) for row in rows] == [
        ("far", other), ("here", first), ("there", first),
    ]  # fmt: skip
    assert sorted(row["score"] for row in rows) == ["10", "20", "30"]
    assert not any((sweep.root(at) / "results_exp1" / "final_results.csv").exists() for at in (1, 2))
    warnings = [line for line in sweep.folder.log() if "git commit" in line]
    assert warnings == [
        f"Worker far/cpu0 runs the code of git commit {other[:10]}, the manager's folder is at {first[:10]}; "
        "column git_commit of its rows says so"
    ]


def test_a_machine_cut_off_for_longer_than_its_lease_gives_way_and_comes_back(sweep: Sweep) -> None:
    sweep = replace(sweep, speed=4)  # a lease of 15 s
    sweep.folder.configure([1], CONFIG)
    with sweep.manager(), sweep.worker(1) as there:
        sweep.await_began(1)
        ip(f"-n {sweep.machines[1].name} link set wire0 down")
        with sweep.worker(2) as far:
            sweep.await_began(2, attempt=2)
            sweep.open_gate(2)
            assert far.wait(100) == 0
        ip(f"-n {sweep.machines[1].name} link set wire0 up")
        said, _ = there.communicate(timeout=100)
        assert there.returncode == 0
        assert (
            "Task exp1_vary_width_0_42 was cancelled or completed by another worker; its result is not wanted"
            in said
        )
    (row,) = sweep.folder.rows()
    assert (row["host"], row["attempt"]) == ("far", "2")
    assert any("lost by there/cpu0: no sign of life (loss 1 of 5" in line for line in sweep.folder.log())


def spooled(root: Path) -> bool:
    return any((root / ".experiment_spool").glob("*.result"))


def tell(relay: "subprocess.Popen[str]", word: str) -> None:
    """Let the relay do as it is told, and return once it has."""
    assert relay.stdout is not None and relay.stdin is not None
    relay.stdin.write(f"{word}\n")
    relay.stdin.flush()
    assert relay.stdout.readline() == "done\n"


def test_a_slow_link_that_stalls_and_resets_costs_no_attempt(sweep: Sweep) -> None:
    sweep.folder.configure([1, 2], CONFIG)
    with sweep.manager():
        ears = {"stdin": subprocess.PIPE, "cwd": HOUSE}
        there, target = sweep.machines[1], (sweep.machines[0].address, port_of(sweep.folder))
        with there.running("-c", RELAY, *target, **ears) as relay:
            assert relay.stdout is not None
            port = int(relay.stdout.readline())
            with sweep.worker(1, "localhost", port) as worker:
                sweep.await_began(1)
                tell(relay, "stall")
                sweep.open_gate(1)
                poll(lambda: spooled(sweep.root(1)), "the result in the spool", 90)
                tell(relay, "cut")
                tell(relay, "heal")
                assert worker.wait(100) == 0
    assert [(row["score"], row["attempt"]) for row in sweep.folder.rows()] == [("10", "1"), ("20", "1")]


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_a_clock_an_hour_off_dates_rows_and_changes_nothing_else(
    sweep: Sweep, tmp_path: Path, off: timedelta
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHIFTED.format(shift_s=off.total_seconds()))
    sweep.folder.configure([1, 2, 3], CONFIG)
    sweep.open_gate(0, 2)
    with sweep.manager(), sweep.worker(2, PYTHONPATH=str(tmp_path)) as far:
        said, _ = far.communicate(timeout=100)
        assert far.returncode == 0, said
        code, view = sweep.machines[0].run(
            HOUSE / "experiment_manager.py", "status", "localhost", "--workdir", sweep.root(0)
        )
        assert (code, json.loads(view)["progress"]) == (0, "3/3 (100.0%)")
    rows = sweep.folder.rows()
    assert [(row["width"], row["attempt"]) for row in rows] == [("1", "1"), ("2", "1"), ("3", "1")]
    ahead = [datetime.fromisoformat(row["started_utc"]) - datetime.now(UTC) for row in rows]
    assert all(off - timedelta(minutes=10) < each <= off for each in ahead), ahead
    assert all(0 <= float(row["duration_s"]) < 600 for row in rows)
    assert not [line for line in sweep.folder.log() if "lost by" in line or "failed on" in line]
    code, said = sweep.machines[0].run(HOUSE / "experiment_manager.py", "report", "--workdir", sweep.root(0))
    assert code == 0, said
