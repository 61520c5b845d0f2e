"""The CUDA build of torch on Windows, with stand-ins for `nvidia-smi`, .venv's Python and its pip."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from distexp.launcher.bootstrap import offer_cuda
from distexp.launcher.cuda_build import indexes_for, offer

NVIDIA_SMI = "#!/bin/sh\necho '| NVIDIA-SMI 570.86.15    CUDA Version: 12.8 |'\n"
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then echo "$TORCH"; exit; fi
echo "$*" >>"$(dirname "$0")/words"
case "$*" in *"${ABSENT:-no such index}") exit 1; esac
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="its stand-ins are shell scripts")


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with PyPI's torch, on a machine whose GPU works."""
    for path, text in ((tmp_path / "nvidia-smi", NVIDIA_SMI), (tmp_path / "venv/bin/python", PYTHON)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("TORCH", "2.13.0")
    return tmp_path / "venv"


def words(venv: Path) -> str:
    """Return the words that Python was given to install with; empty for none."""
    path = venv / "bin" / "words"
    return path.read_text(encoding="ascii") if path.exists() else ""


def test_who_agrees_gets_the_build_for_the_driver_in_the_same_version(
    venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer_cuda(venv, is_agreed=True)
    assert words(venv) == (
        "-m pip install --disable-pip-version-check --force-reinstall --no-deps torch==2.13.0 "
        "--index-url https://download.pytorch.org/whl/cu128\n"
    )
    assert "torch==2.13.0 from https://download.pytorch.org/whl/cu128: installed" in capsys.readouterr().err


def test_where_the_newest_index_does_not_hold_that_version_the_next_is_tried(
    venv: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABSENT", "cu128")
    offer_cuda(venv, is_agreed=True)
    assert [line.rpartition("/")[2] for line in words(venv).splitlines()] == ["cu128", "cu126"]
    told = "".join(capfd.readouterr())
    assert "whl/cu128: not installed (exit code 1)" in told and "whl/cu126: installed" in told


@pytest.mark.parametrize("torch", ["2.13.0+cu128", ""])
def test_nothing_is_asked_where_the_build_is_there_or_torch_is_not(
    venv: Path, torch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH", torch)
    offer_cuda(venv, is_agreed=True)
    assert words(venv) == ""


def test_nothing_is_asked_where_no_gpu_works(venv: Path) -> None:
    (venv.parent / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n", encoding="ascii")
    offer_cuda(venv, is_agreed=True)
    assert words(venv) == ""


def test_a_refusal_is_remembered(venv: Path) -> None:
    asked: list[str] = []

    def refuse(finding: str) -> bool:
        asked.append(finding)
        return False

    def install(_: Sequence[str]) -> int:
        raise AssertionError("was refused")

    for _ in range(2):
        offer(venv, venv / "bin" / "python", install, refuse)
    assert asked == ["nvidia-smi sees a GPU, but PyPI's torch for Windows computes on the CPU alone"]


def test_without_a_terminal_it_is_only_said(
    venv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull, encoding="ascii") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        offer_cuda(venv, is_agreed=False)
    assert words(venv) == ""
    assert "launch_distributed.bat --cuda VERB installs the CUDA build" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "builds"),
    [
        ("CUDA Version: 13.1", ["cu130", "cu129", "cu128", "cu126"]),
        ("CUDA Version: 12.10", ["cu129", "cu128", "cu126"]),
        ("CUDA Version: 12.7", ["cu126"]),
        ("no word", ["cu126"]),
    ],
)
def test_the_newest_build_that_the_driver_runs_comes_first(told: str, builds: list[str]) -> None:
    assert indexes_for(told) == [f"https://download.pytorch.org/whl/{build}" for build in builds]


def test_a_driver_too_old_for_every_build_gets_none() -> None:
    assert indexes_for("CUDA Version: 11.4") == []
