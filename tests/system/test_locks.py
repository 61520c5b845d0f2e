"""A lock of the kernel on a file: who it excludes, and when it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from distexp.system import locks


def test_it_excludes_filelock_and_filelock_excludes_it(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.lock")
    other = FileLock(path, timeout=0)
    held = locks.acquire(path, 0)
    with pytest.raises(Timeout):
        other.acquire()
    locks.release(held)
    with other, pytest.raises(TimeoutError, match=r"rows\.lock: found it held for 0 s"):
        locks.acquire(path, 0)
    locks.release(locks.acquire(path, 0))


def test_it_makes_the_folder_of_its_file_and_says_what_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "results of exp1" / "deep" / "rows.lock"
    locks.release(locks.acquire(str(path), 0))
    assert path.exists()
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError, match=path.parent.name):
        locks.acquire(str(path.parent), 0)


def test_it_ends_with_a_holder_that_is_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.lock")
    imports, holds = (
        "import sys; from distexp.system import locks",
        "locks.acquire(sys.argv[1], 0)",
    )
    command = [sys.executable, "-c", f"{imports}; {holds}; print(flush=True); sys.stdin.read()", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        with pytest.raises(TimeoutError):
            locks.acquire(path, 0)
        holder.kill()
        holder.wait()
        locks.release(locks.acquire(path, 0))


def test_releasing_frees_it_though_a_child_has_inherited_the_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.lock")
    held = locks.acquire(path, 0)
    os.set_inheritable(held, True)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        locks.release(held)
        locks.release(locks.acquire(path, 0))
        child.kill()


@pytest.mark.skipif(os.name != "posix", reason="Windows deletes no open file")
def test_a_file_that_was_deleted_between_open_and_lock_is_not_the_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "rows.lock", locks._lock

    def lock_what_has_gone(descriptor: int) -> None:
        monkeypatch.setattr(locks, "_lock", lock)
        path.unlink()
        lock(descriptor)

    monkeypatch.setattr(locks, "_lock", lock_what_has_gone)
    held = locks.acquire(str(path), 30)
    with pytest.raises(TimeoutError):
        locks.acquire(str(path), 0)
    locks.release(held)
