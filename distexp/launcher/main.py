"""The verbs of launch_distributed.sh and launch_distributed.bat: run, workers, stop, slurm, test, ...

The launchers have changed to the project's folder: relative paths count from there.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import psutil

from distexp.cluster.slurm import pilot_script, submit
from distexp.errors import UserError
from distexp.launcher.local_run import LocalRun, ProcessGroup, Stopping, read_address, say
from distexp.system import locks
from distexp.system.process import ProcessMark
from distexp.workdir import Workdir

PROJECT = Path(__file__).resolve().parents[2]
MANAGER = "experiment_manager.py"
RUNNER = "experiment_runner_gpu.py"
CPU_WORKERS = 2  # where no GPU is free
LOOK_S = 0.1  # between two looks at the processes; a look costs microseconds
LIST_GPUS_S = 60.0  # a driver that wakes many GPUs takes seconds
STOP_S = 60.0  # for `stop` to see the manager gone
RESULTS_DEPTH = 4  # folders below the working folder: `output_dir: a/{b}/{c}/{d}`, and an end to the search
VERBS = "run | test | manager | worker | workers N | slurm N | status | stop | help"
SHELL_FILES = ("launch_distributed.sh", ".ci/run")
# pytest's words when the user gives none. Tests wait for processes more than they compute; those of one file
# share what is slow to make (a virtual environment, a wine folder), so a file runs in one process.
# The slow ones are for `.ci/run`, so that these end in five minutes.
PARALLEL = ("-n", "2", "--dist", "loadfile", "-m", "not slow")


class Arguments(argparse.ArgumentParser):
    """Complains in one line, and leaves words that it does not know to the script behind the verb."""

    def __init__(self, verb: str) -> None:
        super().__init__(f"launch_distributed {verb}", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found."""
        raise UserError(f"{self.prog}: {message}")


def main(words: Sequence[str]) -> int:
    """Do what the first word says with the rest of the words; return the exit code."""
    verb, rest = (words[0], words[1:]) if words else ("no word", words)
    try:
        match verb:
            case "run":
                return run(rest)
            case "workers":
                return workers(rest)
            case "slurm":
                return slurm(rest)
            case "stop":
                return stop(rest)
            case "test":
                return run_checks(PROJECT, rest)
            case "manager":
                return become(python(MANAGER, *rest))
            case "worker":
                return become(python(RUNNER, *rest))
            case "status":
                return become(python(MANAGER, "status", *rest))
        raise UserError(f"launch_distributed: there is no verb {verb}; choose one of {VERBS}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def python(script: str, *words: str) -> list[str]:
    """Return the command that runs a script of the project with this Python."""
    return [sys.executable, str(PROJECT / script), *words]


def checks(pytest_words: Sequence[str]) -> list[list[str]]:
    """Return the commands in their order, cheapest first."""
    tool = [sys.executable, "-m"]
    shell = ["shellcheck", *SHELL_FILES]
    return [
        [*tool, "ruff", "format", "--check", "."],
        [*tool, "ruff", "check", "."],
        [*tool, "mypy"],
        *([shell] if shutil.which("shellcheck") else []),
        [*tool, "pytest", *(pytest_words or PARALLEL)],
    ]


def run_checks(project: Path, pytest_words: Sequence[str]) -> int:
    """Run every check in the project's folder, each named before it starts; return the first code but 0."""
    for command in checks(pytest_words):
        name = " ".join(command[2:] if command[0] == sys.executable else command)
        print(f"== {name}", flush=True)
        code = subprocess.run(command, cwd=project, check=False).returncode
        if code != 0:
            print(f"Check failed (exit code {code}): {name}", file=sys.stderr)
            return code
    return 0


def become(command: Sequence[str]) -> int:
    """Turn into the command, so that signals reach it directly; on Windows wait, and leave Ctrl+C to it."""
    if sys.platform != "win32":
        os.execv(command[0], list(command))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.run(command, check=False).returncode


def run(words: Sequence[str]) -> int:
    """Run the sweep to its end and say where the rows are; words unknown here go to the manager.

    Returns the manager's exit code; after Ctrl+C 130, after SIGTERM 143; 1 if the workers ended early.
    """
    arguments = Arguments("run")
    arguments.add_argument("--workers", type=int, default=0)
    arguments.add_argument("--device", choices=["auto", "gpu", "cpu"], default="auto")
    arguments.add_argument("--gpus", type=int, default=1)
    arguments.add_argument("--workdir", default=".")
    options, manager_words = arguments.parse_known_args(words)
    workdir = Path(options.workdir).resolve()
    if not workdir.is_dir():
        raise UserError(f"launch_distributed run: --workdir {workdir}: there is no such folder")
    free_gpus = 0 if options.device == "cpu" else count_free_gpus()
    workers_wanted = free_gpus // max(1, options.gpus)
    if not workers_wanted and options.gpus > 1:
        verb = "is" if free_gpus == 1 else "are"
        raise UserError(f"launch_distributed run: --gpus {options.gpus}: only {free_gpus} {verb} free")
    device = "cpu" if options.device == "auto" and not free_gpus else options.device
    manager = python(MANAGER, "--exit-when-done", "--workdir", str(workdir), *manager_words)
    with ProcessGroup() as group:
        local_run = LocalRun(
            group,
            workdir,
            manager,
            python(RUNNER, "--device", device, "--gpus", str(options.gpus)),
            options.workers or workers_wanted or CPU_WORKERS,
        )
        while not local_run.turn(time.monotonic()):
            time.sleep(LOOK_S)
    if local_run.has_workers:
        say_rows(workdir)
    return local_run.exit_code


def count_free_gpus() -> int:
    """Return how many GPUs a worker could claim now; 0 with the reason, or a line per GPU, if none."""
    try:
        listed = subprocess.run(
            python(RUNNER, "--list-gpus"), capture_output=True, text=True, timeout=LIST_GPUS_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{RUNNER} --list-gpus: found no answer in {LIST_GPUS_S:.0f} s") from None
    free = sum(line.split()[1:2] == ["free"] for line in listed.stdout.splitlines())  # "gpu0  free  ..."
    if not free:
        say(
            listed.stdout.strip()
            or f"{RUNNER} --list-gpus: {(listed.stderr.splitlines() or ['no output'])[-1]}"
        )
    return free


def say_rows(workdir: Path) -> None:
    """Say which results files there are, and how many rows each holds."""
    for path in find_results(workdir):
        rows = max(path.read_bytes().count(b"\n") - 1, 0)  # every row that we write is one line
        say(f"{path.relative_to(workdir)}: {rows} rows")


def find_results(workdir: Path) -> list[Path]:
    """Return the results files of the folder, in order; hidden folders and `runs` are passed over."""
    found = []
    for folder, subfolders, files in os.walk(workdir):
        depth = len(Path(folder).relative_to(workdir).parts)
        wanted = depth < RESULTS_DEPTH
        subfolders[:] = [name for name in subfolders if wanted and name != "runs" and name[0] != "."]
        if "final_results.csv" in files:
            found.append(Path(folder, "final_results.csv"))
    return sorted(found)


def workers(words: Sequence[str]) -> int:
    """Start N workers here and wait for them; further words go to each. Returns 1 if any of them failed."""
    count = how_many("workers", words)
    stopping = Stopping()
    with ProcessGroup() as group:
        for index in range(count):
            group.start(f"worker {index}", python(RUNNER, *words[1:]))
        while group.running:
            for number in group.take_signals():
                stopping.pass_on(number, group.running, time.monotonic())
            if stopping.is_over(time.monotonic()):
                break  # leaving the block kills
            time.sleep(LOOK_S)
    failed = [process for process in group.processes if process.exit_code != 0]
    for process in failed:
        say(f"{process.name} ended with exit code {process.exit_code}")
    return 1 if failed else 0


def how_many(verb: str, words: Sequence[str]) -> int:
    """Return the number that the first word says."""
    if not words or not words[0].isdecimal() or int(words[0]) == 0:
        found = words[0] if words else "no number"
        raise UserError(f"launch_distributed {verb}: say how many, such as `{verb} 3` (you said {found})")
    return int(words[0])


def slurm(words: Sequence[str]) -> int:
    """Submit N pilots; words before `--` go to each, those after it to sbatch. Returns sbatch's exit code."""
    count = how_many("slurm", words)
    cut = words.index("--") if "--" in words else len(words)
    arguments = Arguments("slurm")
    arguments.add_argument("--workdir", default=".")
    options, worker_words = arguments.parse_known_args(words[1:cut])
    folder = Workdir(Path(options.workdir).resolve())
    if not folder.root.is_dir():
        raise UserError(f"launch_distributed slurm: --workdir {folder.root}: there is no such folder")
    folder.state.mkdir(exist_ok=True)
    if not has_manager(folder.root):
        say(f"No manager runs in {folder.root} yet; pilots wait for one for 300 s (--manager-wait-s)")
    worker = python(RUNNER, *worker_words, "--workdir", str(folder.root), "--requeue")
    return submit(pilot_script(count, worker, folder.state), words[cut + 1 :])


def stop(words: Sequence[str]) -> int:
    """Stop the manager of the working folder as Ctrl+C would and wait until it is gone."""
    arguments = Arguments("stop")
    arguments.add_argument("--workdir", default=".")
    workdir = Path(arguments.parse_args(words).workdir).resolve()
    manager = find_manager(workdir)
    if manager is None:
        print(f"No manager runs in {workdir}")
        return 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
        if sys.platform == "win32":
            manager.terminate()  # Windows cannot send Ctrl+C to another console; journal and rows stand it
        else:
            manager.send_signal(signal.SIGINT)
    mark, give_up_s = ProcessMark.of(manager.pid), time.monotonic() + STOP_S
    while mark and not mark.is_gone():
        if time.monotonic() > give_up_s:
            raise UserError(f"launch_distributed stop: manager {manager.pid} still runs after {STOP_S:.0f} s")
        time.sleep(LOOK_S)
    print(f"Stopped the manager (process {manager.pid}); its workers finish their tasks")
    return 0


def find_manager(workdir: Path) -> psutil.Process | None:
    """Return the process that the folder's address file names, if it lives and is a manager indeed.

    The file outlives its manager, and after a restart of the machine its pid may be anybody's; only a manager
    holds the folder's lock.
    """
    address = read_address(workdir) if has_manager(workdir) else None
    try:
        process = psutil.Process(address.pid) if address else None
        is_manager = process is not None and any(MANAGER in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if is_manager else None


def has_manager(workdir: Path) -> bool:
    """Return whether a manager holds the folder."""
    return locks.is_held(Workdir(workdir).state / "lock")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
