"""`slurm`: what it hands to sbatch, and what it refuses before that."""

import os
import shlex
from pathlib import Path

import pytest

from distexp.cli.main import main
from distexp.launcher import main as launcher
from distexp.workdir import Workdir
from tests.live_manager import Folder

PROJECT = Path(__file__).parents[2]


def stand_in_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let sbatch write its options, a line each, to the file `options`; return where its script will be."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/sh\nfor word; do echo "$word"; done >{tmp_path}/options\ncat >{tmp_path}/script\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "script"


def test_slurm_passes_the_words_after_the_dashes_to_sbatch_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = stand_in_sbatch(tmp_path, monkeypatch)
    words = [
        "slurm",
        "2",
        "--device",
        "cpu",
        "--workdir",
        str(tmp_path),
        "--",
        "--gres=gpu:1",
        "--time",
        "4:00:00",
    ]
    assert main(words) == 0
    assert (tmp_path / "options").read_text().splitlines() == [
        "--parsable",
        "--gres=gpu:1",
        "--time",
        "4:00:00",
    ]
    assert "--device cpu" in script.read_text()


def test_the_manager_that_is_a_job_gets_flags_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = stand_in_sbatch(tmp_path, monkeypatch)
    with script.with_name("bin").joinpath("sbatch").open("a") as sbatch:
        sbatch.write(f"cp -n {script} {tmp_path}/first\n")
    words = ["--with-manager", "--manager-flags", "--freeze-code --configs 'my sweeps/*.yaml'"]
    assert main(["slurm", "1", *words, "--workdir", str(tmp_path)]) == 0
    (command,) = (line for line in (tmp_path / "first").read_text().splitlines() if line.startswith("exec "))
    assert command.endswith(" --requeue --freeze-code --configs 'my sweeps/*.yaml'")
    assert "--freeze-code" not in script.read_text(), "the workers' script"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--manager-flags", "--freez-code"], "error: No such option '--freez-code'. (Did you mean one of: "),
        (
            ["--manager-flags", "--port five"],
            "error: Invalid value for '--port': 'five' is not a valid integer.",
        ),
        (["--manager-flags", "configs"], "error: Got unexpected extra argument (configs)"),
        (["--manager-flags", "it's"], 'error: --manager-flags "it\'s": No closing quotation'),
        (
            ["--manager-flags", "--workdir ."],
            "error: --manager-flags: --workdir cannot be used here: the man",
        ),
        (
            ["--manager-flags", "--no-auth"],
            "error: --manager-flags: --no-auth cannot be used here: other mach",
        ),
        (["--configs", "x/*"], 'error: --configs is a flag of the manager: --manager-flags "--configs ..."'),
    ],
)
def test_wrong_flags_of_the_manager_are_told_before_anything_is_submitted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    script = stand_in_sbatch(tmp_path, monkeypatch)
    assert main(["slurm", "1", "--with-manager", *words, "--workdir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(told)
    assert not script.exists()


@pytest.mark.parametrize("is_clone", [True, False])
def test_the_workers_python_may_be_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_clone: bool
) -> None:
    script = stand_in_sbatch(tmp_path, monkeypatch)
    if not is_clone:
        monkeypatch.setattr(launcher, "PROJECT", tmp_path)
    words = ["--wrap", "apptainer exec 'my img.sif'", "--python", "python3", "--workdir", str(tmp_path)]
    assert main(["slurm", "1", *words]) == 0
    runner = shlex.quote(str(PROJECT / "experiment_runner_gpu.py")) if is_clone else "-m distexp worker"
    start = f"\napptainer exec 'my img.sif' python3 {runner} \"${{limit[@]}}\" "
    assert f"{start}--workdir {tmp_path} --cut-short-code 75 &\n" in script.read_text()


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        ([], False),
        (["--manager-flags", "--freeze-code"], True),
        (["--manager-options", "--mem=4G"], True),
    ],
)
def test_flags_for_a_manager_that_is_there_already_are_said_to_have_no_effect(
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    is_told: bool,
) -> None:
    stand_in_sbatch(folder.root, monkeypatch)
    folder.configure([1])
    with folder.serving():
        assert main(["slurm", "1", "--with-manager", *words, "--workdir", str(folder.root)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert f"A manager already runs in {folder.root}: the workers use it" in said
    assert (launcher.UNUSED in said) == is_told


@pytest.mark.parametrize(("state", "is_used"), [("PENDING", True), ("COMPLETING", False), ("", False)])
def test_a_job_that_is_the_manager_is_waited_for_as_long_as_it_is_in_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    is_used: bool,
) -> None:
    stand_in_sbatch(tmp_path, monkeypatch)
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {state}\n")
    squeue.chmod(0o755)
    folder = Workdir(tmp_path)
    folder.make_state()
    folder.manager_job.write_text("7\n")
    assert main(["slurm", "1", "--workdir", str(tmp_path)]) == 0
    assert (f"Batch job 7 is the manager of {tmp_path} already" in capsys.readouterr().err) == is_used
    assert ("--dependency=after:7" in (tmp_path / "options").read_text().splitlines()) == is_used
