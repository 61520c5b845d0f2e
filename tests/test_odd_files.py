"""A FIFO or device where the product expects a file holds up nobody: readers and writers say so, or go on."""

import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from distexp.errors import ConfigError, JournalUnwritable, ResultsUnwritable, UserError
from distexp.queue.journal import Journal
from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.results.rungs import read_rungs
from distexp.results.spool import Spool
from distexp.run_folder import write_parameters
from distexp.sweep.config import load_configs
from distexp.system import files
from distexp.task import Task
from distexp.task_log import last_lines
from distexp.wire.auth import read_token
from distexp.workdir import Workdir
from tests.live_manager import Folder
from tests.support import ENVIRONMENT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no FIFO in a folder")
TASK = Task(task_id="p_0_42", phase="p", config={"x": 1}, seed=42, output_dir="results_p", axes=("x",))


def fifo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    """Make what swallows all that is written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device, in few containers")
    return path


@pytest.mark.parametrize("make", [fifo, device])
def test_rows_are_neither_read_from_one_nor_written_to_it(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "results_p" / "final_results.csv")
    file = ResultsFile(tmp_path, "results_p", TaskIndex([TASK]))
    assert file.scan().warnings == (
        f"{path}: cannot be read now (it is not a regular file; move it away); the next scan tries again",
    )
    with pytest.raises(ResultsUnwritable, match="not a regular file"):
        file.append([(TASK, {"x": "1"})])
    assert not file.is_writable()


@pytest.mark.parametrize(
    ("name", "reads", "error"),
    [
        ("configs/config_exp1.yaml", lambda root: load_configs([Path("configs/*.yaml")], root), ConfigError),
        (".experiment_manager/token", lambda root: read_token(Workdir(root)), UserError),
        (
            ".experiment_manager/journal.sqlite3",
            lambda root: Journal(Workdir(root).journal),
            JournalUnwritable,
        ),
        ("log", lambda root: files.read_bytes(root / "log"), OSError),
    ],
)
def test_who_must_read_it_says_what_is_wrong(
    tmp_path: Path, name: str, reads: Callable[[Path], object], error: type[Exception]
) -> None:
    fifo(tmp_path / name)
    with pytest.raises(error, match="not a regular file"):
        reads(tmp_path)


def test_a_file_of_gigabytes_in_the_place_of_a_small_one_is_not_read(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.state.mkdir()
    for path in (workdir.token, workdir.info, workdir.nonce):
        with path.open("wb") as sparse:
            sparse.truncate(1 << 40)
    with pytest.raises(UserError, match="it has more than 1048576 bytes; move it away"):
        read_token(workdir)
    assert workdir.read_info() == {}
    assert workdir.read_nonce() == ""


def test_lines_of_rungs_of_any_length_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "rungs.csv"
    line = b"p,p_0_42,k,42,0,1,0.5,stop\n"
    path.write_bytes(b"phase,task_id,key,seed,rung,step,value,verdict\n" + line)
    with path.open("r+b") as sparse:
        sparse.seek(100_000_000)
        sparse.write(b"\n" + line)
    peaks_bytes = []
    for _ in range(2):  # another thread of this process may need memory, too
        tracemalloc.start()
        found = read_rungs(path)
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == 2
    assert min(peaks_bytes) < 1_000_000


def test_who_can_do_without_it_goes_on(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    for path in (workdir.info, workdir.nonce, tmp_path / "rungs.csv", tmp_path / "log.txt"):
        fifo(path)
    assert workdir.read_info() == {}
    assert workdir.read_nonce() == ""
    assert read_rungs(tmp_path / "rungs.csv") == []
    assert last_lines(tmp_path / "log.txt", 5) == []
    spool = Spool(tmp_path / "spool")
    spool.put("kept", b"row")
    fifo(spool.path("odd"))
    assert spool.items() == [("kept", b"row")]
    fifo(tmp_path / ".params.json.tmp")
    with pytest.raises(OSError, match="not a regular file"):
        write_parameters(tmp_path, {}, 42)


@pytest.mark.parametrize(
    "name", ["experiment_manager.log", "results_exp1/final_results.csv", ".experiment_manager/sweep_id"]
)
def test_a_manager_starts_beside_it_and_ends(folder: Folder, name: str) -> None:
    fifo(folder.root / name)
    command = [sys.executable, "-m", "distexp", "manager", "--plain", "--port", "0", "--exit-when-done"]
    with subprocess.Popen(
        command, cwd=folder.root, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as manager:
        assert manager.stdout is not None
        said = next((line for line in manager.stdout if "Manager serves" in line), "")
        manager.terminate()
        manager.communicate(timeout=60)
    assert said
