"""A working folder on a network drive without locks: journal and locks lie on the manager's own disk."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from distexp.cli.records import journal_of
from distexp.errors import AlreadyRunning, UserError
from distexp.launcher import bootstrap
from distexp.manager import network_folder
from distexp.manager.network_folder import NetworkFolder, host_at_work, place_of
from distexp.queue.journal import Journal
from distexp.queue.records import TaskRecord
from distexp.system import locks, network_drives
from distexp.system.network_drives import local_place, lock_of, network_type
from distexp.system.process import host_name
from distexp.workdir import Workdir
from tests.live_manager import Folder, RawClient
from tests.live_worker import await_began, gated_folder, open_gate, worker_process
from tests.network_mount import may_mount, mounted
from tests.support import poll

pytestmark = pytest.mark.skipif(not may_mount(), reason="mounting needs Linux, root and /dev/fuse")
MANAGER = Path(__file__).parents[2] / "experiment_manager.py"


def forget_mounts() -> None:
    local_place.cache_clear()
    network_type.cache_clear()
    network_drives._types.clear()


@dataclass(frozen=True)
class Lab:
    """A drive, and the hosts that share it: each has a name and a disk."""

    root: Path  # where the drive is mounted
    backing: Path  # what is on it, as the server has it
    disks: Path
    patch: pytest.MonkeyPatch

    def be_on(self, host: str) -> Workdir:
        """Let this process be on a host; return the folder as it is seen there."""
        self.patch.setenv("XDG_STATE_HOME", str(self.disks / host))
        self.patch.setattr(network_folder, "host_name", lambda: host)
        forget_mounts()
        return Workdir(self.root)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with mounted(tmp_path / "backing", tmp_path / "drive") as drive:
        lab = Lab(drive, tmp_path / "backing", tmp_path / "disks", monkeypatch)
        lab.be_on("here")
        yield lab
        forget_mounts()


def test_the_drive_is_what_it_stands_for(lab: Lab, tmp_path: Path) -> None:
    assert network_type(lab.root) == network_type(lab.root / "not/there") == "sshfs"
    assert network_type(tmp_path) == ""
    with pytest.raises(OSError, match="No locks available"):
        locks.acquire(lab.root / "file.lock")


def test_the_local_place_is_private_and_one_for_all_names_of_the_folder(lab: Lab, tmp_path: Path) -> None:
    place = local_place(lab.root)
    assert place is not None
    assert place.is_relative_to(lab.disks / "here/distexp")
    assert {stat.S_IMODE(each.stat().st_mode) for each in (place, place.parent)} == {0o700}
    (tmp_path / "link").symlink_to(lab.root)
    assert local_place(tmp_path / "link") == place != local_place(lab.root / "other")
    assert local_place(tmp_path) is None
    assert lock_of(tmp_path / "a.csv") == tmp_path / "a.csv.lock"


def test_without_a_disk_the_user_is_told_what_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_drives, "_bases", lambda: iter([lab.root / "state"]))
    local_place.cache_clear()
    with pytest.raises(UserError, match=r"\(sshfs\), and no folder on a disk .*: set XDG_STATE_HOME to one"):
        _ = Workdir(lab.root).lock


def on_drive(lab: Lab) -> set[str]:
    state = lab.backing / ".experiment_manager"
    return {each.name for each in state.iterdir()} | {each.name for each in lab.backing.rglob("*.lock")}


def test_a_sweep_runs_there_and_leaves_the_journal_on_the_drive(lab: Lab) -> None:
    folder = gated_folder(lab.root, "[1, 2, 3]")
    with folder.serving() as manager, worker_process(lab.root) as one, worker_process(lab.root) as other:
        await_began(lab.root, 1)
        await_began(lab.root, 2)
        assert all(each.info.shares_folder for each, _ in manager._registry.all())
        assert not on_drive(lab) & {"lock", "journal.sqlite3", "nonce", "claims", "final_results.csv.lock"}
        assert manager.workdir.journal.exists()
        with pytest.raises(AlreadyRunning):
            Workdir(lab.root).hold()
        open_gate(lab.root)
        assert [one.code(), other.code()] == [0, 0]
    assert len(folder.rows()) == 3
    assert "journal.sqlite3" in on_drive(lab)
    assert any("is on a network drive (sshfs): journal and locks are in" in line for line in folder.log())


def test_a_worker_of_another_host_sends_its_rows_though_it_sees_the_folder(lab: Lab) -> None:
    folder = gated_folder(lab.root, "[1, 2]")
    open_gate(lab.root)
    elsewhere = {"XDG_STATE_HOME": str(lab.disks / "there")}
    with folder.serving() as manager, worker_process(lab.root, environment=elsewhere) as there:
        assert there.code() == 0
        assert [each.info.shares_folder for each, _ in manager._registry.all()] == [False]
    assert len(folder.rows()) == 2
    assert [each.name for each in (lab.root / "results_exp1").glob("worker_*")] == [
        f"worker_{host_name()}_cpu0.log"
    ]


def test_after_a_kill_the_journal_is_found_again_on_the_same_host(lab: Lab) -> None:
    folder = Folder(lab.root)
    folder.configure([1])
    killed = subprocess.Popen([sys.executable, MANAGER, "--workdir", lab.root, "--port", "0"])
    try:
        poll(lambda: "port" in Workdir(lab.root).read_info(), "the manager serves")
        with RawClient(Workdir(lab.root).read_info()["port"], token=folder.token, worker_id="w") as worker:
            task = worker.say("request_task")
            worker.say("task_failed", task_id=task["task_id"], error="no")
    finally:
        killed.kill()
        killed.wait()
    with folder.serving() as manager:
        (entry,) = manager.queue.entries()
        assert entry.failures == 1
    assert not [line for line in folder.log() if "newest journal" in line]


def no_sleep(seconds: float) -> None:
    """Let no time pass."""


def run(
    workdir: Workdir, key: str, *, crashes: bool = False, sleep: Callable[[float], None] = no_sleep
) -> set[str]:
    """Run a manager for a moment, in which one task fails; return the keys that it knew of."""
    folder = NetworkFolder(workdir, sleep)
    folder.take()
    journal = Journal(workdir.journal)
    known = {record.key for record in journal.load(TaskRecord)}
    journal.record(TaskRecord(key=key, state="failed", attempts=1))
    journal.close()
    if not crashes:
        folder.give_back()
    return known


@pytest.fixture
def mount(lab: Lab, caplog: pytest.LogCaptureFixture) -> Lab:
    caplog.set_level("INFO")
    lab.be_on("here").make_state()
    return lab


def test_whoever_starts_after_a_good_end_knows_everything_wherever_that_was(
    mount: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(mount.be_on("here"), "a") == set()
    assert run(mount.be_on("there"), "b") == {"a"}
    assert run(mount.be_on("here"), "c") == {"a", "b"}
    assert {record.key for record in journal_of(mount.be_on("login"))} == {"a", "b", "c"}
    assert "newest journal" not in caplog.text


def test_after_a_crash_another_host_says_where_the_newest_journal_is_and_starts_from_the_copy(
    mount: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    run(mount.be_on("here"), "a")
    run(mount.be_on("here"), "b", crashes=True)
    assert run(mount.be_on("here"), "c", crashes=True) == {"a", "b"}, "the same host"
    assert {record.key for record in journal_of(mount.be_on("login"))} == {"a"}
    assert run(mount.be_on("there"), "d") == {"a"}
    (said,) = (each for each in caplog.messages if "newest journal" in each)
    assert said.startswith(f"The newest journal of this folder is on here ({mount.disks}/here/")
    assert ": attempts and leases since then are unknown, rows count" in said
    assert run(mount.be_on("here"), "e") == {"a", "d"}, "its own is older now"


def test_a_manager_that_runs_on_another_host_is_found_by_its_pulse(
    mount: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_folder, "PULSE_S", 0.0)
    workdir = mount.be_on("here")
    workdir.announce("0.0.0.0", 5000)
    (first := NetworkFolder(workdir)).take()
    there = mount.be_on("there")
    with pytest.raises(
        AlreadyRunning, match=r"is already running in this folder \(pid \d+, port 5000\) on here\. Stop it"
    ):
        NetworkFolder(there, lambda seconds: first.write_pulse()).take()
    assert host_at_work(there, lambda seconds: first.write_pulse()) == "here"
    assert host_at_work(there, no_sleep) == "", "it was killed"
    assert host_at_work(mount.be_on("here"), lambda seconds: first.write_pulse()) == "", "the lock tells more"
    first.write_pulse()
    assert first.lost_to == ""
    first.give_back()
    assert host_at_work(mount.be_on("there"), no_sleep) == ""


def test_a_manager_whose_folder_was_taken_over_or_deleted_stops_and_writes_nothing_back(
    mount: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_folder, "PULSE_S", 0.0)
    here, there = (NetworkFolder(mount.be_on(host), no_sleep) for host in ("here", "there"))
    mount.be_on("here")
    here.take()
    mount.be_on("there")
    there.take()
    here.write_pulse()
    assert here.lost_to == f"the manager of there has taken over {mount.root}"
    here.give_back()
    assert not Workdir(mount.root).journal_copy.exists()
    shutil.rmtree(Workdir(mount.root).state)
    there.write_pulse()
    assert "was deleted or replaced" in there.lost_to


def test_while_it_runs_a_cleaner_of_old_files_finds_none_of_its_own(mount: Lab) -> None:
    workdir = mount.be_on("here")
    (folder := Folder(mount.root)).configure([1])
    with folder.serving() as manager:
        ours = [path for path in workdir.local.rglob("*") if path.is_file()]
        for path in ours:
            os.utime(path, (0, 0))
        manager._network._next_pulse_s = manager._network._next_renewal_s = 0.0
        manager.run_once()
        assert {"lock", "nonce"} <= {path.name for path in ours}
        assert not [path for path in ours if path.stat().st_mtime == 0]


def test_a_drive_that_does_not_answer_for_a_moment_stops_no_manager(
    mount: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_folder, "PULSE_S", 0.0)
    (folder := NetworkFolder(mount.be_on("here"), no_sleep)).take()

    def fails(path: Path) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", fails)
        patch.setattr(os, "lstat", fails)
        folder.write_pulse()
    assert folder.lost_to == ""


def test_a_journal_that_comes_back_while_it_is_looked_for_is_used(
    mount: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = mount.be_on("here")
    run(workdir, "a", crashes=True)
    before = workdir.journal_place.read_bytes()
    run(workdir, "b")
    after = workdir.journal_place.read_bytes()
    workdir.journal_place.write_bytes(before)  # as another host may still see it
    known = run(
        mount.be_on("there"), "c", sleep=lambda seconds: void(workdir.journal_place.write_bytes(after))
    )
    assert known == {"a", "b"}
    assert "newest journal" not in caplog.text


def void(result: object) -> None:
    """Return nothing."""


def test_a_journal_that_an_earlier_version_left_open_on_the_drive_comes_with_its_log(
    mount: Lab, tmp_path: Path
) -> None:
    open_journal = Journal(tmp_path / "journal.sqlite3")
    open_journal.record(TaskRecord(key="a", state="failed", attempts=1))
    open_journal.flush()
    workdir = Workdir(mount.root)
    for end in ("", "-wal"):
        source = tmp_path / f"journal.sqlite3{end}"
        workdir.journal_copy.with_name(source.name).write_bytes(source.read_bytes())
    open_journal.close()
    assert place_of(workdir) is None
    assert run(workdir, "b") == {"a"}
    assert run(mount.be_on("there"), "c") == {"a", "b"}
    assert {record.key for record in journal_of(mount.be_on("login"))} == {"a", "b", "c"}


def test_an_environment_is_made_there_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = list[Path]()
    monkeypatch.setattr(bootstrap, "missing", lambda venv, project, wanted: wanted)
    monkeypatch.setattr(bootstrap, "_answers", lambda python: True)
    monkeypatch.setattr(bootstrap, "_install", lambda venv, requirements: installed.append(requirements))
    bootstrap.make_environment(lab.root, ["requirements.txt"])
    assert installed == [lab.root / "requirements.txt"]
