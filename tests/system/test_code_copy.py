"""Copies of a folder's code: what they hold, their names, and their way to another machine."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from distexp.errors import GitTimeout, UserError
from distexp.system import code_copy
from distexp.system import git as git_module
from distexp.system.code import CodeState, FolderCode
from distexp.system.code_copy import Links, code_files, make_archive, make_copy, state_of, unpack

STATE = CodeState("abc", "c0ffee", True)


def git(folder: Path, *words: str) -> None:
    about = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *about, *words], check=True, capture_output=True)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A repository with code, data that git ignores, results, and the manager's own files."""
    lab = tmp_path / "my lab"
    files = {
        "src/train.py": "lr = 1\n",
        "notes ü.txt": "not tracked, not ignored\n",
        "data/big.bin": "data\n",
        "one.npz": "data\n",
        ".gitignore": "data/\n*.npz\n.venv/\n",
        ".venv/bin/python": "a program\n",
        ".env.example": "A=1\n",
        "results_a/final_results.csv": "lr,acc\n",
        "results_b/notes.txt": "seen\n",
        ".experiment_manager/token": "secret\n",
        ".experiment_token": "secret\n",
        "vendor/tool/tool.py": "tool = 1\n",
    }
    for name, text in files.items():
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).write_text(text)
    git(lab / "vendor/tool", "init")
    git(lab, "init")
    git(lab, "add", "src", ".gitignore")
    return lab


CODE = [".env.example", ".gitignore", "notes ü.txt", "src/train.py", "vendor/tool/tool.py"]


def test_a_copy_holds_what_git_does_not_ignore_and_neither_results_nor_a_token(
    lab: Path, tmp_path: Path
) -> None:
    assert code_files(lab) == CODE
    copy = tmp_path / "code" / make_copy(lab, tmp_path / "code", STATE)
    held = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert held == {*CODE, code_copy.STATE_FILE}
    assert state_of(copy) == STATE


def test_without_git_it_holds_all_but_results_and_hidden_files(lab: Path) -> None:
    for folder in (lab, lab / "vendor/tool"):
        (folder / ".git").rename(folder / ".was_git")
    assert code_files(lab) == [
        "data/big.bin",
        "notes ü.txt",
        "one.npz",
        "src/train.py",
        "vendor/tool/tool.py",
    ]


def test_equal_code_has_one_copy_and_every_edit_another(lab: Path, tmp_path: Path) -> None:
    into = tmp_path / "code"
    first = make_copy(lab, into, STATE)
    assert make_copy(lab, into, STATE) == first
    (lab / "src/train.py").write_text("lr = 2\n")
    second = make_copy(lab, into, STATE)
    (lab / "src/train.py").chmod(0o755)
    third = make_copy(lab, into, STATE)
    assert len({first, second, third}) == 3
    assert (into / first / "src/train.py").read_text() == "lr = 1\n"


def test_copies_go_that_no_task_has_begun_in_for_long_but_for_the_last_few(lab: Path, tmp_path: Path) -> None:
    into = tmp_path / "code"
    names = [make_copy(lab, into, CodeState("d", f"{number}", None)) for number in range(5)]
    assert {each.name for each in into.iterdir()} == {*names}, "tasks may run in each of them"
    make_archive(into / names[0])
    (into / f"{names[0]}.tar.12ab").touch()
    for name, age_s in (
        (names[0], 9e5),
        (f"{names[0]}.tar", 9e5),
        (f"{names[0]}.tar.12ab", 9e5),
        (names[4], 8e5),
    ):
        used_s = (into / name).stat().st_mtime - age_s
        os.utime(into / name, (used_s, used_s))
    make_copy(lab, into, CodeState("d", "3", None))
    assert {each.name for each in into.iterdir()} == {*names[1:4]}


def test_a_submodule_without_files_and_a_folder_that_git_ignores_are_no_hindrance(
    lab: Path, tmp_path: Path
) -> None:
    git(lab / "vendor/tool", "add", ".")
    git(lab / "vendor/tool", "commit", "-m", "tool")
    git(lab, "add", "vendor/tool")
    git(lab, "commit", "-m", "lab")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", str(lab), str(clone))
    assert code_files(clone) == [".gitignore", "src/train.py"]
    assert code_files(lab / "data") == ["big.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are none")
def test_a_fifo_is_left_out(lab: Path) -> None:
    (lab / ".git").rename(lab / ".was_git")
    os.mkfifo(lab / "queue")
    assert "queue" not in code_files(lab)


def test_too_much_is_refused_with_its_largest_files(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_copy, "MAX_BYTES", 3 * 2**20)
    with (lab / "video.mp4").open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(
        UserError, match=r"6 files with 5 MB .* 3 MB at most\. Put data .* video\.mp4 \(5 MB\), "
    ):
        make_copy(lab, tmp_path / "code", STATE)
    assert not (tmp_path / "code").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right that users lack")
def test_what_stands_beside_the_code_is_linked_here_and_does_not_travel(lab: Path, tmp_path: Path) -> None:
    (lab / "inside").symlink_to("src")
    (lab / "outside").symlink_to("/etc/passwd")
    (lab / "src/up").symlink_to("../../secret")
    (tmp_path / "secret").write_text("on this machine alone")
    copy = tmp_path / "code" / make_copy(lab, tmp_path / "code", STATE)
    links = Links(lab)
    for _ in range(2):
        links.add_to(copy)
    assert (copy / "data/big.bin").read_text() == "data\n"
    assert (copy / "one.npz").read_text() == "data\n"
    assert (copy / ".venv/bin/python").read_text() == "a program\n"
    assert not [*copy.glob(".experiment*")]
    assert (copy / "src/up").read_text() == "on this machine alone", "a link leads where it led"
    (copy / "weights.bin").write_text("written by a task, by a relative path")
    there = tmp_path / "there" / copy.name
    there.parent.mkdir()
    unpack(make_archive(copy), there)
    sent = {
        path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_symlink() or path.is_file()
    }
    assert sent == {*CODE, code_copy.STATE_FILE, "inside"}
    assert os.readlink(there / "inside") == "src"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right that users lack")
def test_of_a_folder_with_code_what_git_ignores_is_linked_too(lab: Path, tmp_path: Path) -> None:
    (lab / ".gitignore").write_text("data/*\n!data/.gitkeep\n*.so\n*.bin\n__pycache__/\n")
    ignored = ["data/digits/train.bin", "src/models/fast.so", "vendor/tool/weights.bin"]
    for name in (*ignored, "data/.gitkeep", "src/models/net.py", "src/models/__pycache__/net.pyc"):
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).write_text(name)
    git(lab, "add", "src", "data")
    copy = tmp_path / "code" / make_copy(lab, tmp_path / "code", STATE)
    (lab / "data/late.bin").write_text("from a setup")
    links = Links(lab)
    for _ in range(2):
        links.add_to(copy)
    assert [(copy / name).read_text() for name in ignored] == ignored
    assert (copy / "data/late.bin").read_text() == "from a setup"
    assert (copy / "src/models").is_dir()
    assert not (copy / "src/models").is_symlink(), "an edit of its code is not seen"
    assert not [*copy.rglob("__pycache__"), *copy.rglob("tool/.git")]
    (there := tmp_path / "there").mkdir()
    (other := tmp_path / "another machine/data").mkdir(parents=True)
    (other / "more.bin").write_text("rows of that machine")
    unpack(make_archive(copy), there / copy.name)
    Links(other.parent).add_to(there / copy.name)
    assert (there / copy.name / "data/more.bin").read_text() == "rows of that machine"
    assert not (there / copy.name / "data/late.bin").exists(), "data does not travel"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right that users lack")
def test_a_folder_is_listed_again_only_once_it_or_its_copy_has_changed(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "code" / make_copy(lab, tmp_path / "code", STATE)
    links = Links(lab)
    links.add_to(copy)
    for folder in (copy, *(each for each in copy.rglob("*") if each.is_dir())):
        for each in (folder, lab / folder.relative_to(copy)):
            os.utime(each, (1, 1))
    listed: list[Path] = []
    list_folder = os.listdir

    def listdir(folder: Path) -> list[str]:
        listed.append(folder)
        return list_folder(folder)

    monkeypatch.setattr(code_copy.os, "listdir", listdir)
    links.add_to(copy)
    assert listed
    listed.clear()
    links.add_to(copy)
    assert listed == []
    (lab / "late.npz").write_text("from a setup")
    (copy / "one.npz").unlink()
    links.add_to(copy)
    assert listed == [lab, copy]
    assert (copy / "late.npz").read_text() == "from a setup"
    assert (copy / "one.npz").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs hard links")
def test_two_names_of_one_file_travel_as_two_files(lab: Path, tmp_path: Path) -> None:
    copy = tmp_path / "code" / make_copy(lab, tmp_path / "code", STATE)
    (copy / "src/train.py").unlink()
    os.link(copy / "notes ü.txt", copy / "src/train.py")
    unpack(make_archive(copy), there := tmp_path / "there")
    assert (there / "src/train.py").read_text() == (there / "notes ü.txt").read_text()
    assert (there / "src/train.py").read_text() == "not tracked, not ignored\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a script")
def test_a_git_that_does_not_answer_is_not_taken_for_none(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = FolderCode(lab)
    before = look.now()
    stalled = tmp_path / "bin/git"
    stalled.parent.mkdir()
    stalled.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    stalled.chmod(0o755)
    monkeypatch.setenv("PATH", str(stalled.parent), prepend=os.pathsep)
    monkeypatch.setattr(code_copy, "LISTING_S", 0.2)
    monkeypatch.setattr(git_module, "GIT_S", 0.2)
    with pytest.raises(GitTimeout, match=r"my lab: `git ls-files` has not answered for 0\.2 s"):
        code_files(lab)
    (lab / "src/train.py").write_text("lr = 2\n")
    assert (look.now(), FolderCode(lab).now()) == (before, CodeState()), "it is not known"
    monkeypatch.undo()
    assert look.now().code not in ("", before.code)


def member(name: str, kind: bytes = tarfile.REGTYPE, leads: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, leads
    return made


@pytest.mark.parametrize("has_filter", [True, False], ids=["", "Python before 3.11.4"])
@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("/tmp/evil")],
        [member("a/../../evil")],
        [member("a", tarfile.SYMTYPE, "/tmp"), member("a/evil")],
        [member("a/b", tarfile.SYMTYPE, "../../evil")],
        [member("evil", tarfile.LNKTYPE, "../token")],
        [member("evil", tarfile.FIFOTYPE)],
    ],
    ids=lambda members: members[0].name,
)
def test_nothing_is_unpacked_that_leaves_the_copy_or_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo], has_filter: bool
) -> None:
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive, copy = tmp_path / "a.tar", tmp_path / "code" / "copy"
    copy.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for each in members:
            tar.addfile(each)
    with pytest.raises(tarfile.TarError, match="leaves it"):
        unpack(archive, copy)
    assert [*copy.parent.iterdir()] == []
