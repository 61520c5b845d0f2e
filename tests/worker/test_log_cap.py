"""The log of a task stays within its limit, whatever prints it, and progress bars leave their last state."""

from pathlib import Path

import pytest

from distexp.task_log import last_lines
from tests.live_worker import gated_folder, open_gate, worker_process
from tests.support import poll

PRINTS = """
import os, subprocess, sys
def run(params, context):
    print("begin")
    sys.stdout.flush()
    if params["width"] == 1:
        for n in range(120_000): print("line", n)
    elif params["width"] == 2:
        os.write(1, b"x" * 3_000_000)
    elif params["width"] == 3:
        subprocess.run([sys.executable, "-c", "for n in range(15_000): print('y' * 99)"])
    else:
        for n in range(101): print(f"\\r{n:3d}%", end="")
        print()
    print("end")
    return {"score": 1}
"""


def log_of(root: Path, number: int) -> str:
    texts = [path.read_text() for path in root.glob("results_exp1/runs/*/log.txt")]
    [found] = [text for text in texts if f'"width": {number},' in text]
    return found


@pytest.mark.slow
def test_what_a_function_prints_beyond_the_limit_is_cut_in_the_middle(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3, 4]", PRINTS)
    with (
        folder.serving() as manager,
        worker_process(tmp_path, "localhost", manager.port, "--max-log-mb", 1) as worker,
    ):
        assert worker.code() == 0
    for number in (1, 2, 3):
        lines = log_of(tmp_path, number).splitlines()
        assert sum(len(line) + 1 for line in lines) < 1_000_000
        assert lines[0].startswith(f"# exp1_vary_width_{number - 1}_42, attempt 1")
        assert "begin" in lines[:5]
        assert lines[-1].endswith("end")
        [mark] = [line for line in lines if "bytes of output are left out" in line]
        assert mark.endswith("left out here (--max-log-mb 1)")
    assert log_of(tmp_path, 4).splitlines()[-3:] == ["begin", "100%", "end"]


FOREVER = """
import sys
from pathlib import Path
def run(params, context):
    while not Path("gate").exists():
        print("z" * 99)
    return {"score": 1}
"""


@pytest.mark.slow
def test_it_is_cut_while_the_task_goes_on(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", FOREVER)
    with (
        folder.serving() as manager,
        worker_process(tmp_path, "localhost", manager.port, "--max-log-mb", 1) as worker,
    ):
        poll(lambda: list(tmp_path.glob("results_exp1/runs/*/log.txt")) != [], "a log")
        [log] = tmp_path.glob("results_exp1/runs/*/log.txt")
        poll(lambda: "bytes of output are left out here" in log.read_text(), "the cut")
        open_gate(tmp_path)
        assert worker.code() == 0
    assert log.stat().st_size <= 1_000_000


COMMAND = """
defaults: {{output_dir: ./results_exp1, command: "python printer.py {{width}}"}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""
PRINTER = """
import sys
for n in range(120_000): print("line", n)
for n in range(101): print(f"\\r{n:3d}%", end="")
print()
print('{"score": 1}')
"""


def test_what_a_command_prints_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "printer.py").write_text(PRINTER)
    folder = gated_folder(tmp_path, "[1]", config=COMMAND)
    with (
        folder.serving() as manager,
        worker_process(tmp_path, "localhost", manager.port, "--max-log-mb", 1) as worker,
    ):
        assert worker.code() == 0
    assert [row["score"] for row in folder.rows()] == ["1"]
    lines = log_of(tmp_path, 1).splitlines()
    assert lines[-2:] == ["100%", '{"score": 1}']
    assert len([line for line in lines if "bytes of output are left out here" in line]) == 1


def test_the_last_lines_of_a_log_are_found_though_it_was_cut_since_they_began(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a\nb\n")
    assert last_lines(log, 1, start=1000) == ["b"]
