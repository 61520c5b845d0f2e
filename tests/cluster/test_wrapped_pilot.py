"""The batch shell of a job whose worker is in a container, without programs of Slurm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distexp.cluster import slurm
from tests.live_worker import await_file, open_gate

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

# What a worker in a container does: it is told of its time, and leaves upon a warning with the code it got.
IN_CONTAINER = """
import shutil, signal, sys
signal.alarm(60)  # for the end of one that gets no warning
assert shutil.which("squeue") is None
warnings = {signal.SIGUSR2, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, warnings)
print(*sys.argv[1:], flush=True)
if "stays" not in sys.argv: sys.exit(3)
warning = signal.Signals(signal.sigwait(warnings))
print(warning.name)
sys.exit(int(sys.argv[-1]) if warning == signal.SIGUSR2 else 0)
"""


def path_with_slurm(folder: Path, squeue: str) -> str:
    """Make programs of Slurm, and return a PATH with them."""
    for name, line in (("squeue", squeue), ("scontrol", 'echo "scontrol $*"')):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def back_in_line(job: str) -> list[str]:
    """What the shell and scontrol print."""
    why = "it was stopped before the sweep's end"
    return [f"Putting job {job} back in line: {why}", f"scontrol requeue {job}"]


@pytest.mark.parametrize(
    ("left", "limit"),
    [
        ("2-01:02:05", "--time-limit 0:176405 "),
        ("08:09", "--time-limit 0:369 "),
        ("0:30", "--time-limit 0:0 "),
        ("UNLIMITED", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGUSR2, slurm.CUT_SHORT_CODE), (signal.SIGTERM, 0), (None, 3)]
)
def test_the_shell_around_a_container_asks_slurm_and_passes_signals_on(
    tmp_path: Path, left: str, limit: str, stop: signal.Signals | None, code: int
) -> None:
    path = path_with_slurm(tmp_path, f"echo {left}")
    around = slurm.Surroundings(["set -eu"], wrap=["env", "PATH=/nowhere"])
    flags = ["stays"] if stop else ["ends by itself"]
    script = slurm.pilot_script(1, [sys.executable, "-c", IN_CONTAINER], flags, tmp_path, around)
    job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    sees = {**os.environ, **job, "PATH": path}
    with subprocess.Popen(["bash", "-c", script], env=sees, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == f"{limit}{flags[0]} --cut-short-code 75\n"
        if stop:
            shell.send_signal(stop)
        told = shell.stdout.read().splitlines()
    back = back_in_line("7_1") if code == slurm.CUT_SHORT_CODE else []
    assert told == [*([stop.name] if stop else []), *back]
    assert shell.returncode == code


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGUSR2, slurm.CUT_SHORT_CODE), (signal.SIGTERM, 143)])
def test_a_signal_to_the_shell_around_a_container_that_has_not_begun_is_heard(
    tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    asks = 'touch "${0%/*}/asked"\nwhile [ ! -e "${0%/*}/gate" ]; do sleep 0.01; done'
    sees = {**os.environ, "SLURM_JOB_ID": "9", "PATH": path_with_slurm(tmp_path, asks)}
    script = slurm.pilot_script(1, ["echo", "begun"], [], tmp_path, slurm.Surroundings(wrap=["env"]))
    with subprocess.Popen(["bash", "-c", script], env=sees, stdout=subprocess.PIPE, text=True) as shell:
        await_file(tmp_path / "asked")
        shell.send_signal(stop)
        open_gate(tmp_path)
        told = shell.communicate()[0].splitlines()
    assert told == (back_in_line("9") if stop is signal.SIGUSR2 else [])
    assert shell.returncode == code


@pytest.mark.parametrize(("left", "is_back"), [("1:00:00", True), ("", True), ("1:30", False)])
def test_a_job_whose_warning_ends_a_worker_that_cannot_hear_it_yet_goes_back_in_line_if_it_had_time(
    tmp_path: Path, left: str, is_back: bool
) -> None:
    waits = "import signal; signal.alarm(60); print('begins', flush=True); signal.pause()"
    begins = [sys.executable, "-c", waits]
    sees = {**os.environ, "SLURM_JOB_ID": "9", "PATH": path_with_slurm(tmp_path, f"echo {left}")}
    script = slurm.pilot_script(1, begins, [], tmp_path, slurm.Surroundings(wrap=["env"]))
    with subprocess.Popen(["bash", "-c", script], env=sees, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "begins\n"
        shell.send_signal(signal.SIGUSR2)
        told = shell.stdout.read().splitlines()
    assert told == (back_in_line("9") if is_back else [])
    assert shell.returncode == 128 + signal.SIGUSR2
