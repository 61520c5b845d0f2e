"""The tutorial, typed from its first command to its last."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PROJECT, blocks, page, section

TUTORIAL = page("docs/tutorial.md")
STEPS = re.findall(r"^## (\d\. .*)$", TUTORIAL, re.M)


def typed(command: str, folder: Path) -> str:
    """Return what a command of the page prints, in the folder that stands for `my_sweep`."""
    command = command.replace("my_sweep", str(folder))
    command = re.sub(r"^distexp ", lambda _: f"{shlex.quote(sys.executable)} -m distexp ", command)
    command = command.replace(" run --workdir", " run --device cpu --port 0 --workdir")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=PROJECT,
        env=os.environ | {"DISTEXP_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout.replace(str(folder), "my_sweep")


def is_told(line: str, output: str) -> bool:
    """Whether the output has this line, whatever worker it names."""
    pattern = re.escape(line).replace("cpu0", r"cpu\d").replace(r",\ 0\ s", r", \d+ s")
    return re.search(rf"^(\S+ \S+ )?{pattern}$", output, re.M) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="types the commands of Linux")
def test_the_tutorial_goes_as_it_is_told_from_init_to_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "my_sweep"
    assert len(STEPS) == 5
    for step in STEPS:
        text = section(TUTORIAL, step)
        output = "".join(typed(line, folder) for block in blocks(text, "sh") for line in block.splitlines())
        missing = [
            line for block in blocks(text, "text") for line in block.splitlines() if not is_told(line, output)
        ]
        assert missing == [], output
    assert len((folder / "results_exp1_learning_rate" / "final_results.csv").read_text().splitlines()) == 25
    assert "exp1_learning_rate" in (folder / "report.html").read_text(encoding="utf-8")
