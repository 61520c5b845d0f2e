"""Which code a folder holds: every edit of it shows, nothing else does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from distexp.system import code
from distexp.system.code import CodeState, FolderCode
from distexp.system.git import commit_of


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose folder `lab` is the working folder; returns that."""
    lab = tmp_path / "repository" / "lab"
    (lab / "configs").mkdir(parents=True)
    (lab / "results_a").mkdir()
    (lab / "mine.py").write_text("run = 1\n")
    (lab / "data.txt").write_text("1\n")
    (lab / "configs" / "config_exp1.yaml").write_text("a: 1\n")
    (lab / "results_a" / "final_results.csv").write_text("seed\n1\n")
    (lab.parent / "README.md").write_text("elsewhere\n")
    git(lab, "init", "--quiet", "..")
    git(lab, "add", "..")
    git(lab, "commit", "--quiet", "--message", "First")
    return lab


def test_a_clean_folder_is_its_commit(repository: Path) -> None:
    state = FolderCode(repository).now()
    assert (state.commit, state.is_dirty) == (git(repository, "rev-parse", "HEAD"), False)
    assert len(state.code) == code.CODE_DIGITS


@pytest.mark.parametrize("name", ["mine.py", "data.txt"])
def test_an_edit_of_a_tracked_file_is_other_code_at_once_and_the_same_once_it_is_committed(
    repository: Path, name: str
) -> None:
    look = FolderCode(repository)
    before = look.now()
    (repository / name).write_text("2\n")
    edited = look.now()
    assert edited.code != before.code
    assert edited.is_dirty is True
    git(repository, "add", name)
    assert look.now() == edited
    git(repository, "commit", "--quiet", "--message", "Second")
    assert look.now() == CodeState(edited.code, git(repository, "rev-parse", "HEAD"), False)


def test_an_edit_that_is_taken_back_is_the_code_of_before(repository: Path) -> None:
    look, text = FolderCode(repository), (repository / "mine.py").read_text()
    before = look.now()
    (repository / "mine.py").write_text("run = 2\n")
    assert look.now().code != before.code
    (repository / "mine.py").write_text(text)
    assert look.now() == before


def test_a_file_that_goes_or_comes_is_other_code(repository: Path) -> None:
    look = FolderCode(repository)
    before = look.now().code
    (repository / "data.txt").unlink()
    gone = look.now().code
    (repository / "new.py").write_text("")
    assert look.now().code == gone, "git does not know it yet"
    git(repository, "add", "new.py")
    assert len({before, gone, look.now().code}) == 3


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege on Windows")
def test_a_link_counts_by_where_it_leads(repository: Path) -> None:
    (repository / "link").symlink_to("mine.py")
    git(repository, "add", "link")
    look = FolderCode(repository)
    before = look.now().code
    (repository / "link").unlink()
    (repository / "link").symlink_to("data.txt")
    turned = look.now().code
    git(repository, "add", "link")
    assert before != turned == look.now().code


def test_rows_configs_and_files_outside_of_the_folder_are_no_code(repository: Path) -> None:
    look = FolderCode(repository)
    before = look.now().code
    for name in ("results_a/final_results.csv", "configs/config_exp1.yaml", "../README.md"):
        (repository / name).write_text("other\n")
        assert FolderCode(repository).now().code == look.now().code == before


def test_a_clone_elsewhere_holds_the_same_code(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository.parent), "clone")
    assert FolderCode(tmp_path / "clone" / "lab").now() == FolderCode(repository).now()


def test_a_commit_without_a_change_is_seen(repository: Path) -> None:
    look = FolderCode(repository)
    before = look.now()
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    assert look.now() == CodeState(before.code, commit_of(repository), False) != before


def test_while_nothing_changes_git_is_not_asked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = FolderCode(repository)
    before = look.now()
    monkeypatch.setattr(code, "ask_git", lambda *words, **more: pytest.fail("git was asked again"))
    assert look.now() == before


def without_git(folder: Path) -> Path:
    shutil.rmtree(folder / "configs")
    for name in ("src/pack", "lib", ".venv", "data"):
        (folder / name).mkdir(parents=True)
    for name in ("train.py", "src/pack/deep.py", "lib/net.py"):
        (folder / name).write_text("1\n")
    return folder


@pytest.mark.parametrize("name", ["train.py", "src/pack/deep.py", "lib/net.py", "lib/new.py", "new.py"])
def test_without_git_an_edit_of_any_python_file_is_other_code(tmp_path: Path, name: str) -> None:
    (tmp_path / "configs").mkdir()
    folder = without_git(tmp_path)
    look = FolderCode(folder)
    before = look.now()
    assert (before.commit, before.is_dirty) == ("", None)
    (folder / name).write_text("import os\n")
    assert before.code != look.now().code == FolderCode(folder).now().code


@pytest.mark.parametrize("name", [".venv/site.py", "data/x.csv", "notes.txt"])
def test_without_git_other_files_are_no_code(tmp_path: Path, name: str) -> None:
    (tmp_path / "configs").mkdir()
    look = FolderCode(folder := without_git(tmp_path))
    before = look.now()
    (folder / name).write_text("2\n")
    assert look.now() == FolderCode(folder).now() == before


def test_where_git_is_not_installed_python_files_are_told_apart(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(repository))
    state = FolderCode(repository).now()
    assert state.code and (state.commit, state.is_dirty) == ("", None)


def test_a_folder_without_code_has_none(tmp_path: Path) -> None:
    assert FolderCode(tmp_path).now() == CodeState()


def test_no_program_takes_a_code_for_a_number(tmp_path: Path) -> None:
    look = FolderCode(tmp_path)
    for number in range(50):
        (tmp_path / "a.py").write_text(f"{number:03}")
        assert look.now().code[0] in "abcdef"
