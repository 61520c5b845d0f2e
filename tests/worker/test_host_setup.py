"""`setup:` of a sweep file runs once on each host, before the first task of that file there."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.system.process import host_name
from distexp.workdir import Workdir
from distexp.worker import host_setup
from distexp.worker.host_setup import HostSetup
from distexp.worker.watcher import Watcher
from tests.live_manager import Folder, RawClient
from tests.live_worker import (
    WorkerProcess,
    await_began,
    await_file,
    await_rows,
    gated_folder,
    open_gate,
    worker_process,
)
from tests.support import ENVIRONMENT, Clock, poll

CONFIG = """
setup: python get_data.py {widths}
defaults: {{output_dir: ./results_exp1, experiment: "experiment:run"}}
exp1_vary_width: {{combinations: [{{width: [1, 2]}}]}}
exp2_vary_width: {{combinations: [{{width: [3]}}]}}
"""
EXPERIMENT = """
import time
from pathlib import Path
def run(params, context):
    lab = context.output_dir.parent
    (lab / f"began-{params['width']}-{context.attempt}").touch()
    while not (lab / "gate").exists(): time.sleep(0.01)
    return {"data": Path("data.txt").read_text() + Path("data/more.txt").read_text()}
"""
GET_DATA = """
import os, sys
from pathlib import Path
lab = Path(os.environ["DISTEXP_WORKDIR"])
with open(lab / "runs.txt", "a") as file: file.write(f"{' '.join(sys.argv[1:])} {sys.stdin.read()!r}\\n")
print("getting data")
Path("data.txt").write_text("rows")
(lab / "data").mkdir(exist_ok=True)
(lab / "data/more.txt").write_text(" and more")
"""
BROKEN = 'print("getting data")\nraise SystemExit("the server is down")\n'
ENDLESS = """
import os, subprocess, sys, time
from pathlib import Path
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids").write_text(f"{os.getpid()} {below.pid}")
Path("begun").touch()
time.sleep(600)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Folder:
    folder = gated_folder(tmp_path, "", EXPERIMENT, CONFIG)
    (folder.root / "get_data.py").write_text(GET_DATA)
    return folder


def runs(root: Path) -> int:
    return len((root / "runs.txt").read_text().splitlines())


def runs_still(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def user(folder: Folder, port: int) -> RawClient:
    return RawClient(port, token=folder.token)


def test_of_several_workers_one_runs_it_and_the_others_wait(lab: Folder) -> None:
    with lab.serving(), worker_process(lab.root) as one, worker_process(lab.root) as other:
        await_began(lab.root, 1)
        await_began(lab.root, 2)
        open_gate(lab.root)
        assert [one.code(), other.code()] == [0, 0]
    assert [row["data"] for row in lab.rows()] == ["rows and more"] * 3
    assert (lab.root / "runs.txt").read_text() == " ''\n", "once, and its input is empty"
    assert "its output: " in one.output() + other.output()
    (log,) = Workdir(lab.root).setups.glob("*.log")
    assert log.read_text() == "getting data\n"


@pytest.mark.slow
def test_it_runs_again_for_another_line_or_a_moved_folder_but_not_for_another_manager(
    lab: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_gate(lab.root)
    for line, often in (("", 1), ("", 1), ("--all", 2)):
        lab.configure(line, CONFIG)
        with lab.serving() as manager, worker_process(lab.root) as worker:
            assert worker.code() == 0
            shutil.rmtree(lab.root / "results_exp1")
            assert manager.queue.is_over()
        assert runs(lab.root) == often
    moved = Folder(tmp_path_factory.mktemp("copied") / "lab")
    shutil.copytree(lab.root, moved.root)
    with moved.serving(), worker_process(moved.root) as worker:
        assert worker.code() == 0
    assert runs(moved.root) == 3


def test_a_failure_is_told_once_holds_the_phases_and_costs_no_task_an_attempt(lab: Folder) -> None:
    (lab.root / "get_data.py").write_text(BROKEN)
    open_gate(lab.root)
    with lab.serving(rescan_s=0.1) as manager, worker_process(lab.root) as worker:
        worker.await_words("Nothing that is left can run")  # so the manager has said all of it, too
        (why, other) = manager.queue.holds.explain().values()
        (log,) = Workdir(lab.root).setups.glob("*.log")
        assert why == other
        assert "setup `python get_data.py` failed on " in why
        assert f": exit code 1; last output: the server is down; its output: {log}" in why
        assert worker.output().count("Running the setup of this host") == 1, "not again for the other phase"
        held = [line for line in lab.log() if "is held: setup" in line]
        assert [line.endswith("fix it, then `resume` goes on, or an edit does") for line in held] == [
            True
        ] * 2
        assert {entry.failures for entry in manager.queue.entries()} == {0}
        (lab.root / "get_data.py").write_text(GET_DATA)
        manager.run_once()
        await_rows(lab, 3)
        assert worker.code() == 0
    assert runs(lab.root) == 1


@pytest.fixture
def endless(lab: Folder) -> Iterator[tuple[Folder, WorkerProcess]]:
    (lab.root / "get_data.py").write_text(ENDLESS)
    with lab.serving() as manager, worker_process(lab.root) as worker:
        await_file(lab.root / "begun")
        yield lab, worker
        assert manager.queue.counts()["pending"] == 3, "the task has gone back"
        assert {entry.losses + entry.failures for entry in manager.queue.entries()} == {0}


def test_a_worker_that_is_killed_takes_it_along(lab: Folder) -> None:
    (lab.root / "get_data.py").write_text(ENDLESS)
    with lab.serving(), worker_process(lab.root) as worker:
        await_file(lab.root / "begun")
        worker.process.kill()
        pids = (lab.root / "pids").read_text().split()
        poll(lambda: not any(map(runs_still, pids)), "nothing of it runs")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_worker_that_is_to_stop_ends_it_and_gives_the_task_back(
    endless: tuple[Folder, WorkerProcess], signals: list[signal.Signals]
) -> None:
    folder, worker = endless
    for number in signals:
        worker.signal(number)
        worker.await_words("Ctrl+C again" if number == signal.SIGINT else "Giving task")
    assert worker.code() in (0, 1)
    assert "Giving task" in worker.output()
    pids = (folder.root / "pids").read_text().split()
    poll(lambda: not any(map(runs_still, pids)), "nothing of it runs")  # its watcher may have to end it


@pytest.mark.parametrize("is_frozen", [True, False])
def test_where_tasks_run_from_a_copy_it_runs_there_and_again_in_each_new_copy(
    lab: Folder, tmp_path_factory: pytest.TempPathFactory, is_frozen: bool
) -> None:
    there = tmp_path_factory.mktemp("another_machine")
    open_gate(there)
    with lab.serving(freeze_code=is_frozen) as manager:
        (there / ".experiment_manager").mkdir()
        shutil.copy(Workdir(lab.root).token, there / ".experiment_manager/token")
        words = ["localhost", str(manager.port), "--fetch"]
        with worker_process(there, *words) as worker:
            assert worker.code() == 0, worker.output()
        assert runs(there) == 1
        copies = there / ".experiment_manager/code"
        assert [*copies.glob("*/data.txt")]
        assert not (there / "data.txt").exists()
        (lab.root / "get_data.py").write_text(GET_DATA + "# edited\n")
        lab.csv.unlink()
        with user(lab, manager.port) as client:
            manager.rescan()
            assert client.say("requeue", missing=True)["count"] == 3
        with worker_process(there, *words) as worker:
            assert worker.code() == 0, worker.output()
    assert runs(there) == 2
    assert [row["data"] for row in lab.rows()] == ["rows and more"] * 3


def test_rerun_runs_it_first_where_it_has_not_been_done(lab: Folder) -> None:
    open_gate(lab.root)
    words = [sys.executable, "-m", "distexp", "rerun", "exp1_vary_width_0_42", "--workdir", lab.root]
    for is_first in (True, False):
        said = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
        assert ("getting data" in said, "Result: data=rows and more" in said) == (is_first, True)


CHATTY = """
import os
for number in range(20_000): print("line", number)
print("\\r 1%\\r100%")
"""


def test_its_output_is_capped_and_only_the_newest_of_a_host_are_kept(
    lab: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.root / "get_data.py").write_text(CHATTY)
    monkeypatch.chdir(lab.root)
    monkeypatch.setattr(host_setup, "MAX_LOG_BYTES", 10_000)
    monkeypatch.setattr(host_setup, "KEPT", {".log": 2, ".json": 3, ".json.lock": 3})
    with closing(Watcher(lab.root / "watcher.lock")) as watcher:
        setup = HostSetup(Workdir(lab.root), watcher)
        for number in range(5):
            lab.configure(f"{number}", CONFIG)
            task = expand(load_configs([Path("configs/config_exp1.yaml")], lab.root))[0].task
            assert setup.run(task) == ""
    folder = Workdir(lab.root).setups
    assert sorted(each.suffix for each in folder.iterdir()) == [".json"] * 3 + [".lock"] * 3 + [".log"] * 2
    for log in folder.glob("*.log"):
        assert log.stat().st_size <= 10_000
        lines = log.read_text().splitlines()
        assert (lines[0], lines[-1]) == ("line 0", "100%")
    if os.name == "posix":
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


def test_what_it_leaves_running_is_ended(lab: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.root / "get_data.py").write_text(ENDLESS.removesuffix("time.sleep(600)\n"))
    monkeypatch.chdir(lab.root)
    task = expand(load_configs([Path("configs/config_exp1.yaml")], lab.root))[0].task
    assert HostSetup(Workdir(lab.root)).run(task) == ""
    assert not any(map(runs_still, (lab.root / "pids").read_text().split()))


def test_one_that_does_not_end_is_ended(lab: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.root / "get_data.py").write_text(ENDLESS)
    monkeypatch.chdir(lab.root)
    task = expand(load_configs([Path("configs/config_exp1.yaml")], lab.root))[0].task

    clock = Clock()

    def look() -> float:
        if (lab.root / "begun").exists():
            clock.advance(host_setup.LIMIT_S + 1)
        return clock()

    setup = HostSetup(Workdir(lab.root), clock=look)
    assert setup.run(task) == f"setup `python get_data.py` failed on {host_name()}: it was ended after 6 h"
    assert not any(map(runs_still, (lab.root / "pids").read_text().split()))
    (lab.root / "get_data.py").write_text(GET_DATA)
    (lab.root / "begun").unlink()
    assert "was ended" in setup.run(task), "it is known"
    assert setup.run(task, version=1) == "", "somebody has fixed it"
