"""Which process runs a task: from the template or not, the standby or not."""

import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from distexp.system.code import CodeState
from distexp.system.process import MARK_VARIABLE, ProcessMark
from distexp.task import COMMAND_EXPERIMENT, Cause
from distexp.worker.task_main import Failed, Finished, Run
from distexp.worker.task_process import Children
from distexp.worker.watcher import Watcher
from tests.live_child import Write, a_run, await_end, await_gone, outcome_of
from tests.support import poll

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and forks")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")


@pytest.fixture
def no_template() -> Iterator[None]:
    """Run with a template of this test's own."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


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
import os, sys
imported_in, warmed_in = os.getpid(), []
def warm_up(device): warmed_in.append((os.getpid(), device))
def run(params, context):
    return {"imported_here": imported_in == os.getpid(), "warmed": len(warmed_in),
            "warmed_here": warmed_in[0][0] == os.getpid(), "for": warmed_in[0][1],
            "pid": os.getpid(), "traces": " ".join(n for n in os.environ if n.startswith("DISTEXP")),
            "path": os.environ.get("PYTHONPATH", "none"),
            "script": getattr(sys.modules["__main__"], "__file__", None) or "none"}
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
    assert (found["warmed"], found["for"], found["script"]) == (1, "cpu", "none")
    assert (found["traces"], found["path"]) == (MARK_VARIABLE, python_path or "none")


@linux_only
def test_an_experiment_other_than_the_templates_is_imported_and_warmed_up_by_its_child(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    outcome_of(children, a_run(tmp_path, write("def run(p, c): return {}")))
    found = where(children, a_run(tmp_path, write(WHERE)))
    assert found["imported_here"] is found["warmed_here"] is True
    assert found["warmed"] == 1


@linux_only
def test_on_a_gpu_the_template_only_imports(
    no_template: None, watcher: Watcher, write: Write, tmp_path: Path
) -> None:
    children = Children(method="forkserver", device="cuda:0", threads=1, watcher=watcher)
    found = where(children, a_run(tmp_path, write(WHERE)))
    assert (found["imported_here"], found["warmed_here"], found["for"]) == (False, True, "cuda:0")


def kill_template() -> None:
    template = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    mark = ProcessMark.of(template)
    assert mark is not None
    os.kill(template, signal.SIGKILL)
    poll(mark.is_gone, "the template's end: while it dies, a child is a new interpreter")


@linux_only
def test_a_template_that_is_killed_takes_no_child_with_it_and_is_replaced(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write(WHERE))
    children.prepare(run.task)
    standby = standby_of(children)
    kill_template()
    assert where(children, run)["pid"] == standby
    found = where(children, run)
    assert (found["imported_here"], found["warmed_here"]) == (False, False)


@linux_only
def test_a_child_whose_template_was_killed_can_still_be_ended(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    run = a_run(tmp_path, write(WHERE))
    children.prepare(run.task)
    standby = standby_of(children)
    kill_template()
    children.close()
    await_gone(standby)


def test_a_fresh_process_is_a_new_interpreter_that_does_not_run_the_users_script_again(
    children: Children, write: Write, tmp_path: Path
) -> None:
    found = where(children, a_run(tmp_path, write(WHERE), process="fresh"))
    assert found["imported_here"] is found["warmed_here"] is True
    assert found["script"] == "none"


def standby_of(children: Children) -> int:
    attempt = children._standby and children._standby.take()
    pid = attempt and attempt._process.pid
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


@posix_only
def test_a_template_that_dies_of_an_import_is_a_crash_of_the_attempt(
    no_template: None, children: Children, write: Write, tmp_path: Path
) -> None:
    experiment = write("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\ndef run(p, c): return {}")
    outcome = outcome_of(children, a_run(tmp_path, experiment))
    assert outcome == Failed(Cause.CRASH, "killed by SIGSEGV")


@linux_only
def test_a_task_runs_the_code_that_its_template_has_imported_and_a_command_that_of_its_start(
    no_template: None, watcher: Watcher, write: Write, tmp_path: Path
) -> None:
    looks: list[CodeState] = []

    def look() -> CodeState:
        looks.append(CodeState(f"code{len(looks)}"))
        return looks[-1]

    children = Children(method="forkserver", device="cpu", threads=1, watcher=watcher, code=look)
    run = a_run(tmp_path, write("def run(p, c): return {}"))
    fresh = replace(run, task=replace(run.task, process="fresh"))
    command = replace(run, task=replace(run.task, experiment=COMMAND_EXPERIMENT, command="true"))
    for each, is_new in ((run, False), (run, False), (fresh, True), (command, True), (command, True)):
        attempt = children.start(each)
        assert attempt.code == (looks[-1] if is_new else looks[0])
        await_end(attempt)
        children.retire(attempt)
        children.prepare(each.task)
        standby_of(children)  # it looks, too: before the next one does
    children.renew()
    attempt = children.start(run)
    assert attempt.code in looks[-2:] and attempt.code != looks[0]
    attempt.kill()
    children.close()


SPAWN = "multiprocessing.set_start_method('spawn')"


@pytest.mark.parametrize(("at_import", "in_run"), [("", ""), (SPAWN, ""), ("", SPAWN)])
def test_processes_of_a_task_start_as_in_a_script_of_its_own(
    children: Children, write: Write, tmp_path: Path, at_import: str, in_run: str
) -> None:
    source = f"""
import multiprocessing
{at_import}
def run(params, context):
    {in_run}
    return {{"method": multiprocessing.get_start_method()}}
"""
    run = a_run(tmp_path, write(source))
    script = "import multiprocessing as m; print(m.get_start_method())"
    default = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for _ in range(2):
        children.prepare(run.task)
        outcome = outcome_of(children, run)
        assert isinstance(outcome, Finished), outcome
        assert outcome.result == {"method": "spawn" if at_import or in_run else default.stdout.strip()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all start by `spawn`")
def test_the_start_method_of_one_experiment_is_not_that_of_the_next(
    children: Children, write: Write, tmp_path: Path
) -> None:
    body = "def run(params, context): return {'method': multiprocessing.get_start_method()}"
    for line in (SPAWN, SPAWN, ""):  # which could not be said twice in one process
        run = a_run(tmp_path, write(f"import multiprocessing\n{line}\n{body}"))
        children.prepare(run.task)
        outcome = outcome_of(children, run)
        assert isinstance(outcome, Finished), outcome
        assert (outcome.result == {"method": "spawn"}) == bool(line)
