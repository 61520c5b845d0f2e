"""README's section on several machines, with two network namespaces as the machines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from live_manager import Folder
from live_worker import CONFIG
from support import poll

HOUSE = Path(__file__).parent.parent
LISTEN = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
print("listens", flush=True)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(wire.recv(65535))
"""
STATUS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.sendall(b'{"type": "status"}')
    print(sock.makefile().readline())
"""
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
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines and a cable between them."""
    number = os.getpid()
    here, there = Machine(f"here{number}", "10.77.0.1"), Machine(f"there{number}", "10.77.0.2")
    made = []
    try:
        for machine in (here, there):
            ip(f"netns add {machine.name}")
            made.append(machine)
        ip(f"link add wire0 netns {here.name} type veth peer name wire0 netns {there.name}")
        for machine in (here, there):
            ip(f"-n {machine.name} addr add {machine.address}/24 dev wire0")
            ip(f"-n {machine.name} link set wire0 up")
            ip(f"-n {machine.name} link set lo up")
        yield here, there
    finally:
        for machine in made:
            ip(f"netns del {machine.name}")


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
        assert (
            "found a message in the clear, expected TLS from an address that is not loopback"
            in json.loads(said)["error"]
        )
        code, said = there.run(*runner, *where)
        assert code == 1
        assert "found no file, expected a copy of that in the manager's folder" in said
        shutil.copy(folder.root / ".experiment_token", elsewhere)
        code, said = there.run(*runner, *where)
        assert code == 0, said
        code, said = there.run(HOUSE / "experiment_manager.py", "status", *where, "--workdir", elsewhere)
        assert json.loads(said)["progress"] == "2/2 (100.0%)"
    assert [row["score"] for row in folder.rows()] == ["10", "20"]
    heard = (tmp_path / "heard").read_bytes()
    assert b"in the clear, expected TLS" in heard, "the ear hears"
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
        shutil.copy(folder.root / ".experiment_token", elsewhere)
        with there.running(*runner, *where) as worker:
            poll((elsewhere / "began1").exists, "the first task's begin")
            ip(f"-n {there.name} link set wire0 down")
            (elsewhere / "gate").touch()
            spool = elsewhere / ".experiment_spool"
            poll(lambda: any(spool.glob("*.result")), "the result in the spool")
            ip(f"-n {there.name} link set wire0 up")
            assert worker.wait(100) == 0
    assert [row["attempt"] for row in folder.rows()] == ["1", "1"]
