"""`.venv`: made once, complete or made again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.launcher.bootstrap import PROJECT, RUN_REQUIREMENTS, make_environment, missing, venv_python

WANTED = [RUN_REQUIREMENTS]
START = (
    "import sys, pathlib, distexp.launcher.bootstrap as b; "
    f"b.make_environment(pathlib.Path(sys.argv[1]), {WANTED})"
)

pytestmark = pytest.mark.timeout(300)  # pip alone takes 10 to 40 s


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A project whose `.venv` was broken, and the output of two starts at once in it. Nothing is fetched."""
    project = tmp_path_factory.mktemp("a project")
    (project / RUN_REQUIREMENTS).write_text("# nothing\n", encoding="utf-8")
    python = venv_python(project / ".venv")
    python.parent.mkdir(parents=True)
    python.symlink_to(project / "a Python that was removed")
    command = [sys.executable, "-c", START, str(project)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [start.communicate()[1] for start in running]
    assert [start.returncode for start in running] == [0, 0]
    return project, told


@pytest.mark.slow
def test_two_starts_at_once_make_a_broken_environment_again_and_install_once(
    starts: tuple[Path, list[str]],
) -> None:
    project, told = starts
    assert sorted(map(len, told))[0] == 0
    assert "Making .venv with Python 3." in "".join(told)
    assert "Installing requirements.txt into .venv: once, some minutes" in "".join(told)
    python = venv_python(project / ".venv")
    assert (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
def test_a_changed_requirements_file_is_installed_again_and_an_unchanged_one_is_not(
    starts: tuple[Path, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    project, _ = starts
    (project / RUN_REQUIREMENTS).write_text("# another nothing\n", encoding="utf-8")
    assert missing(project / ".venv", project, WANTED) == WANTED
    make_environment(project, WANTED)
    told = capfd.readouterr().err
    assert "Installing" in told
    assert "Making" not in told
    make_environment(project, WANTED)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_failed_install_shows_pips_words_and_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path
    requirements = project / RUN_REQUIREMENTS
    requirements.write_text("./nowhere\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        make_environment(project, WANTED)
    log = project / ".venv" / "install-requirements.log"
    assert str(caught.value) == f"{requirements} cannot be installed (pip: exit code 1), see {log}"
    assert "nowhere" in capfd.readouterr().err
    assert missing(project / ".venv", project, WANTED) == WANTED
