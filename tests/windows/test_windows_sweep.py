"""Sweeps on Windows: a real Python for Windows under wine, in a folder whose path is hard to quote."""

import csv
import os
from pathlib import Path

import pytest

from tests.support import poll
from tests.windows.lab import Lab
from tests.windows.machine import on_windows

MANAGER, WORKER = "experiment_manager.py", "experiment_runner_gpu.py"
EXPERIMENT = """
import os, time

def run(params, context):
    print("grüße ✓", params["x"])
    while os.path.exists("closed"):  # a task that is long enough to be killed in its midst
        time.sleep(0.05)
    return {"y": params["x"] ** 2, "who": "grüße ✓"}
"""
CONFIG = """
defaults: {experiment: "experiment:run", output_dir: "./results_exp1"}
exp1:
  combinations:
    - x: {range: [0, 24]}
"""
COMMAND = """
defaults: {command: "python train.py --x {x}", output_dir: "./results_exp2"}
exp2:
  combinations:
    - x: [1, 2]
"""
PROGRAM = """
import json, sys
print("grüße ✓ from the command")
print(json.dumps({"y": int(sys.argv[2]) ** 2}))
"""
# As a spreadsheet does it: others may read, and nobody else may write, until it ends.
SPREADSHEET = """
import ctypes, sys, time
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
READ_WRITE, SHARE_READ, OPEN_EXISTING = 0xC0000000, 1, 3
handle = kernel.CreateFileW(sys.argv[1], READ_WRITE, SHARE_READ, None, OPEN_EXISTING, 0, None)
print("open" if handle != -1 else ctypes.get_last_error(), flush=True)
time.sleep(600)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def rows(lab: Lab, folder: str = "results_exp1") -> list[dict[str, str]]:
    """Return the rows of a results file."""
    path = lab.folder / folder / "final_results.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_windows_runs_a_sweep_and_answers_every_verb(lab: Lab) -> None:
    lab.write("experiment.py", EXPERIMENT)
    lab.write("train.py", PROGRAM)
    lab.write("configs/config_exp1.yaml", CONFIG.replace("[0, 24]", "[0, 3]"))
    lab.write("configs/config_exp2.yaml", COMMAND)
    code, said = lab.batch("plan")
    assert code == 0 and "5 to run" in said
    code, said = lab.batch("run", "--device", "cpu", "--port", "0")
    assert code == 0, said
    assert sorted(row["y"] for row in rows(lab)) == ["0", "1", "4"]
    assert {row["who"] for row in rows(lab)} == {"grüße ✓"}
    assert sorted(row["y"] for row in rows(lab, "results_exp2")) == ["1", "4"]
    assert "/" not in next(line for line in said.splitlines() if "worker-*.log" in line)
    code, said = lab.batch("tasks")
    assert (code, said.count(" complete")) == (0, 5)
    code, said = lab.batch("show", "exp1_0_42")
    assert code == 0 and "complete" in said
    code, said = lab.batch("logs", "exp1_1_42")
    assert code == 0 and "grüße ✓ 1\n" in said
    code, said = lab.batch("logs", "exp2_0_42")
    assert code == 0 and "grüße ✓ from the command\n" in said
    code, said = lab.batch("report")
    assert (code, said.count("\n")) == (2, 1) and "pandas" in said
    code, said = lab.batch("status")
    assert code == 0 and "5/5 (100.0%)" in said


def test_windows_kills_of_a_worker_and_the_manager_cost_no_row_and_double_none(lab: Lab) -> None:
    lab.write("experiment.py", EXPERIMENT)
    lab.write("configs/config_exp1.yaml", CONFIG)
    lab.write("closed", "")
    manager = lab.start(MANAGER, "--port", "0")
    manager.await_text("Manager serves")
    workers = [lab.start(WORKER, "--device", "cpu") for _ in range(2)]
    manager.await_text("to cpu0", "to cpu1")
    for worker in workers:
        worker.await_text("Running task")
    code, said = lab.verb("manager", "--port", "0")
    assert (code, said.count("\n")) == (2, 1)
    assert "a manager is already running in this folder (pid " in said

    workers[0].kill()
    manager.await_text("its process is gone")
    manager.kill()
    again = lab.start(MANAGER, "--port", "0", "--exit-when-done")
    again.await_text("Manager serves")
    lab.start(WORKER, "--device", "cpu")
    (lab.folder / "closed").unlink()
    assert again.await_end() == 0, again.text
    assert sorted(int(row["x"]) for row in rows(lab)) == list(range(24))
    assert workers[1].await_end() == 0, workers[1].text
    assert "Traceback" not in manager.text + again.text + workers[1].text


def test_windows_console_shows_what_happens_and_tasks_print_into_their_logs(lab: Lab) -> None:
    lab.write("experiment.py", EXPERIMENT)
    lab.write("configs/config_exp1.yaml", CONFIG.replace("[0, 24]", "[0, 2]"))
    manager = lab.start_in_console(MANAGER, "--port", "0", "--plain", "--exit-when-done")
    manager.await_text("Manager serves")
    worker = lab.start_in_console(WORKER, "--device", "cpu")
    assert (manager.await_end(), worker.await_end()) == (0, 0), worker.text
    assert "Task exp1_1_42 completed" in worker.text
    logs = (lab.folder / "results_exp1" / "runs").glob("*/log.txt")
    printed = [path.read_text(encoding="utf-8").splitlines()[-1] for path in logs]
    assert sorted(printed) == ["grüße ✓ 0", "grüße ✓ 1"]


def test_windows_rows_wait_until_a_spreadsheet_lets_go_of_the_file(lab: Lab) -> None:
    lab.write("experiment.py", EXPERIMENT)
    lab.write("spreadsheet.py", SPREADSHEET)
    lab.write("configs/config_exp1.yaml", CONFIG.replace("[0, 24]", "[0, 4]"))
    lab.write("results_exp1/final_results.csv", "x,seed,y,who\n0,42,0,me\n")
    results = on_windows(lab.folder / "results_exp1" / "final_results.csv")
    spreadsheet = lab.start("lab/spreadsheet.py", results)
    spreadsheet.await_text("open\n")
    manager = lab.start(MANAGER, "--port", "0", "--exit-when-done")
    manager.await_text("Marked 1 tasks as already completed", "Manager serves")
    lab.start(WORKER, "--device", "cpu")
    manager.await_text("final_results.csv: cannot be written now")
    spreadsheet.kill()
    assert manager.await_end() == 0, manager.text
    assert sorted(int(row["x"]) for row in rows(lab)) == [0, 1, 2, 3]


def test_windows_stop_ends_the_manager_and_what_a_task_has_started_ends_with_it(lab: Lab) -> None:
    lab.write(
        "experiment.py",
        """
import subprocess, sys, time

PROGRAM = "import os, time; open('started', 'w').write(str(os.getpid())); time.sleep(600)"

def run(params, context):
    subprocess.Popen([sys.executable, "-c", PROGRAM])
    while True:
        time.sleep(0.05)
""",
    )
    lab.write("configs/config_exp1.yaml", CONFIG.replace("[0, 24]", "[0, 1]"))
    manager = lab.start(MANAGER, "--port", "0")
    manager.await_text("Manager serves")
    worker = lab.start(WORKER, "--device", "cpu")
    worker.await_text("Running task")
    poll(lambda: read(lab.folder / "started") != "", "the task has started a program", 60.0)
    worker.kill()
    manager.await_text("its process is gone")
    lab.write("alive.py", "import sys, psutil; sys.exit(psutil.pid_exists(int(sys.argv[1])))")
    alive = lab.start("lab/alive.py", read(lab.folder / "started"))
    assert alive.await_end() == 0
    code, said = lab.batch("stop")
    assert code == 0 and "Stopped the manager" in said
    manager.await_end()


def read(path: Path) -> str:
    """Return the text of a file; empty while there is none."""
    return path.read_text(encoding="utf-8") if os.path.exists(path) else ""
