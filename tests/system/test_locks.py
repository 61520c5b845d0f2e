"""A lock of the kernel on a file: who it excludes, and when it ends."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.system import locks


def test_the_holder_excludes_everybody_until_it_releases(tmp_path: Path) -> None:
    path = tmp_path / "rows.lock"
    with locks.acquire(path) as held:
        with pytest.raises(TimeoutError, match=r"rows\.lock is locked by another process \(waited 0 s\)"):
            locks.acquire(path)
        assert locks.is_held(path)
        held.release()
        with locks.acquire(path):
            held.release()
            assert locks.is_held(path), "a second release must not free what somebody else holds now"
    assert not locks.is_held(path)
    assert not locks.is_held(tmp_path / "none.lock")
    assert not (tmp_path / "none.lock").exists()


def test_it_makes_the_folder_of_its_file_and_says_what_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "results of exp1" / "deep" / "rows.lock"
    locks.acquire(path).release()
    assert path.exists()
    with pytest.raises(OSError, match=path.parent.name):
        locks.acquire(path.parent)


def test_it_ends_with_a_holder_that_is_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.lock")
    imports, holds = (
        "import sys; from distexp.system import locks",
        "locks.acquire(sys.argv[1])",
    )
    command = [sys.executable, "-c", f"{imports}; {holds}; print(flush=True); sys.stdin.read()", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        with pytest.raises(TimeoutError):
            locks.acquire(path)
        holder.kill()
        holder.wait()
        locks.acquire(path).release()


def test_releasing_frees_it_though_a_child_has_inherited_the_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.lock")
    held = locks.acquire(path)
    os.set_inheritable(held._descriptor, True)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        held.release()
        locks.acquire(path).release()
        child.kill()


@pytest.mark.skipif(os.name != "posix", reason="Windows deletes no open file")
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_was_deleted_between_open_and_lock_is_not_the_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    path, lock = tmp_path / "rows.lock", locks._lock

    def lock_what_has_gone(descriptor: int) -> None:
        monkeypatch.setattr(locks, "_lock", lock)
        path.rename(tmp_path / "moved.lock")  # so it keeps a name: a count of links tells nothing
        if is_replaced:
            path.touch()
        lock(descriptor)

    monkeypatch.setattr(locks, "_lock", lock_what_has_gone)
    held = locks.acquire(path, 30)
    with pytest.raises(TimeoutError):
        locks.acquire(path)
    held.release()


@pytest.mark.skipif(os.name != "posix", reason="uses fork")
def test_a_forked_child_neither_holds_nor_frees_the_lock(tmp_path: Path) -> None:
    forks = (
        "import os, sys\n"
        "from distexp.system import locks\n"
        "held = locks.acquire(sys.argv[1])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    held.release()\n"
        "    os._exit(0 if locks.is_held(sys.argv[1]) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )  # in a process with one thread alone
    command = [sys.executable, "-c", forks, str(tmp_path / "rows.lock")]
    subprocess.run(command, check=True)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_a_file_of_ours_has_the_mode_that_was_asked_for_whatever_it_had(tmp_path: Path) -> None:
    old = tmp_path / "old.lock"
    old.touch(0o644)
    locks.acquire(old).release()
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    locks.acquire(tmp_path / "shared.lock", mode=locks.SHARED).release()
    assert stat.S_IMODE((tmp_path / "shared.lock").stat().st_mode) == 0o666


@pytest.mark.skipif(os.name != "posix", reason="uses links and FIFOs")
def test_what_stands_in_the_place_of_the_file_is_neither_waited_for_nor_followed_nor_emptied(
    tmp_path: Path,
) -> None:
    target = tmp_path / "thesis.txt"
    target.write_text("chapter 1")
    mode = stat.S_IMODE(target.stat().st_mode)
    (tmp_path / "soft.lock").symlink_to(target)
    os.link(target, tmp_path / "hard.lock")
    os.mkfifo(tmp_path / "fifo.lock")
    for name in ("soft.lock", "fifo.lock"):
        with pytest.raises(OSError, match=name):
            locks.acquire(tmp_path / name)
        assert locks.read_note(tmp_path / name) == ""
    with locks.acquire(tmp_path / "hard.lock") as held:
        held.note("pid 1")
    with pytest.raises(locks.NotALockFile, match="hard link"):  # a stranger may have given it that name
        locks.acquire(tmp_path / "hard.lock", mode=locks.SHARED)
    assert target.read_text() == "chapter 1"
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.skipif(sys.platform != "linux", reason="of what Linux opens for no writer, or leases")
def test_a_socket_or_a_program_in_the_place_of_the_file_is_named_and_a_leased_file_is_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    program = shutil.copy(shutil.which("sleep") or "", "program.lock")
    with socket.socket(socket.AF_UNIX) as server, subprocess.Popen([f"./{program}", "60"]) as runs:
        try:
            server.bind("socket.lock")
            for name in ("socket.lock", "program.lock"):
                with pytest.raises(locks.NotALockFile, match=name):
                    locks.acquire(name)
        finally:
            runs.kill()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which who has leased a file hears of others
    leased = os.open("leased.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(TimeoutError):
            locks.acquire("leased.lock")
        assert locks.is_held("leased.lock")
    finally:
        os.close(leased)
        signal.signal(signal.SIGIO, before)
    locks.acquire("leased.lock").release()


def test_a_held_lock_can_be_made_to_look_new(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    with locks.acquire(path) as held:
        os.utime(path, (0, 0))
        held.renew()
        assert path.stat().st_mtime > 0
    held.renew()


def test_a_note_is_short_and_printable_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    with locks.acquire(path) as held:
        held.note("pid 4711")
    assert locks.read_note(path) == "pid 4711"
    path.write_bytes(b"x" * 1000)
    assert locks.read_note(path) == "x" * 40
    path.write_bytes(b"\x1b[2J")
    assert locks.read_note(path) == ""
