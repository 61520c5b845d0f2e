"""Attempts in real processes: how they end, and what they leave behind."""

import os
import signal
import sys
from multiprocessing.connection import wait
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from distexp.system import process
from distexp.task import Cause
from distexp.worker.task_main import Failed, Finished, Stopped
from distexp.worker.task_process import Children
from tests.live_child import (
    DEADLINE_S,
    METHODS,
    Write,
    a_run,
    await_end,
    await_gone,
    end_template,
    outcome_of,
)
from tests.support import poll

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and forks")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")


def log_of(folder: Path) -> str:
    lines = (folder / "run" / "log.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# "))


def await_pid(path: Path) -> int:
    poll(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} written")
    return int(path.read_text())


# -- how an attempt ends


@pytest.mark.parametrize("children", METHODS, indirect=True)
def test_a_result_comes_back_with_its_time_under_each_start_method(
    children: Children, write: Write, tmp_path: Path
) -> None:
    end_template()
    experiment = write("def run(params, context): return {'acc': params['width'] + context.seed}")
    outcome = outcome_of(children, a_run(tmp_path, experiment))
    assert isinstance(outcome, Finished)
    assert outcome.result == {"acc": 43}
    assert outcome.duration_s >= 0
    assert outcome.started_utc.endswith("Z")
    assert (outcome.torch_version, outcome.peak_gpu_mib) == ("", None)


@posix_only
@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGSEGV)", "ctypes.string_at(0)"])
def test_a_segfault_is_a_crash_that_names_the_signal_and_ends_with_the_tasks_last_lines(
    children: Children, write: Write, tmp_path: Path, death: str
) -> None:
    source = f"import ctypes, os, signal\ndef run(params, context):\n print('epoch 7')\n {death}"
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    assert outcome == Failed(Cause.CRASH, "epoch 7\nkilled by SIGSEGV; last output: epoch 7")


@posix_only
def test_a_kill_from_outside_says_who_it_may_have_been(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = "import os, signal\ndef run(params, context): os.kill(os.getpid(), signal.SIGKILL)"
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    expected = "killed by SIGKILL, perhaps for want of memory"
    assert outcome == Failed(Cause.CRASH, expected)


@linux_only
def test_a_signal_without_a_name_is_told_by_its_number(
    children: Children, write: Write, tmp_path: Path
) -> None:
    outcome = outcome_of(
        children, a_run(tmp_path, write("import os\ndef run(p, c): os.kill(os.getpid(), 40)"))
    )
    assert outcome == Failed(Cause.CRASH, "killed by signal 40")


def test_a_process_that_leaves_without_a_result_is_a_crash_with_its_exit_code(
    children: Children, write: Write, tmp_path: Path
) -> None:
    outcome = outcome_of(children, a_run(tmp_path, write("import os\ndef run(p, c): os._exit(3)")))
    assert outcome == Failed(Cause.CRASH, "ended with exit code 3 without a result")


# -- what it leaves behind

FAMILY = """
import os, signal, subprocess, sys, threading, time
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
def double_fork():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            with open("double", "w") as file: print(os.getpid(), file=file)
            while True: signal.pause()
        os._exit(0)
def run(params, context):
    os.chdir(context.output_dir)
    with open("single", "w") as file:
        print(subprocess.Popen([sys.executable, "-c", STUBBORN]).pid, file=file)
    double_fork()
    context.report(1, 2)
    while not os.path.exists("gate"): time.sleep(0.01)
    if END: return {}
    threading.Event().wait()
"""


@linux_only
@pytest.mark.parametrize("children", METHODS, indirect=True)
@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_whatever_the_task_started_ends_with_it(
    children: Children, write: Write, tmp_path: Path, ends_by_itself: bool
) -> None:
    attempt = children.start(a_run(tmp_path, write(f"END = {ends_by_itself}" + FAMILY)))
    try:
        single, double = (await_pid(tmp_path / name) for name in ("single", "double"))
        assert psutil.pid_exists(single)
        (tmp_path / "gate").touch()
        if ends_by_itself:
            assert isinstance(await_end(attempt), Finished)
    finally:
        attempt.kill()
    await_gone(single)
    await_gone(double)


@pytest.mark.parametrize("children", METHODS, indirect=True)
def test_a_retired_child_may_leave_while_others_work_and_is_gone_once_all_are_closed(
    children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write("import time\ndef run(p, c): return time.sleep(600 * (c.attempt - 1)) or {}"))
    attempt = children.start(run)
    assert isinstance(await_end(attempt), Finished)
    children.retire(attempt)
    still_runs = children.start(replace(run, attempt=2))
    assert not attempt._process.is_alive(), "the next child is at work, so the one before has had its time"
    children.retire(still_runs)
    assert not still_runs._process.is_alive()
    children.close()


@linux_only
@pytest.mark.parametrize("children", METHODS, indirect=True)
def test_a_program_that_the_task_detached_ends_with_a_task_that_somebody_kills(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
import os, signal, subprocess, sys
def run(params, context):
    nap = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    (context.output_dir / "nap").write_text(f"{nap.pid}\\n")
    signal.pause()
"""
    attempt = children.start(a_run(tmp_path, write(source)))
    try:
        nap = psutil.Process(await_pid(tmp_path / "nap"))
        nap.parent().kill()
        assert isinstance(await_end(attempt), Failed)
    finally:
        attempt.kill()
    await_gone(nap.pid)


def test_stdin_is_empty_and_all_output_at_any_level_is_in_the_tasks_log(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
import os, sys
def run(params, context):
    print("printed")
    os.write(2, b"written")
    os.system("echo of a program")
    return {"read": sys.stdin.read()}
"""
    for _ in range(2):
        outcome = outcome_of(children, a_run(tmp_path, write(source)))
        assert isinstance(outcome, Finished)
        assert outcome.result == {"read": ""}
    assert log_of(tmp_path) == 2 * "printed\nwrittenof a program\n"


def test_the_checkpoint_folder_is_the_same_for_every_attempt(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
def run(params, context):
    (context.checkpoint_dir / f"attempt{context.attempt}").touch()
    return {"files": len(list(context.checkpoint_dir.iterdir()))}
"""
    experiment = write(source)
    for attempt in (1, 2):
        outcome = outcome_of(children, a_run(tmp_path, experiment, attempt=attempt))
        assert isinstance(outcome, Finished)
        assert outcome.result == {"files": attempt}


@linux_only
@pytest.mark.parametrize("children", METHODS, indirect=True)
@pytest.mark.parametrize("ending", ["return {}", "raise RuntimeError('a hiccup')", "os._exit(3)"])
def test_a_pool_that_the_task_forgets_ends_and_its_named_memory_is_freed(
    children: Children, write: Write, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TRACKER_S", 60.0)
    source = f"""
import multiprocessing, os
from multiprocessing import shared_memory
from distexp.system import process
process.TRACKER_S = 60.0  # the machine may be busy
def pid_of(_): return os.getpid()
def run(params, context):
    global pool, memory
    pool = multiprocessing.get_context("fork").Pool(2)
    memory = shared_memory.SharedMemory("test-{os.getpid()}", create=True, size=1_000_000)
    (context.output_dir / "pids").write_text(" ".join(map(str, pool.map(pid_of, range(8)))) + "\\n")
    {ending}
"""
    experiment = write(source)
    for _ in range(2):  # the second finds no `File exists`
        outcome = outcome_of(children, a_run(tmp_path, experiment))
        if ending == "return {}":
            assert isinstance(outcome, Finished), outcome
        else:
            assert isinstance(outcome, Failed)
            assert "File exists" not in outcome.error
        for pid in {int(pid) for pid in (tmp_path / "pids").read_text().split()}:
            await_gone(pid)
        assert not Path(f"/dev/shm/test-{os.getpid()}").exists()


@linux_only
@pytest.mark.parametrize(
    "ending", ["return {}", "os._exit(3)", "os.kill(os.getpid(), 9)", "while True: pass"]
)
def test_a_daemon_without_a_program_of_its_own_ends_with_the_task_however_that_ends(
    children: Children, write: Write, tmp_path: Path, ending: str
) -> None:
    source = f"""
import os, signal
def run(params, context):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for descriptor in range(3, 50):
                try: os.close(descriptor)
                except OSError: pass
            (context.output_dir / "new").write_text(f"{{os.getpid()}}\\n")
            (context.output_dir / "new").rename(context.output_dir / "daemon")
            while True: signal.pause()
        os._exit(0)
    while not (context.output_dir / "daemon").exists(): pass
    {ending}
"""
    run = a_run(tmp_path, write(source))
    attempt = children.start(run)
    children.prepare(run.task)
    daemon = await_pid(tmp_path / "daemon")
    if ending != "while True: pass":
        await_end(attempt)
    attempt.kill()
    await_gone(daemon)
    standby = children._standby and children._standby.take()
    assert standby is not None
    assert standby._process.is_alive(), "it is a child of the template, too"


@posix_only
@pytest.mark.parametrize("ending", ["return {'who': 'fork'}", "raise RuntimeError('in the fork')"])
def test_a_fork_of_the_task_that_returns_through_run_is_not_its_result(
    children: Children, write: Write, tmp_path: Path, ending: str
) -> None:
    source = f"""
import os
def run(params, context):
    child = os.fork()
    if child == 0:
        {ending}
    os.waitpid(child, 0)
    return {{"who": "task"}}
"""
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    assert isinstance(outcome, Finished)
    assert outcome.result == {"who": "task"}


@posix_only
def test_ctrl_c_and_a_clusters_signals_reach_what_the_task_starts_but_not_the_task(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
import multiprocessing, os, signal, subprocess
def run(params, context):
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"): os.kill(os.getpid(), getattr(signal, name))
    program = subprocess.Popen(["sleep", "600"])
    program.terminate()
    forked = multiprocessing.get_context("fork").Process(target=signal.pause)
    forked.start()
    forked.terminate()
    forked.join()
    return {"program": program.wait(), "forked": forked.exitcode}
"""
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    assert isinstance(outcome, Finished)
    assert outcome.result == {"program": -signal.SIGTERM, "forked": -signal.SIGTERM}


def test_a_child_that_is_asked_to_stop_gives_its_task_back(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
import time
def run(params, context):
    context.report(1, 2)
    while not context.should_stop(): time.sleep(0.01)
    raise context.Stopped
"""
    attempt = children.start(a_run(tmp_path, write(source)))
    try:
        while attempt.progress is None:
            assert wait(attempt.waitables, DEADLINE_S)
            assert attempt.outcome() is None
        attempt.ask_stop()
        assert await_end(attempt) == Stopped()
    finally:
        attempt.kill()
