"""Workers as processes: what they finish, give back, survive and leave behind."""

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from distexp.manager.manager import ExperimentManager
from distexp.queue.entry import Entry
from distexp.task import State
from tests.live_manager import Folder, RawClient, secret_of
from tests.live_worker import (
    GATED,
    WorkerProcess,
    await_began,
    await_file,
    await_rows,
    gated_folder,
    marked_processes,
    open_gate,
    worker_process,
)
from tests.support import poll

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return gated_folder(tmp_path, "[1, 2]")


@contextmanager
def at_work(folder: Folder, *words: object) -> Iterator[tuple[ExperimentManager, WorkerProcess]]:
    """A manager and a worker whose first task has begun."""
    with folder.serving() as manager, worker_process(folder.root, *words) as worker:
        await_began(folder.root)
        yield manager, worker


@contextmanager
def serving_at(folder: Folder, port: int) -> Iterator[ExperimentManager]:
    manager = ExperimentManager(port=port, workdir=folder.root)
    manager.start()
    try:
        yield manager
    finally:
        manager.stop()


def entry_of(manager: ExperimentManager, width: int) -> Entry:
    return next(entry for entry in manager.queue.entries() if entry.task.config["width"] == width)


def was_given_back(manager: ExperimentManager, width: int = 1) -> bool:
    entry = entry_of(manager, width)
    return (entry.state, entry.failures, entry.losses) == (State.PENDING, 0, 0)


def command_line(process: psutil.Process) -> str:
    """Return the words of a process; none of one that has ended meanwhile, such as a call of git."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def say(manager: ExperimentManager, type_: str, **fields: object) -> dict[str, object]:
    with RawClient(manager.port, token=secret_of(manager)) as talk:
        return talk.say(type_, **fields)


# -- the sweep


def test_a_worker_leaves_when_nothing_that_is_left_can_run_for_as_long_as_it_waits(folder: Folder) -> None:
    (folder.root / "experiment.py").write_text("import absent_package_of_mine")
    with folder.serving(), worker_process(folder.root, "--manager-wait-s", 1) as worker:
        assert worker.code() == 1
        why = "phase exp1_vary_width is held: experiment:run cannot be imported: "
        assert f"Leaving: {why}" in worker.output()
        assert folder.log().count("Assigned task exp1_vary_width_0_42 to cpu0") == 1


def test_a_worker_runs_every_task_and_leaves_when_none_is_left(folder: Folder) -> None:
    open_gate(folder.root)
    with folder.serving(), worker_process(folder.root) as worker:
        assert worker.code() == 0
    rows = folder.rows()
    assert [(row["width"], row["score"], row["attempt"]) for row in rows] == [
        *[("1", "10", "1"), ("2", "20", "1")]
    ]
    assert {(row["worker"], row["device"]) for row in rows} == {("cpu0", "cpu")}
    log = (folder.csv.parent / "worker_cpu0.log").read_text()
    assert "Running task exp1_vary_width_0_42 (attempt 1)" in log
    assert "Task exp1_vary_width_1_42 completed" in log
    assert "No task is left: every task of the sweep has ended" in worker.output()


def test_a_worker_leaves_when_no_task_fits_into_its_time_and_asks_for_more_if_that_helps(
    folder: Folder,
) -> None:
    open_gate(folder.root)
    words = ("--time-limit", "0", "--requeue")
    with folder.serving() as manager:
        with worker_process(folder.root, *words) as first:
            assert first.code() == 0
        with worker_process(folder.root, *words) as second:
            assert second.code() == 0
        assert manager.queue.counts()[State.PENDING] == 1
    for worker in (first, second):
        assert "No time is left: no task that is left takes less than 0 s" in worker.output()
    assert "--requeue: nothing is requeued, since this is no job of Slurm" in first.output()
    assert "--requeue" not in second.output(), "the next turn would be as short"


def test_the_exit_code_tells_a_script_that_time_ended_before_the_sweep(folder: Folder) -> None:
    open_gate(folder.root)
    words = ("--time-limit", "0", "--cut-short-code", "75")
    with folder.serving():
        for code in (75, 0):  # the second one has completed nothing: another turn would be as short
            with worker_process(folder.root, *words) as worker:
                assert worker.code() == code


def test_the_checkpoint_to_resume_from_ends_with_the_rows_arrival_and_other_files_stay(
    tmp_path: Path,
) -> None:
    source = GATED.replace(
        "    Path(f",
        "    for name in ('resume.pt', 'mine.pt'): (context.checkpoint_dir / name).touch()\n    Path(f",
    )
    folder = gated_folder(tmp_path, "[1]", source)
    with at_work(folder) as (_, worker):
        names = {path.name for path in tmp_path.glob("results_exp1/runs/*/checkpoint/*")}
        open_gate(tmp_path)
        assert worker.code() == 0
    assert names == {"resume.pt", "mine.pt"}
    assert [path.name for path in tmp_path.glob("results_exp1/runs/*/checkpoint/*")] == ["mine.pt"]


KINDS_OF_TASKS = """
import os
def run(params, context):
    kind = params["width"]
    if kind == 2: print("hello")
    if kind == 3: os.write(1, b"past python\\n")
    if kind == 4: context.report(1, loss=0.5)
    if kind == 5: (context.run_dir / "model.pt").touch()
    if kind == 6: (context.checkpoint_dir / "resume.pt").touch()
    if kind == 7: return {"text": "x" * 40000}
    if kind == 8: raise ValueError("no such kind")
    if kind == 9: os.kill(os.getpid(), 9)
    return {"score": 1}
"""


def test_a_run_folder_is_made_for_what_is_in_it_and_the_row_names_it(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3, 4, 5, 6, 7, 8, 9]", KINDS_OF_TASKS)
    with folder.serving(), worker_process(folder.root) as worker:
        assert worker.code() == 0
    base = {"params.json", "log.txt"}
    more = {4: {"metrics.csv"}, 5: {"model.pt"}, 7: {"result.json"}}
    rows = {int(row["width"]): row for row in folder.rows()}
    for width in range(2, 8):
        names = {path.name for path in (tmp_path / rows[width]["run_dir"]).iterdir()}
        assert names == base | more.get(width, set()), f"kind {width}"
    assert rows[1]["run_dir"] == ""
    runs = {
        json.loads((run / "params.json").read_text())["width"]: run
        for run in tmp_path.glob("results_exp1/runs/*")
    }
    assert runs.keys() == {*range(2, 10)}
    for width in (8, 9):
        log = (runs[width] / "log.txt").read_text()
        assert re.findall(r"^# exp1_vary_width_\d_42, attempt (\d), on cpu0 of ", log, re.MULTILINE) == [
            "1",
            "2",
            "3",
        ]
    assert [path.name for path in tmp_path.glob("results_exp1/.*")] == []
    told = f"(its log: {runs[8].relative_to(tmp_path).as_posix()}/log.txt)"
    assert any(line.endswith(told) for line in folder.log())


def test_a_drained_worker_finishes_its_task_and_leaves(folder: Folder) -> None:
    with at_work(folder) as (manager, worker):
        say(manager, "drain", worker_id="cpu0")
        open_gate(folder.root)
        assert worker.code() == 0
        assert "No task is left: drained: this worker gets no more tasks" in worker.output()
        assert [entry_of(manager, width).state for width in (1, 2)] == [State.COMPLETE, State.PENDING]


ENDLESS = """
def run(params, context):
    while params["width"] == 1: pass
    return {"score": 1}
"""


def test_an_endless_task_fails_by_its_timeout_and_the_worker_goes_on(tmp_path: Path) -> None:
    text = '{{defaults: {{experiment: "experiment:run", output_dir: results_exp1}}, '
    text += "exp1: {{defaults: {{timeout_s: 0.2}}, combinations: [width: [1]]}}, "
    text += "exp2: {{combinations: [width: {widths}]}}}}"
    folder = gated_folder(tmp_path, "[2]", ENDLESS, text)
    with folder.serving() as manager, worker_process(folder.root) as worker:
        assert worker.code() == 0
        entry = entry_of(manager, 1)
        assert (entry.state, entry.failures, entry.cause) == (State.FAILED, 3, "timeout")
        assert entry.error == "no result after timeout_s = 0.2 s"
    assert [row["width"] for row in folder.rows()] == ["2"]


# Its module is imported once the gate is open; until then the task has no process.
SLOW_IMPORT = """
import time
from pathlib import Path
Path("importing").touch()
while not Path("gate").exists():
    time.sleep(0.01)
def run(params, context):
    return {"score": 1}
"""
UNASKED = "def run(params, context): raise context.Stopped"


@posix_only
def test_a_worker_listens_while_its_first_child_is_still_importing(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", SLOW_IMPORT)
    with folder.serving() as manager, worker_process(folder.root) as worker:
        await_file(folder.root / "importing")
        worker.signal(signal.SIGTERM)
        assert worker.code() == 0
        assert was_given_back(manager)


@posix_only
def test_ctrl_c_during_the_first_import_finishes_the_task(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", SLOW_IMPORT)
    with folder.serving() as manager, worker_process(folder.root) as worker:
        await_file(folder.root / "importing")
        family = psutil.Process(worker.process.pid)
        for process in (family, *family.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it has ended by itself
                process.send_signal(signal.SIGINT)  # as a terminal does: to every process of its group
        worker.await_words("Finishing the current task")
        open_gate(folder.root)
        assert worker.code() == 0
        assert entry_of(manager, 1).state is State.COMPLETE


def test_a_task_that_stops_without_being_asked_has_failed(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", UNASKED)
    with folder.serving() as manager, worker_process(folder.root) as worker:
        assert worker.code() == 0
        entry = entry_of(manager, 1)
        assert (entry.state, entry.failures, entry.cause) == (State.FAILED, 3, "error")
        assert "although should_stop() is false" in entry.error


# -- stopping


@posix_only
def test_the_first_ctrl_c_finishes_the_task(folder: Folder) -> None:
    with at_work(folder) as (manager, worker):
        worker.signal(signal.SIGINT)
        worker.await_words("Finishing the current task; Ctrl+C again to stop with a checkpoint")
        open_gate(folder.root)
        assert worker.code() == 0
        assert [entry_of(manager, width).state for width in (1, 2)] == [State.COMPLETE, State.PENDING]


@posix_only
def test_the_second_ctrl_c_asks_for_a_checkpoint_and_gives_the_task_back(folder: Folder) -> None:
    with at_work(folder) as (manager, worker):
        worker.signal(signal.SIGINT)
        worker.await_words("Finishing the current task")
        worker.signal(signal.SIGINT)
        assert worker.code() == 0
        assert "Giving task exp1_vary_width_0_42 back: interrupted" in worker.output()
        assert was_given_back(manager)


@posix_only
def test_the_third_ctrl_c_ends_a_task_that_does_not_listen(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", GATED.replace("context.should_stop()", "False"))
    with at_work(folder) as (manager, worker):
        child = psutil.Process(worker.process.pid).children(recursive=True)
        for words in ("Finishing the current task", "it has 30 s to save a checkpoint"):
            worker.signal(signal.SIGINT)
            worker.await_words(words)
        worker.signal(signal.SIGINT)
        assert worker.code() == 0
        assert was_given_back(manager)
        assert not psutil.wait_procs(child, timeout=30)[1]


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_a_preempted_job_gives_its_task_back_though_every_process_got_the_signal(
    folder: Folder, number: signal.Signals
) -> None:
    with at_work(folder) as (manager, worker):
        family = psutil.Process(worker.process.pid).children(recursive=True)
        for process in family:
            with suppress(psutil.NoSuchProcess):  # it has ended by itself
                process.send_signal(number)
        worker.signal(number)
        assert worker.code() == 0
        assert "it has 20 s to save a checkpoint" in worker.output()
        assert "Giving task exp1_vary_width_0_42 back: preempted" in worker.output()
        assert was_given_back(manager)


@posix_only
def test_a_worker_under_nohup_works_on_when_its_terminal_is_closed(folder: Folder) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a started process inherits it, as from nohup
    try:
        with at_work(folder) as (_, worker):
            for process in (*psutil.Process(worker.process.pid).children(recursive=True), worker.process):
                with suppress(psutil.NoSuchProcess):  # it has ended by itself
                    process.send_signal(signal.SIGHUP)
            open_gate(folder.root)
            assert worker.code() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [row["attempt"] for row in folder.rows()] == ["1", "1"]


@linux_only
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_nothing_is_left_of_a_worker_that_is_killed(tmp_path: Path, method: str) -> None:
    source = "import subprocess\n" + GATED.replace(
        "    while", "    subprocess.Popen(['sleep', '600'])\n    while"
    )
    folder, mark = gated_folder(tmp_path, "[1]", source), f"DISTEXP_TEST_{uuid.uuid4().hex}"
    words = ("--start-method", method)
    with folder.serving(), worker_process(tmp_path, *words, environment={mark: "1"}) as worker:
        await_began(tmp_path)
        expected = ("experiment_runner_gpu.py", "sleep", "resource_tracker", method.replace("server", ""))

        def are_there() -> bool:
            names = " ".join(map(command_line, marked_processes(mark)))
            return all(name in names for name in expected)

        poll(are_there, f"processes called {expected}")
        worker.signal(signal.SIGKILL)
        poll(lambda: not marked_processes(mark), "all processes of the worker gone")


# -- a manager that comes and goes


def test_a_row_is_written_though_the_manager_has_died_and_counted_when_it_is_back(folder: Folder) -> None:
    with at_work(folder) as (manager, worker):
        manager.stop()
        open_gate(folder.root)
        rows = await_rows(folder, 1)
        worker.await_words("Error reporting task: no manager answers at localhost")
        with folder.serving() as restarted:
            assert entry_of(restarted, 1).state is State.COMPLETE
            assert worker.code() == 0
        assert "is back" in worker.output()
    assert folder.rows()[: len(rows)] == rows
    assert [row["width"] for row in folder.rows()] == ["1", "2"]


def test_a_worker_outlives_restarts_of_the_manager_mid_task_and_while_idle(folder: Folder) -> None:
    with folder.serving() as manager:
        port = manager.port
        with worker_process(folder.root, "localhost", port) as worker:
            await_began(folder.root)
            manager.stop()
            with serving_at(folder, port) as restarted:
                say(restarted, "pause")
                open_gate(folder.root)
                worker.await_words("Task exp1_vary_width_0_42 completed")
                assert entry_of(restarted, 1).state is State.COMPLETE
            worker.await_words("Error requesting task: no manager answers")
            with serving_at(folder, port) as restarted:
                say(restarted, "resume")
                assert worker.code() == 0
    assert [row["attempt"] for row in folder.rows()] == ["1", "1"]


def test_a_worker_that_is_older_than_its_folders_first_manager_writes_its_rows_itself(folder: Folder) -> None:
    open_gate(folder.root)
    with worker_process(folder.root) as worker:
        worker.await_words("Trying again for 300 s")
        with folder.serving():
            assert worker.code() == 0
    assert len(folder.rows()) == 2
    assert not (folder.root / ".experiment_spool").exists()


def test_a_worker_gives_up_after_its_patience_with_cause_and_remedy(folder: Folder, nobody: int) -> None:
    with folder.serving():
        pass  # its token is there
    with worker_process(folder.root, "localhost", nobody, "--manager-wait-s", "0.3") as worker:
        assert worker.code() == 1
    said = worker.output()
    where = f"no manager answers at localhost:{nobody} (Connection refused)"
    assert f"Error requesting task: {where}; start one there with `distexp manager`" in said
    assert "Giving up after 0.3 s" in said


def test_a_worker_without_a_token_is_told_where_it_lies(folder: Folder, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with folder.serving() as manager, worker_process(elsewhere, "localhost", manager.port) as worker:
        assert worker.code() == 1
    assert (
        f"Error requesting task: {elsewhere}/.experiment_manager/token: missing; copy it from the "
        "manager's folder, or put its text into EXPERIMENT_TOKEN"
    ) in worker.output()


def test_a_worker_with_a_damaged_token_does_not_start_and_does_not_show_it(folder: Folder) -> None:
    with folder.serving(), worker_process(folder.root, environment={"EXPERIMENT_TOKEN": "geheim"}) as worker:
        assert worker.code() == 2
    assert 'error: EXPERIMENT_TOKEN: holds no token such as {"secret": ...' in worker.output()
    assert "geheim" not in worker.output()


def test_an_experiment_does_not_see_the_token(folder: Folder, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "experiment.py").write_text(
        "import os\ndef run(params, context): return {'found': str('EXPERIMENT_TOKEN' in os.environ)}\n"
    )
    with folder.serving() as manager:
        environment = {"EXPERIMENT_TOKEN": folder.token_text}
        words = ("localhost", manager.port)
        with worker_process(elsewhere, *words, environment=environment) as worker:
            assert worker.code() == 0
    assert {row["found"] for row in folder.rows()} == {"False"}


STALLS = """
import os, time
from pathlib import Path
while os.path.exists("stall"):
    Path("stalled").touch()
    time.sleep(0.01)
""" + GATED.replace('"gate"', "f\"gate-{params['width']}\"")


@linux_only
def test_a_worker_listens_while_the_import_for_a_later_task_stalls(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3]", STALLS)
    with folder.serving() as manager, worker_process(tmp_path, "localhost", manager.port) as worker:

        def waits_for_the_import() -> bool:
            has_begun = (tmp_path / "began-2-1").exists()  # in a process that stood by before the kill
            if has_begun:
                (tmp_path / "gate-2").touch()
            is_next = f"Running task exp1_vary_width_{1 + has_begun}_42" in worker.output()
            return is_next and (tmp_path / "stalled").exists()

        await_began(tmp_path)
        (tmp_path / "stall").touch()
        children = psutil.Process(worker.process.pid).children()
        (template,) = [each for each in children if "forkserver" in command_line(each)]
        template.kill()
        (tmp_path / "gate-1").touch()
        poll(waits_for_the_import, "the import for the second or third task stalls", 60)
        worker.signal(signal.SIGINT)
        worker.await_words("Finishing the current task")
        worker.signal(signal.SIGINT)
        assert worker.code() == 0
        assert not any(entry.losses or entry.state is State.ASSIGNED for entry in manager.queue.entries())


TYPO = """
def run(params, context):
    return {"score": prams["width"]}
"""


def test_a_held_phase_goes_on_with_its_corrected_code_in_the_workers_that_are_there(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3, 4, 5, 6]", TYPO)
    with folder.serving() as manager, worker_process(tmp_path) as worker:
        poll(lambda: bool(manager.queue.holds.explain()), "the phase held", 60)
        (tmp_path / "experiment.py").write_text(TYPO.replace("prams", "params"), encoding="utf-8")
        with RawClient(manager.port, token=secret_of(manager)) as user:
            user.say("resume")
        assert worker.code() == 0
        assert {entry.state for entry in manager.queue.entries()} == {State.COMPLETE}
    assert len(folder.rows()) == 6
