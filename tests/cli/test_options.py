"""`--configs` counts from where it is typed, and else from the working folder, for every verb."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distexp.cli.main import main

Plan = Callable[..., tuple[int, str, str]]
SCRIPT = Path(__file__).parents[2] / "experiment_manager.py"
CONFIG = "{name}: {{defaults: {{command: 'true {{a}}'}}, combinations: [{{a: [1, 2]}}]}}\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Two folders, here and there, each with default configs and files of its own."""
    for folder in ("here", "there"):
        (tmp_path / folder / "configs").mkdir(parents=True)
        for name in ("configs/config_exp1", "both", f"of_{folder}"):
            (tmp_path / folder / f"{name}.yaml").write_text(CONFIG.format(name=f"{folder}_{Path(name).name}"))
    return tmp_path / "here"


@pytest.fixture
def plan(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Type `plan` there, and return exit code, output and error output."""
    monkeypatch.chdir(here)

    def typed(*words: str) -> tuple[int, str, str]:
        code = main(["plan", *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return typed


def call(here: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, cwd=here, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("configs", "workdir", "phases"),
    [
        ("of_here.yaml", "../there", ["here_of_here"]),
        ("both.yaml", "../there", ["here_both"]),
        ("of_there.yaml", "../there", ["there_of_there"]),
        ("configs/*.yaml", "../there", ["here_config_exp1"]),
        ("of_*.yaml", "../there", ["here_of_here"]),
        ("../there/of_*.yaml", "../there", ["there_of_there"]),
        ("both.yaml", ".", ["here_both"]),
        ("", "../there", ["there_config_exp1"]),
    ],
)
def test_configs_are_looked_for_here_and_then_in_the_working_folder(
    plan: Plan, configs: str, workdir: str, phases: list[str]
) -> None:
    code, out, _ = plan("--json", "--workdir", workdir, *(["--configs", configs] if configs else []))
    assert (code, [phase["phase"] for phase in json.loads(out)["phases"]]) == (0, phases)


def test_of_the_working_folder_itself_messages_name_files_as_they_were_typed(here: Path, plan: Plan) -> None:
    (here / "bad.yaml").write_text("a: 1\n")
    code, _, told = plan("--configs", "bad.yaml", "--workdir", "../here")
    assert (code, told[:38]) == (2, "error: bad.yaml:1: a: must be a phase,")


def test_so_they_are_in_a_folder_with_brackets_in_its_name(
    here: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here.rename(here.with_name("run[1]")))
    for configs in ("of_*.yaml", "of_here.yaml"):
        code, out, _ = plan("--json", "--workdir", "../there", "--configs", configs)
        assert (code, [phase["phase"] for phase in json.loads(out)["phases"]]) == (0, ["here_of_here"])


@pytest.mark.parametrize(
    "verb", [["report"], ["rerun", "here_of_here_0_42"], ["run", "--workers", "1", "--port", "0"]]
)
def test_so_it_is_with_each_verb(here: Path, verb: list[str]) -> None:
    done = call(here, *verb, "--workdir", "../there", "--configs", "of_here.yaml")
    assert done.returncode == 0, done.stderr
    if verb[0] == "run":
        assert (here.parent / "there" / "results_here_of_here" / "final_results.csv").exists()


def test_a_run_elsewhere_without_the_flag_reads_the_configs_there(here: Path) -> None:
    done = call(here, "run", "--workers", "1", "--port", "0", "--workdir", "../there")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in here.parent.glob("*/results_*")] == ["results_there_config_exp1"]
