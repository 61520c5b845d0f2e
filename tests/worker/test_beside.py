"""Disks that hang: the worker's loop goes on sending heartbeats and hears signals."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distexp.errors import DiskHangs
from distexp.system.beside import Latest
from distexp.wire.auth import TOKEN_VARIABLE
from distexp.wire.client import Client
from distexp.wire.messages import TaskReply
from distexp.workdir import Workdir
from distexp.worker.beside import GRACE_S, DiskSteps
from distexp.worker.connection import HEARTBEAT_S, ManagerConnection
from distexp.worker.signals import StopRequests
from tests.live_child import await_gone
from tests.live_worker import DEADLINE_S, GATED, RUNNER, await_file, await_rows, gated_folder
from tests.row_cases import tasks_of
from tests.support import Clock, poll

TASK = tasks_of(1)[0]
TOOLS = ("mkfs.ext4", "mount", "fsfreeze")
needs_a_disk = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason="only root can mount a disk and freeze it",
)


class Steps(ManagerConnection):
    """A connection that takes the next step of a test instead of waiting."""

    steps: list[Callable[[], object]]

    def wait(self, timeout_s: float, more: Any = ()) -> None:
        self.steps.pop(0)()


@pytest.fixture
def stop() -> Iterator[StopRequests]:
    made = StopRequests()
    yield made
    made.close()


def test_while_a_disk_hangs_heartbeats_are_sent_until_a_stop_is_asked_for(
    tmp_path: Path, stop: StopRequests
) -> None:
    clock, beats, gate = Clock(), list[float](), threading.Event()
    connection = Steps(Client(Workdir(tmp_path)), stop, clock, manager_wait_s=60)

    def heartbeat(task: TaskReply) -> bool:
        beats.append(clock.now_s)
        connection.next_heartbeat_s = clock.now_s + HEARTBEAT_S
        return True

    disk = DiskSteps(connection=connection, stop=stop, clock=clock, heartbeat=heartbeat)
    fields = {name: getattr(TASK, name) for name in TASK.__struct_fields__}
    task = TaskReply(**fields, lease_id="lease1", attempt=1, writes_row=True, sweep_id="sweep1")
    connection.next_heartbeat_s = clock.now_s + HEARTBEAT_S
    began_s = clock.now_s
    connection.steps = [
        lambda: clock.advance(HEARTBEAT_S),
        lambda: clock.advance(HEARTBEAT_S),
        stop.interrupt,
        lambda: clock.advance(GRACE_S),
        stop.interrupt,
    ]
    with pytest.raises(DiskHangs, match="the disk has not answered for 40 s"):
        disk.wait(gate.wait, task)
    assert beats == [began_s + HEARTBEAT_S, began_s + 2 * HEARTBEAT_S]
    connection.steps = [gate.set, lambda: clock.advance(0.1)]
    connection.steps += [lambda: None] * 1000
    assert disk.try_(gate.wait, None, False), "a disk that answers in time is heard, also then"


def test_what_a_hanging_disk_last_told_is_taken_for_what_it_would_tell() -> None:
    gate, told = threading.Event(), iter(["one", "two", "three"])
    gate.set()

    def read() -> str:
        gate.wait()
        return next(told)

    latest = Latest(read, "")
    assert latest.read(DEADLINE_S) == "one"
    gate.clear()
    assert [latest.read(0.0), latest.read(DEADLINE_S)] == ["one", "one"]
    gate.set()
    poll(lambda: latest.read(0.0) != "one", "it answers again")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, which `fsfreeze -f` lets hang."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no images")
    try:
        yield folder
    finally:
        subprocess.run(["fsfreeze", "-u", folder], capture_output=True, check=False)
        subprocess.run(["umount", "-l", folder], check=True)


def write_experiment(folder: Path, gate: Path) -> None:
    """Write one that tells its pid, and waits for a gate that is somewhere else."""
    source = GATED.replace('Path("gate")', f"Path({str(gate)!r})")
    source = source.replace("    Path(f", "    Path('pid').write_text(str(os.getpid()))\n    Path(f", 1)
    (folder / "experiment.py").write_text(f"import os\n{source}", encoding="utf-8")


@needs_a_disk
def test_a_worker_whose_disk_hangs_hears_ctrl_c_and_hands_its_result_to_the_manager(
    tmp_path: Path, disk: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    folder = gated_folder(home, "[1]")
    write_experiment(disk, tmp_path / "gate")
    with folder.serving() as manager, open(tmp_path / "worker.out", "w+", encoding="utf-8") as output:
        environment = os.environ | {TOKEN_VARIABLE: folder.token_text}
        words = ["localhost", str(manager.port), "--device", "cpu", "--workdir", str(disk)]
        process = subprocess.Popen(
            [sys.executable, RUNNER, *words],
            cwd=disk,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            await_file(disk / "began-1-1")
            child = int((disk / "pid").read_text())
            subprocess.run(["fsfreeze", "-f", disk], check=True)
            (tmp_path / "gate").touch()
            await_gone(child)  # so no further Ctrl+C is for the task
            process.send_signal(signal.SIGINT)
            poll(lambda: "Finishing the current task" in _text(tmp_path), "it hears Ctrl+C")

            def is_there() -> bool:
                process.send_signal(signal.SIGINT)
                return folder.csv.is_file()

            poll(is_there, "the result is with the manager")
            (row,) = await_rows(folder, 1)
            assert row["score"] == "10"
            assert "the result of exp1_vary_width_0_42 is in memory alone" in _text(tmp_path)
            subprocess.run(["fsfreeze", "-u", disk], check=True)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            subprocess.run(["fsfreeze", "-u", disk], capture_output=True, check=False)
            process.wait(DEADLINE_S)


def _text(folder: Path) -> str:
    return (folder / "worker.out").read_text(encoding="utf-8")
