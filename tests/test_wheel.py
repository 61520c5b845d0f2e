"""The wheel, installed into a fresh environment without torch, runs a sweep in somebody's own repository."""

import itertools
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.pages import PROJECT

CONFIG = """
defaults: {experiment: "mine:run", output_dir: "./results_{phase}"}
exp1_lr:
  combinations:
    - lr: [0.1, 0.2]
"""
MINE = "def run(params, context):\n    return {'double': 2 * params['lr']}\n"


def call(*words: object, cwd: Path, **variables: str) -> str:
    """Return what a command prints, its own environment free of this project's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DISTEXP"))}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=kept | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what git knows, so that a file which is not added is missed."""
    folder = tmp_path_factory.mktemp("wheel")
    names = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=PROJECT).split(
        "\0"
    )
    for name in filter(None, names):
        if (PROJECT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((PROJECT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source", cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_both_scripts_the_pages_and_its_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "experiment_manager.py",
        "experiment_runner_gpu.py",
        "distexp/py.typed",
        "distexp/reporting/page/report.js",
        "distexp/reporting/page/page.css",
        "distexp/reporting/page/page.html",
        "distexp/web/page/index.html",
        "distexp/web/page/live.js",
        "distexp/web/page/live.css",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "configs/"))]


def test_the_lock_holds_every_direct_dependency() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    ranges = {text.partition(">=")[0].lower() for text in wanted if "[" not in text}
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    locked = {line.partition("==")[0].strip().lower() for line in lines if "==" in line}
    assert locked == ranges


def test_public_names_are_there_and_an_import_loads_nothing() -> None:
    program = (
        "import sys, distexp; heavy = {'torch', 'msgspec', 'yaml', 'click'} & set(sys.modules); "
        "print(*heavy, distexp.Context.__name__, distexp.ExperimentManager.__name__)"
    )
    assert call(sys.executable, "-c", program, cwd=PROJECT) == "Context ExperimentManager\n"


def test_llms_txt_names_every_page() -> None:
    listed = (PROJECT / "llms.txt").read_text(encoding="utf-8")
    assert [
        path.name for path in (PROJECT / "docs").glob("*.md") if f"(docs/{path.name})" not in listed
    ] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="looks for the command where Linux and macOS have it")
def test_it_runs_a_sweep_in_a_repository_of_ones_own_and_leaves_git_results_and_the_log_alone(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv" / "bin"
    try:
        call(commands / "pip", "--disable-pip-version-check", "-q", "install", wheel, cwd=tmp_path)
    except AssertionError as error:
        if "No matching distribution" in str(error) or "connection" in str(error).lower():
            pytest.skip("needs a package index")
        raise
    mine = tmp_path / "my project"
    (mine / "configs").mkdir(parents=True)
    (mine / "src").mkdir()
    (mine / "configs" / "config_exp1.yaml").write_text(CONFIG, encoding="utf-8")
    (mine / "src" / "mine.py").write_text(MINE, encoding="utf-8")
    (mine / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    call("git", "init", "-q", cwd=mine)
    call("git", "add", "-A", cwd=mine)
    call(*git, "commit", "-qm", "mine", cwd=mine)
    call(commands / "distexp", "run", "--device", "cpu", "--port", "0", cwd=mine)
    rows = (mine / "results_exp1_lr" / "final_results.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3
    untracked = call("git", "status", "--porcelain", cwd=mine).split()[1::2]
    assert untracked == ["experiment_manager.log", "results_exp1_lr/"]
    torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    call(commands / "python", "-c", torch, cwd=mine)
    assert call(commands / "distexp", "--version", cwd=mine).startswith("distexp 0.")
    with pytest.raises(AssertionError, match="error: test: checks a clone of this project"):
        call(commands / "distexp", "test", cwd=mine)
    with pytest.raises(AssertionError, match="error: report: install what it needs: pip install pandas"):
        call(commands / "distexp", "report", cwd=mine)
