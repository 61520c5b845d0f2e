import logging
import os
from pathlib import Path

import pytest

from distexp.errors import ResultsUnwritable
from distexp.results.spool import Spool


def test_results_come_back_oldest_first_also_in_another_process_life(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "made" / "on demand")
    for age, name in enumerate(["b", "a", "c"]):
        spool.put(name, name.encode() + b"\n\0\xff")
        os.utime(tmp_path / "made" / "on demand" / f"{name}.result", ns=(age, age))
    expected = [("b", b"b\n\0\xff"), ("a", b"a\n\0\xff"), ("c", b"c\n\0\xff")]
    assert Spool(tmp_path / "made" / "on demand").items() == expected


def test_the_same_name_replaces_and_a_removed_one_is_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put("key-1.2", b"old")
    spool.put("key-1.2", b"new")
    assert spool.items() == [("key-1.2", b"new")]
    spool.remove("key-1.2")
    spool.remove("key-1.2")
    assert spool.items() == []


def test_torn_and_foreign_files_are_left_alone_with_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    spool.put("whole", b"payload")
    torn = tmp_path / "torn.result"
    torn.write_bytes((tmp_path / "whole.result").read_bytes()[:-1])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".half.tmp").write_text("a put that was killed")
    (tmp_path / "folder.result").mkdir()
    with caplog.at_level(logging.WARNING):
        assert spool.items() == spool.items() == [("whole", b"payload")]
    assert f"{torn}: torn, or no spooled result; left as it is" in caplog.messages
    assert len(caplog.messages) == 2
    assert torn.exists()


def test_a_folder_that_was_never_made_holds_nothing(tmp_path: Path) -> None:
    assert Spool(tmp_path / "none").items() == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsUnwritable, match=r"file/spool: cannot be written now \(Not a directory\)"):
        Spool(tmp_path / "file" / "spool").put("a", b"")


def test_a_result_that_cannot_be_kept_leaves_no_half_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.result").mkdir()
    with pytest.raises(ResultsUnwritable, match=r"cannot be written now \(Is a directory\)"):
        Spool(tmp_path).put("a", b"payload")
    assert {path.name for path in tmp_path.iterdir()} == {"a.result", ".gitignore"}


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="may hold only letters, digits, dot, dash and underscore"):
        Spool(tmp_path).put(name, b"")
