"""The launchers, as a user starts them: launch_distributed.sh here, launch_distributed.bat under wine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distexp.cli.main import VERBS
from distexp.launcher.main import MANAGER, PROJECT, RUNNER
from tests.support import silent_port

SHELL = "launch_distributed.sh"
BATCH = "launch_distributed.bat"
PATIENCE_S = 60.0  # far above what anything here takes on a busy machine
GATE = """
import json, pathlib, time
while not pathlib.Path("gate-is-open").exists():
    time.sleep(0.02)
print(json.dumps({"score": 1}))
"""
CONFIG = f"""
defaults:
  command: "'{sys.executable}' gate.py {{width}}"
  output_dir: ./results_gate
seeds: [1]
exp1_width:
  combinations:
    - width: [1, 2, 3]
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="drives bash, and cmd under wine")


@dataclass(frozen=True)
class Copy:
    """A copy of the project in a folder with a space in its name, with three tasks that wait for a gate."""

    root: Path

    @contextmanager
    def start(self, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Start the .sh as a background job of a script would: SIGINT ignored."""
        launcher = subprocess.Popen(
            ["bash", "-c", 'trap "" INT; exec "$@"', "bash", str(self.root / SHELL), *words],
            cwd=self.root,
            env={**os.environ, "DISTEXP_PYTHON": sys.executable, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield launcher
        finally:
            launcher.kill()
            launcher.communicate()

    def call(self, *words: str, **variables: str) -> tuple[int, str]:
        """Return exit code and output of the .sh."""
        with self.start(*words, **variables) as launcher:
            output = launcher.communicate(timeout=PATIENCE_S)[0]
        return launcher.returncode, output

    def open_gate(self) -> None:
        """Let every task end."""
        (self.root / "gate-is-open").touch()

    def rows(self) -> int:
        """Return how many rows the three tasks have left."""
        path = self.root / "results_gate" / "final_results.csv"
        return len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else 0

    def left_behind(self) -> list[list[str]]:
        """Return the commands of this folder's processes, once there are none or patience ends."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self._processes()) and time.monotonic() < deadline:
            psutil.wait_procs(found, timeout=1)
        return [process.info["cmdline"] for process in found]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
            if process.pid != os.getpid() and any(str(self.root) in word for word in words):
                found.append(process)
        return found


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """Yield the copy; whatever of it still runs after the test is killed."""
    root = tmp_path / "a folder"
    half_written = shutil.ignore_patterns("*.pyc.*")  # by other tests, just now
    shutil.copytree(PROJECT / "distexp", root / "distexp", ignore=half_written)  # compiled files stay valid
    for name in (SHELL, BATCH, MANAGER, RUNNER):
        shutil.copy2(PROJECT / name, root / name)
    (root / "configs").mkdir()
    (root / "configs" / "config_exp1.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "gate.py").write_text(GATE, encoding="utf-8")
    one = Copy(root)
    yield one
    for process in one._processes():
        process.kill()


def read_until(launcher: subprocess.Popen[str], text: str, times: int = 1) -> str:
    """Return the output up to the line that holds `text` for the last of `times`; fail where it ends."""
    assert launcher.stdout is not None
    output = ""
    for line in launcher.stdout:
        output += line
        times -= text in line
        if times == 0:
            return output
    raise AssertionError(f"no line holds {text!r}:\n{output}")


def test_run_ends_with_the_rows_and_a_second_run_finds_them(copy: Copy) -> None:
    copy.open_gate()
    code, output = copy.call("run", "--port", "0", "--device", "cpu")
    assert code == 0, output
    assert "Generated 3 total tasks" in output
    assert "results_gate/final_results.csv: 3 rows" in output
    code, output = copy.call("run", "--port", "0", "--device", "cpu")
    assert code == 0, output
    assert "Marked 3 tasks as already completed" in output
    assert copy.rows() == 3
    assert copy.left_behind() == []


def test_ctrl_c_lets_both_workers_finish_their_task_and_leaves_nobody(copy: Copy) -> None:
    with copy.start("run", "--port", "0", "--device", "cpu") as launcher:
        read_until(launcher, "Assigned task", times=2)
        launcher.send_signal(signal.SIGINT)
        read_until(launcher, "Stopping: workers finish their tasks")
        copy.open_gate()
        output = launcher.communicate(timeout=PATIENCE_S)[0]
    assert launcher.returncode == 128 + signal.SIGINT, output
    assert output.count("completed by cpu") == 2
    assert copy.rows() == 2
    assert copy.left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_launcher_leaves_nobody(copy: Copy, number: signal.Signals) -> None:
    if number is signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent was killed")
    with copy.start("run", "--port", "0", "--device", "cpu") as launcher:
        read_until(launcher, "Assigned task", times=2)
        launcher.send_signal(number)
        launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert copy.left_behind() == []
    assert copy.rows() == 0


def test_a_manager_that_refuses_to_start_starts_no_worker(copy: Copy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = copy.call("run", "--port", str(port), "--device", "cpu")
    assert code == 2, output
    assert str(port) in output
    assert "Started" not in output
    assert copy.left_behind() == []


@pytest.mark.slow
def test_a_sweep_whose_workers_all_die_is_ended_with_their_last_words(copy: Copy) -> None:
    (copy.root / RUNNER).write_text("import sys\nsys.exit('broken here')\n", encoding="utf-8")
    code, output = copy.call("run", "--port", "0", "--device", "cpu")
    assert code == 1, output
    log = copy.root / ".experiment_manager" / "worker-0.log"
    assert f"All workers have ended before the sweep: worker 0: exit code 1, broken here ({log})" in output
    assert copy.left_behind() == []


def test_stop_ends_a_manager_and_says_when_there_is_none(copy: Copy) -> None:
    with copy.start("manager", "--port", "0") as manager:
        read_until(manager, "Manager serves")
        assert '"total": 3' in copy.call("status")[1]
        code, output = copy.call("stop")
        assert output == f"Stopped the manager (process {manager.pid}); its workers finish their tasks\n"
        assert code == 0
        manager.communicate(timeout=PATIENCE_S)
    assert copy.call("stop") == (0, f"No manager runs in {copy.root}\n")


def test_workers_reports_those_that_failed(copy: Copy) -> None:
    with silent_port() as port:
        words = ["127.0.0.1", str(port), "--device", "cpu", "--manager-wait-s", "0.1"]
        code, output = copy.call("workers", "2", *words)
    assert code == 1, output
    assert "worker 0 ended with exit code 1\nworker 1 ended with exit code 1\n" in output


def test_ctrl_c_reaches_each_of_several_workers_once(copy: Copy) -> None:
    with copy.start("manager", "--port", "0") as manager:
        read_until(manager, "Manager serves")
        with copy.start("workers", "2", "--device", "cpu") as workers:
            read_until(workers, "Running task", times=2)
            workers.send_signal(signal.SIGINT)
            read_until(workers, "Finishing the current task", times=2)
            copy.open_gate()
            output = workers.communicate(timeout=PATIENCE_S)[0]
        assert workers.returncode == 0, output
        assert output.count("completed") == 2
        manager.send_signal(signal.SIGINT)
        manager.communicate(timeout=PATIENCE_S)
    assert copy.left_behind() == []


def test_words_that_make_no_sense_are_answered_in_one_line(copy: Copy) -> None:
    command = copy.root / SHELL
    told = "error: No such command 'workrs'. (Did you mean one of: 'worker', 'workers'?)\n"
    told += f"See `{command} --help`.\n"
    assert copy.call("workrs") == (2, told)
    code, output = copy.call("workers", "many")
    assert (code, output.splitlines()[1]) == (2, f"See `{command} workers --help`.")
    assert "'many'" in output
    assert copy.call("run", "--device", "tpu")[1].startswith("error: Invalid value for '--device': ")
    assert "Did you mean '--rescan-s'?" in copy.call("run", "--rescan", "1")[1], "a flag of the manager"


def test_help_of_both_launchers_names_every_verb(copy: Copy) -> None:
    code, output = copy.call("help", DISTEXP_PYTHON="")
    assert code == 0
    batch = (PROJECT / BATCH).read_text(encoding="ascii")
    for verb in VERBS:
        assert re.search(rf" {verb}(  |\n)", output), verb
        assert re.search(rf"\necho .* {verb}(  |\r?\n)", batch), verb


def test_the_environment_is_checked_before_each_verb_and_for_test_with_the_tools(copy: Copy) -> None:
    python = copy.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    assert copy.call("test", "-k", "a name", DISTEXP_PYTHON="") == (
        0,
        f"-m distexp.launcher.bootstrap --dev\n{copy.root / MANAGER} test -k a name\n",
    )
    assert copy.call("status", DISTEXP_PYTHON="") == (
        0,
        f"-m distexp.launcher.bootstrap\n{copy.root / MANAGER} status\n",
    )


def test_without_a_recent_python_the_launcher_says_what_it_found(copy: Copy) -> None:
    folder = copy.root / "old"
    folder.mkdir()
    for name in ("python3", "python", "python3.11", "python3.12", "python3.13", "python3.14"):
        old = folder / name
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n', encoding="utf-8")
        old.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    code, output = copy.call("run", DISTEXP_PYTHON="", PATH=path)
    assert (code, output) == (
        2,
        "launch_distributed.sh: needs Python 3.11 or later (here: Python 3.9.1 (python3.11)). "
        "Install one, or set DISTEXP_PYTHON to its path\n",
    )
