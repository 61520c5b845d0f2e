"""Attempts in real processes: how they end, what they leave behind, which process runs them."""

import itertools
import multiprocessing.forkserver
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

import psutil
import pytest
from support import poll

from distexp.child import Attempt, Children, StartMethod
from distexp.child_main import Broke, Finished, Outcome, Run, Stopped
from distexp.entry import Cause
from distexp.host import ProcessMark
from distexp.task import Process, make_task

Write = Callable[[str], str]
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and forks")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")
METHODS: list[StartMethod] = ["spawn"] if sys.platform == "win32" else ["forkserver", "spawn"]
DEADLINE_S = 60.0

_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write an experiment's module, under a name that no template has met, and return what YAML would say."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write_here(source: str) -> str:
        name = f"experiment_{os.getpid()}_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:run"

    return write_here


@pytest.fixture(params=METHODS[:1])
def children(request: pytest.FixtureRequest) -> Iterator[Children]:
    made = Children(method=request.param, device="cpu", threads=1)
    yield made
    made.close()


@pytest.fixture
def no_template() -> Iterator[None]:
    """Run with a template of this test's own."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def a_run(folder: Path, experiment: str, *, attempt: int = 1, process: Process = "forked") -> Run:
    task = make_task(
        task_id="exp1_0_42",
        phase="exp1",
        config={"width": 1},
        seed=42,
        output_dir="results",
        axes=("width",),
        experiment=experiment,
        process=process,
    )
    return Run(task=task, attempt=attempt, output_dir=str(folder), run_folder=str(folder / "run"))


def await_end(attempt: Attempt) -> Outcome:
    while (outcome := attempt.outcome()) is None:
        assert wait(attempt.waitables, DEADLINE_S), "the child said nothing"
    return outcome


def outcome_of(children: Children, run: Run) -> Outcome:
    attempt = children.start(run)
    try:
        return await_end(attempt)
    finally:
        attempt.kill()


def log_of(folder: Path) -> str:
    return (folder / "run" / "log.txt").read_text()


def await_gone(pid: int) -> None:
    mark = ProcessMark.of(pid)
    poll(lambda: mark is None or mark.is_gone(), f"process {pid} gone")


def await_pid(path: Path) -> int:
    poll(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} written")
    return int(path.read_text())


# -- how an attempt ends


@pytest.mark.parametrize("children", METHODS, indirect=True)
def test_a_result_comes_back_with_its_time_under_each_start_method(
    children: Children, write: Write, tmp_path: Path
) -> None:
    experiment = write("def run(params, context): return {'acc': params['width'] + context.seed}")
    outcome = outcome_of(children, a_run(tmp_path, experiment))
    assert isinstance(outcome, Finished)
    assert outcome.result == {"acc": 43}
    assert outcome.duration_s >= 0
    assert outcome.started_utc.endswith("Z")


@posix_only
@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGSEGV)", "ctypes.string_at(0)"])
def test_a_segfault_is_a_crash_that_names_the_signal_and_ends_with_the_tasks_last_lines(
    children: Children, write: Write, tmp_path: Path, death: str
) -> None:
    source = f"import ctypes, os, signal\ndef run(params, context):\n print('epoch 7')\n {death}"
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    assert outcome == Broke(Cause.CRASH, "epoch 7\nits process was ended by SIGSEGV")


@posix_only
def test_a_kill_from_outside_says_who_it_may_have_been(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = "import os, signal\ndef run(params, context): os.kill(os.getpid(), signal.SIGKILL)"
    outcome = outcome_of(children, a_run(tmp_path, write(source)))
    expected = "its process was ended by SIGKILL (by the kernel when memory ran out, or by somebody)"
    assert outcome == Broke(Cause.CRASH, expected)


def test_a_process_that_leaves_without_a_result_is_a_crash_with_its_exit_code(
    children: Children, write: Write, tmp_path: Path
) -> None:
    outcome = outcome_of(children, a_run(tmp_path, write("import os\ndef run(p, c): os._exit(3)")))
    assert outcome == Broke(Cause.CRASH, "its process ended with exit code 3 without a result")


@posix_only
def test_a_template_that_dies_of_an_import_is_a_crash_of_the_attempt(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    experiment = write("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\ndef run(p, c): return {}")
    outcome = outcome_of(children, a_run(tmp_path, experiment))
    assert outcome == Broke(Cause.CRASH, "its process was ended by SIGSEGV")


# -- what runs it


def test_each_task_has_a_process_of_its_own(children: Children, write: Write, tmp_path: Path) -> None:
    source = "state = []\ndef run(p, c):\n state.append(1)\n return {'n': len(state)}"
    run = a_run(tmp_path, write(source))
    results = []
    for _ in range(2):
        children.prepare(run.task)
        outcome = outcome_of(children, run)
        assert isinstance(outcome, Finished)
        results.append(outcome.result["n"])
    assert results == [1, 1]


WHERE = """
import os
imported_in, warmed_in = os.getpid(), []
def warm_up(device): warmed_in.append((os.getpid(), device))
def run(params, context):
    return {"imported_here": imported_in == os.getpid(), "warmed": len(warmed_in),
            "warmed_here": warmed_in[0][0] == os.getpid(), "for": warmed_in[0][1],
            "pid": os.getpid(), "traces": sum(n.startswith("DISTEXP") for n in os.environ),
            "path": os.environ.get("PYTHONPATH", "none")}
"""


def where(children: Children, run: Run) -> dict[str, object]:
    outcome = outcome_of(children, run)
    assert isinstance(outcome, Finished), outcome
    return dict(outcome.result)


@linux_only
@pytest.mark.parametrize("python_path", [None, "/somewhere"])
def test_the_template_has_imported_the_experiment_and_warmed_it_up_and_leaves_no_trace(
    no_template: None, children: Children, write: Write, tmp_path: Path, python_path: str | None
) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("PYTHONPATH", raising=False)
        if python_path:
            environment.setenv("PYTHONPATH", python_path)
        found = where(children, a_run(tmp_path, write(WHERE)))
    assert (found["imported_here"], found["warmed_here"]) == (False, False)
    assert (found["warmed"], found["for"]) == (1, "cpu")
    assert (found["traces"], found["path"]) == (0, python_path or "none")


@linux_only
def test_an_experiment_other_than_the_templates_is_imported_and_warmed_up_by_its_child(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    outcome_of(children, a_run(tmp_path, write("def run(p, c): return {}")))
    found = where(children, a_run(tmp_path, write(WHERE)))
    assert found["imported_here"] is found["warmed_here"] is True
    assert found["warmed"] == 1


@linux_only
def test_on_a_gpu_the_template_only_imports(no_template: None, write: Write, tmp_path: Path) -> None:
    children = Children(method="forkserver", device="cuda:0", threads=1)
    found = where(children, a_run(tmp_path, write(WHERE)))
    assert (found["imported_here"], found["warmed_here"], found["for"]) == (False, True, "cuda:0")


@linux_only
def test_a_new_template_replaces_one_that_was_killed(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write(WHERE))
    where(children, run)
    children.prepare(run.task)  # its exit can no more be told: it is not used
    template = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(template, signal.SIGKILL)
    found = where(children, run)
    assert (found["imported_here"], found["warmed_here"]) == (False, False)


def test_a_fresh_process_is_a_new_interpreter(children: Children, write: Write, tmp_path: Path) -> None:
    found = where(children, a_run(tmp_path, write(WHERE), process="fresh"))
    assert found["imported_here"] is found["warmed_here"] is True


def standby_of(children: Children) -> int:
    pid = children._standby and children._standby._process.pid
    assert pid is not None
    return pid


def test_the_standby_runs_the_next_task_of_its_experiment(
    children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write(WHERE))
    children.prepare(run.task)
    standby = standby_of(children)
    assert where(children, run)["pid"] == standby


def test_the_standby_is_ended_when_the_next_task_is_of_another_experiment(
    children: Children, write: Write, tmp_path: Path
) -> None:
    children.prepare(a_run(tmp_path, write(WHERE)).task)
    standby = standby_of(children)
    assert where(children, a_run(tmp_path, write(WHERE)))["pid"] != standby
    await_gone(standby)


# -- what it leaves behind

FAMILY = """
import os, signal, subprocess, sys, threading
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
    while not os.path.exists("double") or not open("double").read().endswith("\\n"): pass
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
        if ends_by_itself:
            assert isinstance(await_end(attempt), Finished)
    finally:
        attempt.kill()
    await_gone(single)
    await_gone(double)


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


@posix_only
def test_ctrl_c_and_a_clusters_signals_reach_what_the_task_starts_but_not_the_task(
    children: Children, write: Write, tmp_path: Path
) -> None:
    source = """
import multiprocessing, os, signal, subprocess
def run(params, context):
    for name in ("SIGINT", "SIGTERM", "SIGUSR2"): os.kill(os.getpid(), getattr(signal, name))
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
