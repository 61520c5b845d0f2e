"""One manager a folder."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from distexp.errors import AlreadyRunning, UserError
from distexp.workdir import Workdir, write_private
from tests.live_worker import RUNNER
from tests.support import ENVIRONMENT

HOLDER = """
import sys
from pathlib import Path
from distexp.workdir import Workdir
workdir = Workdir(Path(sys.argv[1]))
lock = workdir.hold()
workdir.announce("127.0.0.1", 5000)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is the manager of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_manager_of_a_folder_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(AlreadyRunning) as error:
            Workdir(tmp_path).hold()
        assert str(error.value) == (
            f"{tmp_path}: a manager is already running in this folder (pid {process.pid}, port 5000). "
            "Stop it, or use another folder with --workdir"
        )


def test_the_lock_of_a_folder_dies_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        lock = Workdir(tmp_path).hold()
    lock.release()


def test_a_lock_that_was_released_can_be_had_again_and_the_nonce_stays(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "new")
    assert workdir.read_nonce() == ""
    workdir.hold().release()
    nonce = workdir.read_nonce()
    assert len(nonce.split(":")[0]) == 32
    workdir.hold().release()
    assert workdir.read_nonce() == nonce


def test_a_copy_of_a_folder_is_told_from_the_folder(tmp_path: Path) -> None:
    workdir, copy = Workdir(tmp_path / "lab"), Workdir(tmp_path / "copy")
    workdir.hold().release()
    shutil.copytree(workdir.root, copy.root)
    assert copy.nonce.read_bytes() == workdir.nonce.read_bytes()
    assert copy.read_nonce() != workdir.read_nonce() == Workdir(tmp_path / "copy/../lab").read_nonce()


def test_another_thread_may_let_a_folder_go(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(workdir.hold).result().release()
    workdir.hold().release()


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / ".experiment_manager").write_text("a file stands where the folder belongs")
    with pytest.raises(UserError, match=r"must be a folder in which .* locked: ") as error:
        Workdir(tmp_path).hold()
    assert "\n" not in str(error.value)


NO_NUMBERS = ('"x"', "1e300", "Infinity", "true", "-1", "[1]", "9" * 20)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"a"', "\xff", "[" * 100_000, '{"host": 5}']
    + [f'{{"{name}": {number}}}' for name in ("pid", "port") for number in NO_NUMBERS],
)
def test_what_a_manager_wrote_about_itself_may_be_damaged(tmp_path: Path, text: str) -> None:
    workdir = Workdir(tmp_path)
    workdir.state.mkdir()
    workdir.info.write_text(text, encoding="latin-1")
    assert workdir.read_info() == {}
    workdir.announce("127.0.0.1", 5001)
    assert workdir.read_info() == {"pid": os.getpid(), "host": "127.0.0.1", "port": 5001}


def test_a_file_that_cannot_be_written_is_one_clear_line_and_leaves_no_half(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(UserError, match=r"^\S+/token cannot be written \(Is a directory\)$"):
        write_private(tmp_path / "token", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_manager_clears_what_one_that_was_killed_left_half_written(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.hold().release()
    half = workdir.info.with_name(".manager.json.tmp")
    half.write_text('{"pid": 1')
    half.chmod(0o644)
    workdir.announce("127.0.0.1", 5001)
    assert not list(workdir.state.glob(".*.tmp"))
    assert workdir.read_info()["port"] == 5001
    assert stat.S_IMODE(workdir.info.stat().st_mode) == 0o600


def test_a_task_has_one_folder_for_all_its_attempts_and_labels(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    folder = workdir.run_folder("./results_exp1_digits", "exp1_width", 42, "0123abcd")
    assert folder == tmp_path / "results_exp1_digits" / "runs" / "exp1_width_42_0123abcd"
    assert folder.parents[1] == workdir.results_folder("./results_exp1_digits")


@pytest.mark.parametrize("script", ["experiment_manager.py", "experiment_runner_gpu.py"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems make no such name")
def test_a_working_folder_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path, script: str) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    done = subprocess.run(
        [sys.executable, RUNNER.with_name(script), "--workdir", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: '{tmp_path}/caf\\udce9': the path of the working folder is not UTF-8; rename it"
    )


def test_git_ignores_the_managers_own_files_and_a_token_beside_them(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".experiment_token").write_text("secret")
    folder = Workdir(tmp_path)
    folder.make_state()
    folder.make_state()
    (folder.state / "token").write_text("secret")
    status = ["git", "-C", tmp_path, "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""
    assert (tmp_path / ".git" / "info" / "exclude").read_text().count(".experiment_token") == 1


def test_a_port_that_was_taken_for_want_of_the_default_one_is_kept_until_all_is_done(tmp_path: Path) -> None:
    folder = Workdir(tmp_path)
    folder.make_state()
    folder.announce("127.0.0.1", 39449)
    assert folder.fallback_port() == []
    folder.announce("127.0.0.1", 39449, is_fallback=True)
    assert folder.fallback_port() == [39449]
    folder.announce_end()
    assert folder.fallback_port() == []
