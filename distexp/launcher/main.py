"""Manager and workers as processes: run a sweep, start workers, submit pilots, stop a manager."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from distexp.cluster.slurm import (
    MANAGER_WAIT_S,
    Surroundings,
    cancel,
    is_in_line,
    manager_script,
    of_manager,
    pilot_script,
    submit,
)
from distexp.errors import UserError
from distexp.launcher.local_run import LocalRun, ProcessGroup, Stopping, read_address, say
from distexp.system import locks
from distexp.system.exit_codes import code_text
from distexp.system.files import SMALL_BYTES, read_bytes
from distexp.system.logs import is_terminal
from distexp.system.process import ProcessMark
from distexp.text import count_text, last_line
from distexp.workdir import Workdir, write_private

PROJECT = Path(__file__).resolve().parents[2]
MANAGER = "experiment_manager.py"
RUNNER = "experiment_runner_gpu.py"
RUN_MANAGER = ("--exit-when-done", "--has-all-workers")  # for that of `run`
SLURM_MANAGER = ("--exit-when-done", "--plain", "--requeue")  # for a manager that is a job
MANAGER_WORDS = (MANAGER, "distexp")  # one of which is in the command of a manager
NO_GPU = "No available GPU found: "  # what a worker says of a host without any
UNUSED = (  # what is said where they are typed beside a manager that is there
    "--manager-flags and --manager-options are for a new manager; stop that one first if it is to have them"
)
CPU_WORKERS = 2  # where no GPU is free
LOOK_S = 0.1  # between two looks at the processes; a look costs microseconds
LIST_GPUS_S = 60.0  # a driver that wakes many GPUs takes seconds
STOP_S = 60.0  # for `stop` to see the manager gone
SHELL_FILES = ("launch_distributed.sh", ".ci/run")
# pytest's words when the user gives none. Tests wait for processes more than they compute; those of one file
# share what is slow to make (a virtual environment, a wine folder), so a file runs in one process.
# The slow ones are for `.ci/run`, so that these end in five minutes.
PARALLEL = ("-n", "2", "--dist", "loadfile", "-m", "not slow")


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


def run(
    workdir: Path,
    manager_words: Sequence[str],
    *,
    workers: int = 0,
    device: str = "auto",
    gpus: int = 1,
    page: bool = False,
) -> tuple[int, bool]:
    """Run the sweep of a folder to its end.

    Args:
        workdir: The folder, absolute.
        manager_words: Flags for the manager.
        workers: How many; 0: one per free GPU, one for `mps`, two on the CPU where none is free.
        device: Where they compute: `auto`, `gpu`, `cpu` or `mps`.
        gpus: For each worker.
        page: Serve the live page, too.

    Returns:
        The manager's exit code (after Ctrl+C 130, after SIGTERM 143; 1 if the workers ended early), and
        whether the manager came so far that workers were started.
    """
    device, count = choose_workers(device, gpus, workers)
    draws = is_terminal() and "--plain" not in manager_words
    manager = python(MANAGER, "manager", *RUN_MANAGER, "--workdir", str(workdir), *manager_words)
    worker = python(RUNNER, "--device", device, "--gpus", str(gpus))
    web = python(MANAGER, "web", "--workdir", str(workdir)) if page else ()
    with ProcessGroup() as group:
        local_run = LocalRun(group, workdir, manager, worker, count, is_relay=draws, page=web)
        while not local_run.turn(time.monotonic()):
            time.sleep(LOOK_S)
    if local_run.why_cut_short:
        say(local_run.why_cut_short)
    return local_run.exit_code, local_run.has_workers


def choose_workers(device: str, gpus: int, count: int) -> tuple[str, int]:
    """Return where the workers of `run` compute, and how many they are.

    `count`, or if that is 0 one per free GPU or set of `gpus`, one for `mps`, two on the CPU. `auto` becomes
    the CPU where no GPU is free.

    Raises:
        UserError: Fewer GPUs are free than one worker is to have, and it is to have several.
    """
    free_gpus = 0 if device in ("cpu", "mps") else count_free_gpus()
    on_gpus = free_gpus // max(1, gpus)
    if not on_gpus and gpus > 1:
        raise UserError(f"--gpus {gpus}: only {free_gpus} GPU{'s are' if free_gpus != 1 else ' is'} free")
    if device == "auto" and not free_gpus:
        device = "cpu"
        say("Tasks run on the CPU")
    return device, count or on_gpus or (1 if device == "mps" else CPU_WORKERS)


def count_free_gpus() -> int:
    """Return how many GPUs a worker could claim now; 0 with the reason, or a line per GPU, if none."""
    try:
        listed = subprocess.run(
            python(RUNNER, "--list-gpus"),
            capture_output=True,
            encoding="utf-8",
            timeout=LIST_GPUS_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{RUNNER} --list-gpus: no answer in {LIST_GPUS_S:.0f} s") from None
    free = sum(line.split()[1:2] == ["free"] for line in listed.stdout.splitlines())  # "gpu0  free  ..."
    if not free:
        told = listed.stdout.strip()
        if told.startswith(NO_GPU):
            told = f"No GPU here ({told.removeprefix(NO_GPU).partition(';')[0]})"
        say(told or f"{RUNNER} --list-gpus: {last_line(listed.stderr, 'no output')}")
    return free


def workers(count: int, words: Sequence[str]) -> int:
    """Start workers here and wait for them; `words` go to each. Returns 1 if any of them failed."""
    stopping = Stopping()
    with ProcessGroup() as group:
        for index in range(count):
            group.start(f"worker {index}", python(RUNNER, *words))
        while group.running:
            for number in group.take_signals():
                stopping.pass_on(number, group.running, time.monotonic())
            if stopping.is_over(time.monotonic()):
                break  # leaving the block kills
            time.sleep(LOOK_S)
    failed = [process for process in group.processes if process.exit_code != 0]
    for process in failed:
        say(f"{process.name} ended with exit code {code_text(process.exit_code)}")
    return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class WorkerJobs:
    """What the user says about workers that are jobs of Slurm."""

    count: int
    flags: Sequence[str] = ()  # of `worker`
    options: Sequence[str] = ()  # of sbatch
    python: Sequence[str] = ()  # words that start their Python; none: this one
    around: Surroundings  # what they, and their manager, need around their program


@dataclass(frozen=True)
class ManagerJob:
    """What the user says about a manager that is a job of Slurm."""

    flags: Sequence[str] = ()  # of `manager`
    options: Sequence[str] = ()  # of sbatch, after those of the workers


def slurm(
    workdir: Path, workers: WorkerJobs, manager: ManagerJob | None, other_host: Callable[[], str]
) -> int:
    """Submit workers, and where none runs perhaps their manager; return the exit code.

    Args:
        workdir: The folder, absolute.
        workers: Their jobs.
        manager: Its job; None: it is no job.
        other_host: Returns the other host on which a manager of the folder runs; empty: there is none.
    """
    folder = Workdir(workdir)
    folder.make_state()
    known_job, new_job = manager_job(workdir), ""
    if there := manager_there(workdir, known_job, other_host):
        say(f"{there}: the workers use it")
        if manager is not None and (manager.flags or manager.options):
            say(UNUSED)
    elif manager is None:
        say(f"No manager runs in {workdir} yet; the workers wait for one for 300 s (--manager-wait-s)")
    else:
        new_job = submit_manager(folder, manager, workers.options, workers.around)
    try:
        submit_workers(folder, workers, new_job or known_job)
    except UserError:
        if new_job:
            cancel(new_job)
        raise
    return 0


def manager_there(workdir: Path, job: str, other_host: Callable[[], str]) -> str:
    """Return where the manager is that the folder has already, maybe as that job; empty: it has none."""
    if has_manager(workdir):
        return f"A manager already runs in {workdir}"
    if job:
        return f"Batch job {job} is the manager of {workdir} already"
    host = other_host()
    return f"A manager of {workdir} already runs on {host}" if host else ""


def submit_workers(folder: Workdir, workers: WorkerJobs, manager: str) -> None:
    """Submit the workers of a folder, which start once the job `manager` has, if it names one."""
    flags, options = workers.flags, workers.options
    if manager:
        flags = ("--manager-wait-s", str(MANAGER_WAIT_S), *flags)
        options = (f"--dependency=after:{manager}", *options)
    worker = [*workers.python, *runner_words()] if workers.python else python(RUNNER)
    words = (*flags, "--workdir", str(folder.root))
    job = submit(pilot_script(workers.count, worker, words, folder.state, workers.around), options)
    say(f"Submitted batch job {job}: {count_text(workers.count, 'worker')}")


def submit_manager(folder: Workdir, manager: ManagerJob, options: Sequence[str], around: Surroundings) -> str:
    """Submit the manager of a folder, note its job there, and return its number."""
    words = ("--host", "0.0.0.0", "--workdir", str(folder.root), *SLURM_MANAGER, *manager.flags)
    own = [*of_manager(options), *manager.options]
    job = submit(manager_script(python(MANAGER, *words), folder.state, around), own)
    say(f"Submitted batch job {job}: the manager")
    write_private(folder.manager_job, job)
    return job


def manager_job(workdir: Path) -> str:
    """Return the number of the job that is the manager of a folder, or waits to be; empty: there is none."""
    try:
        job = read_bytes(Workdir(workdir).manager_job, SMALL_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return job if is_in_line(job) else ""


def runner_words() -> list[str]:
    """Return the words after another Python that make it a worker.

    It imports a clone, but not what is installed beside this Python: it has packages of its own.
    """
    is_clone = os.path.exists(PROJECT / "pyproject.toml")
    return [str(PROJECT / RUNNER)] if is_clone else ["-m", "distexp", "worker"]


def stop(workdir: Path, other_host: Callable[[], str]) -> int:
    """Stop the manager of the working folder as Ctrl+C would and wait until it is gone.

    Raises:
        UserError: It runs on another host, which `other_host` returns, or is a job of Slurm there.
    """
    manager = find_manager(workdir)
    if manager is None:
        if job := manager_job(workdir):
            raise UserError(f"the manager of {workdir} is batch job {job} of Slurm: `scancel {job}` stops it")
        if host := other_host():
            raise UserError(
                f"the manager of {workdir} runs on {host}: type `distexp stop` in that folder there"
            )
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
            raise UserError(f"the manager (process {manager.pid}) still runs after {STOP_S:.0f} s")
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
        is_manager = process is not None and any(
            word in text for text in process.cmdline() for word in MANAGER_WORDS
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if is_manager else None


def has_manager(workdir: Path) -> bool:
    """Return whether a manager holds the folder."""
    return locks.is_held(Workdir(workdir).lock)
