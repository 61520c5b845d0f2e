"""A manager or a worker is killed at each moment that matters: nothing is lost, nothing done twice."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distexp.system.process import machine_id
from distexp.workdir import Workdir
from tests.live_manager import Folder, RawClient
from tests.live_worker import CONFIG, RUNNER, worker_process
from tests.support import ENVIRONMENT, TESTS, poll

pytestmark = pytest.mark.slow
MANAGER = RUNNER.with_name("experiment_manager.py")
EXPERIMENT = """
def run(params, context):
    with open("began", "a") as file: print(context.attempt, file=file)
    return {"score": 10 * params["width"]}
"""
DEADLINE_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    folder = Folder(tmp_path)
    folder.configure([1], CONFIG)
    return folder


def killed(script: Path, where: str, moment: str, *words: object) -> "subprocess.Popen[str]":
    """A process of the product that will die at a call."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / "kill_at_call.py"), where, moment, str(script), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


@contextmanager
def dying_manager(folder: Folder, where: str, moment: str) -> Iterator["subprocess.Popen[str]"]:
    """A manager that will be killed; at the end it was."""
    words = ("--workdir", folder.root, "--port", 0, "--rescan-s", 3600)
    process = killed(MANAGER, where, moment, *words)
    try:
        yield process
        assert process.wait(DEADLINE_S) == -signal.SIGKILL, process.communicate()[0]
    finally:
        process.kill()
        process.communicate()


def talk(folder: Folder, process: "subprocess.Popen[str] | None" = None, port: int = 0) -> RawClient:
    """A worker elsewhere, always the same process of it."""
    if process is not None:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "Manager serves" in line)
        port = int(line.split()[4].rpartition(":")[2])
    about = {"worker_id": "w", "heartbeat_s": 15, "instance": "w1", "machine": machine_id()}
    return RawClient(port, token=folder.token, **about)


def is_broken(say: RawClient, type_: str, **fields: object) -> bool:
    """Whether the manager is gone before its reply."""
    try:
        say.say(type_, **fields)
    except (OSError, AssertionError):
        return True
    return False


LENDING = [
    ("distexp.queue.journal:Journal._commit", "before"),
    ("distexp.queue.journal:Journal._commit", "after"),
    ("distexp.manager.dispatch:Dispatcher._reply", "before"),
    ("distexp.manager.dispatch:Dispatcher._reply", "after"),
]


@pytest.mark.parametrize(("where", "moment"), LENDING)
def test_a_manager_killed_while_it_assigns_gives_the_same_worker_the_task_after_its_restart(
    folder: Folder, where: str, moment: str
) -> None:
    with dying_manager(folder, where, moment) as process, talk(folder, process) as say:
        assert is_broken(say, "request_task")
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        task = say.say("request_task")
        assert task["attempt"] == 1, "one attempt, whether its lease was on disk or not"
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        assert say.say("task_complete", **named, result={"score": 1}) == {"type": "ack"}
    assert [row["score"] for row in folder.rows()] == ["1"]


RECORDING = [
    ("distexp.manager.completion:CompletionHandler.complete", "before"),
    ("distexp.results.results_file:append_durably", "before"),
    ("distexp.results.results_file:append_durably", "half"),
    ("distexp.results.results_file:append_durably", "after"),
    ("distexp.queue.task_queue:TaskQueue.complete", "before"),
    ("distexp.queue.task_queue:TaskQueue.complete", "after"),
    ("distexp.manager.completion:CompletionHandler.complete", "after"),
]


@pytest.mark.parametrize(("where", "moment"), RECORDING)
def test_a_manager_killed_while_it_takes_a_result_has_one_row_once_the_report_is_repeated(
    folder: Folder, where: str, moment: str
) -> None:
    with dying_manager(folder, where, moment) as process, talk(folder, process) as say:
        task = say.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"], "sweep_id": task["sweep_id"]}
        assert is_broken(say, "task_complete", **named, result={"score": 1})
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        assert say.say("task_complete", **named, result={"score": 1}) == {"type": "ack"}
        assert say.say("status")["status"]["progress"] == "1/1 (100.0%)"
        assert manager.queue.entry(task["key"]).losses == 0
    assert [row["score"] for row in folder.rows()] == ["1"]


WIDENING = [
    ("distexp.results.results_file:widen", "before"),
    ("distexp.results.results_file:shutil.copymode", "before"),
    ("distexp.results.results_file:widen", "after"),
]


@pytest.mark.parametrize(("where", "moment"), WIDENING)
def test_a_manager_killed_while_it_adds_a_column_leaves_the_old_file_or_the_new_one(
    folder: Folder, where: str, moment: str
) -> None:
    folder.configure([1, 2], CONFIG)
    folder.add_rows("2,42,5", header="width,seed,score")
    with dying_manager(folder, where, moment) as process, talk(folder, process) as say:
        task = say.say("request_task")
        assert is_broken(say, "task_complete", key=task["key"], result={"score": 1})
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        assert say.say("task_complete", key=task["key"], result={"score": 1}) == {"type": "ack"}
    assert [(row["width"], row["score"]) for row in folder.rows()] == [("2", "5"), ("1", "1")]
    assert not list(folder.csv.parent.glob("*.tmp"))


REPLACING = [
    ("distexp.results.results_file:replace_rows", "before"),
    ("distexp.results.results_file:shutil.copymode", "before"),
    ("distexp.results.results_file:replace_rows", "after"),
]


@pytest.mark.parametrize(("where", "moment"), REPLACING)
def test_a_manager_killed_while_it_replaces_a_row_leaves_the_old_file_or_the_new_one(
    folder: Folder, where: str, moment: str
) -> None:
    folder.configure([1, 2], CONFIG)
    folder.add_rows("2,42,5,", "1,42,4,3", header="width,seed,score,stopped_at")
    names, cells = "phase,task_id,key,seed,rung,step,verdict", "exp1_vary_width,t,k,42,3,3,stop"
    (folder.csv.parent / "rungs.csv").write_text(f"{names}\n{cells}\n")
    with dying_manager(folder, where, moment) as process, talk(folder, process) as say:
        assert is_broken(say, "task_complete", task_id="exp1_vary_width_0_42", result={"score": 1})
    assert folder.rows()[-1]["score"] == ("4" if moment == "before" else "1")
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        reply = say.say("task_complete", task_id="exp1_vary_width_0_42", result={"score": 1})
        assert reply == {"type": "ack"}
    assert [(row["width"], row["score"]) for row in folder.rows()] == [("2", "5"), ("1", "1")]
    assert not list(folder.csv.parent.glob("*.tmp"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_manager_killed_while_it_takes_a_failure_charges_it_once(folder: Folder, moment: str) -> None:
    where = "distexp.manager.completion:CompletionHandler.failed"
    with dying_manager(folder, where, moment) as process, talk(folder, process) as say:
        task = say.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        assert is_broken(say, "task_failed", **named, error="boom")
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        say.say("task_failed", **named, error="boom")
        assert manager.queue.entry(task["key"]).failures == 1


STARTING = [
    ("distexp.system.files:os.replace", "before"),
    ("distexp.system.files:os.replace", "after"),
    ("distexp.wire.auth:make_certificate", "after"),
    ("distexp.manager.manager:load_or_make_identity", "after"),
    ("distexp.manager.manager:Server", "before"),
]


@pytest.mark.parametrize(("where", "moment"), STARTING)
def test_a_manager_killed_at_its_start_is_started_again_as_if_nothing_had_been(
    folder: Folder, where: str, moment: str
) -> None:
    with dying_manager(folder, where, moment):
        pass
    with folder.serving() as manager, talk(folder, port=manager.port) as say:
        assert say.say("request_task")["attempt"] == 1
    assert json.loads(folder.token_text)["secret"]


# -- workers -------------------------------------------------------------------------------------------------

AT_HOME = [
    ("distexp.worker.worker:Worker._start_child", "before", 0),
    ("distexp.worker.delivery:ResultDelivery.write_row", "before", 1),
    ("distexp.results.results_file:append_durably", "half", 1),
    ("distexp.worker.delivery:ResultDelivery.write_row", "after", 0),
]


@pytest.mark.parametrize(("where", "moment", "losses"), AT_HOME)
def test_a_worker_of_the_folder_killed_at_its_row_leaves_one_whole_row_in_the_end(
    folder: Folder, where: str, moment: str, losses: int
) -> None:
    with folder.serving() as manager:
        words = ("--workdir", folder.root, "--device", "cpu")
        first = killed(RUNNER, where, moment, *words)
        assert first.wait(DEADLINE_S) == -signal.SIGKILL, first.communicate()[0]
        first.communicate()

        def is_lost() -> bool:
            manager.run_once()
            return not manager.queue.leases()

        poll(is_lost, "the end of its lease")
        with worker_process(folder.root) as second:
            assert second.code() == 0
        (entry,) = manager.queue.entries()
        ran = (folder.root / "began").read_text().split()
        assert entry.losses == (moment != "after")
        assert len(ran) == 1 + losses, "the work is done again only if its row was not whole"
    assert [row["score"] for row in folder.rows()] == ["10"]


ELSEWHERE = [
    ("distexp.worker.delivery:ResultDelivery.spool", "before", 2),
    ("distexp.system.files:os.replace", "before", 2),
    ("distexp.worker.delivery:ResultDelivery.spool", "after", 1),
    ("distexp.worker.connection:ManagerConnection.report", "after", 1),
    ("distexp.worker.delivery:ResultDelivery.unspool", "after", 1),
]


@pytest.mark.parametrize(("where", "moment", "runs"), ELSEWHERE)
def test_a_worker_elsewhere_killed_at_its_hand_over_leaves_one_row_and_an_empty_spool(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, where: str, moment: str, runs: int
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "experiment.py").write_text(EXPERIMENT)
    with folder.serving() as manager:
        (elsewhere / ".experiment_token").write_text(folder.token_text)
        (elsewhere / ".experiment_token").chmod(0o600)
        words = ("localhost", manager.port)
        first = killed(RUNNER, where, moment, *words, "--workdir", elsewhere, "--device", "cpu")
        assert first.wait(DEADLINE_S) == -signal.SIGKILL, first.communicate()[0]
        first.communicate()
        for lease in manager.queue.leases():  # the ten seconds that it has to come back, spared
            manager.dispatcher.completion.lose(lease, "no sign of life")
        with worker_process(elsewhere, *words) as second:
            assert second.code() == 0
        assert len((elsewhere / "began").read_text().split()) == runs
    assert [row["score"] for row in folder.rows()] == ["10"]
    assert not list(Workdir(elsewhere).spool.glob("*.result"))
