"""A full disk is not taken for a folder that can never be made, nor the other way round."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.run_folder import RunFolder
from distexp.task import make_task
from distexp.worker.folders import is_disk_full, is_full_at, probe, why_not_made

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE to fill a disk with")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process gets longer than 1000 bytes."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_a_disk_without_room_is_full_and_keeps_nothing_of_the_probe(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File too large") as error:
        probe(tmp_path)
    assert is_disk_full(error.value)
    assert is_full_at(tmp_path)
    assert is_full_at(tmp_path / "absent" / "run")
    assert not list(tmp_path.rglob(".probe"))


@pytest.mark.usefixtures("full_disk")
def test_a_log_is_begun_only_where_there_is_room(tmp_path: Path) -> None:
    task = make_task(task_id="a_0_42", phase="a", config={}, seed=42, output_dir=".", axes=())
    folder = RunFolder.of(tmp_path / "runs" / "a_42", task)
    with pytest.raises(OSError, match="File too large"):
        folder.begin_log("# head")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_never_be_made_is_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as error:
            path.mkdir()
        assert not is_disk_full(error.value)
    assert not is_full_at(tmp_path)
    probe(tmp_path)
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))


def test_what_stands_in_a_folders_place_is_said_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name, why in {
        "file": f"{tmp_path / 'file'} is a file: move it away",
        "link": f"{tmp_path / 'link'} is a link to {tmp_path / 'absent'}, which is not there: "
        "make that, or remove the link",
        "file/runs": f"{tmp_path / 'file'} is a file: move it away",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(OSError) as error:
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        assert why_not_made(error.value) == why
