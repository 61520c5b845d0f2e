"""What a row says of the software and the GPU: as it is, or empty."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distexp.worker import provenance
from tests.support import Clock


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "mine.py").write_text("run = 1\n")
    git(tmp_path, "add", "mine.py")
    git(tmp_path, "commit", "--quiet", "--message", "First")
    return tmp_path


def test_the_commit_of_a_clean_folder_is_told_also_when_results_lie_in_it(repository: Path) -> None:
    (repository / "results").mkdir()
    (repository / "results" / "final_results.csv").write_text("seed\n1\n")
    facts = provenance.of_folder(repository)
    assert facts == {
        "python_version": platform.python_version(),
        "git_commit": git(repository, "rev-parse", "HEAD"),
        "git_dirty": False,
    }


def test_a_changed_file_makes_the_folder_dirty(repository: Path) -> None:
    (repository / "mine.py").write_text("run = 2\n")
    assert provenance.of_folder(repository)["git_dirty"] is True


def test_outside_of_a_repository_only_python_is_told(tmp_path: Path) -> None:
    assert provenance.of_folder(tmp_path) == {"python_version": platform.python_version()}


def test_without_git_only_python_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(repository))
    assert provenance.of_folder(repository) == {"python_version": platform.python_version()}


def test_a_commit_made_meanwhile_is_seen_as_soon_as_the_answer_is_old(repository: Path) -> None:
    clock = Clock()
    code = provenance.Code(repository, clock)
    first = provenance.commit_of(repository)
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    assert code.facts()["git_commit"] == first, "git is not asked for every task"
    clock.advance(provenance.ASK_EVERY_S)
    assert code.facts()["git_commit"] == git(repository, "rev-parse", "HEAD") != first
    assert code.facts()["git_dirty"] is False


def test_what_was_imported_before_a_commit_is_not_passed_off_as_that_commit(repository: Path) -> None:
    clock = Clock()
    code = provenance.Code(repository, clock)
    assert code.facts(is_imported=True)["git_dirty"] is False
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    clock.advance(provenance.ASK_EVERY_S)
    assert code.facts(is_imported=True)["git_dirty"] is True
    assert code.facts(is_imported=False)["git_dirty"] is False


def test_torch_is_told_where_the_task_has_imported_it_and_no_memory_without_a_card() -> None:
    assert provenance.of_process()["torch_version"] == torch.__version__
    if not torch.cuda.is_available():
        assert "peak_gpu_mib" not in provenance.of_process()


def test_torch_is_not_imported_to_be_told() -> None:
    program = (
        "import sys; from distexp.worker import provenance; "
        "print(provenance.of_process(), 'torch' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "{'torch_version': ''} False"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_the_most_memory_that_torch_held_on_the_card_is_told_in_mib() -> None:
    torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    assert 64 <= provenance.of_process()["peak_gpu_mib"] < 1024
