"""Slurm: what is asked of it, and whole sweeps on a real one."""

import importlib.util
import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distexp.cluster import slurm
from distexp.context import Context
from distexp.errors import UserError
from tests.live_manager import Folder
from tests.live_slurm import LAUNCHER, Cluster, cluster_in, why_no_slurm
from tests.live_worker import await_began, await_file, await_rows, gated_folder, open_gate
from tests.support import ENVIRONMENT, poll

PROJECT = Path(__file__).parents[2]

# Computes 60 steps from its checkpoint on; at the 30th it waits until the file `gate` is there.
RESUMING = """
import json, time
from pathlib import Path
def run(params, context):
    saved = context.checkpoint_dir / "state.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "x": 0.1}
    Path(f"began-{params['width']}-{context.attempt}").write_text(str(state["step"]))
    while state["step"] < 60:
        if context.should_stop():
            saved.with_suffix(".new").write_text(json.dumps(state))
            saved.with_suffix(".new").replace(saved)
            raise context.Stopped
        if state["step"] == 30 and not Path("gate").exists():
            Path("waits").touch()
            time.sleep(0.01)
            continue
        state = {"step": state["step"] + 1, "x": state["x"] * 1.01 + params["width"] / 3}
    return {"x": state["x"]}
"""


# Says what the words around its worker have set.
SET_UP = """
import os, time
from pathlib import Path
def run(params, context):
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while not Path("gate").exists(): time.sleep(0.01)
    return {"setup": os.environ.get("FROM_SETUP", ""), "wrap": os.environ.get("FROM_WRAP", "")}
"""


@pytest.fixture
def cluster(a_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster without jobs."""
    yield a_cluster
    a_cluster.say("scancel", "--user=root")
    poll(lambda: a_cluster.say("squeue", "-h") == "", "no job is left", 120.0)


@pytest.fixture(scope="module")
def a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_no_slurm():
        pytest.skip(reason)
    with cluster_in(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


on_slurm = pytest.mark.slow
pytestmark = pytest.mark.timeout(600)  # a job that was requeued waits, and the machine may be busy


# -- what is asked of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216000), ("2-0:01", 172860), ("1-1:1:1", 90061)],
)
def test_a_time_is_read_as_slurm_writes_it(text: str, seconds: float) -> None:
    assert slurm.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "UNLIMITED", "NOT_SET", "1:2:3:4", "-5", "1.5", "1h"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is no time such as 90 \(minutes\), 1:30:00 or"):
        slurm.parse_time(text)


def test_a_pilot_is_the_worker_itself_whatever_its_words(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import os, sys; print(os.getpid(), sys.argv[1:])", "a b", "$HOME", "it's"]
    script = slurm.pilot_script(3, words[:3], words[3:], tmp_path)
    assert "#SBATCH --array=0-2\n" in script
    with subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.communicate(script)[0] == f"{shell.pid} {[*words[3:], '--requeue']}\n"


PRINTS = """
import logging
from distexp.system import logs
logs.MAX_BYTES, logs.LOOK_EVERY = 4000, 10
logs.log_to_console()
for number in range(1000): logging.getLogger("distexp").info("line %d", number)
"""


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="Slurm runs on Linux")
def test_the_log_of_a_job_is_no_longer_than_other_logs(tmp_path: Path) -> None:
    script = slurm.pilot_script(1, [sys.executable, "-c", PRINTS], [], tmp_path)
    path = tmp_path / "slurm-7_0.log"
    path.write_text("before it was put back in line\n")
    with path.open("ab") as output:
        subprocess.run(["bash"], input=script.encode(), stdout=output, env=ENVIRONMENT, check=True)
    lines = path.read_text().splitlines()
    assert path.stat().st_size <= 4500, "ten lines may have come since the last look"
    assert lines[0] == "before it was put back in line"
    assert lines[-1].endswith("line 999")


def test_the_place_of_a_log_is_quoted_for_slurm() -> None:
    script = slurm.pilot_script(1, ["true"], [], Path("/data/100% mine"))
    assert '#SBATCH --output="/data/100%% mine/slurm-%A_%a.log"\n' in script


def test_a_manager_gets_the_options_of_its_workers_but_for_gpus() -> None:
    options = ["--account=lab", "--gres=gpu:1", "-G", "2", "--gpus-per-node", "1", "-p", "a,b", "--gpus=2"]
    options += [
        "--mem-per-gpu=40G",
        "--cpus-per-gpu",
        "8",
        "-G4",
        "--ntasks-per-gpu=1",
        "--partition=gpu",
        "-N",
        "1",
    ]
    options += ["--gpu-bind", "closest", "--tres-per-task=gres/gpu:1", "--gres-flags=enforce-binding"]
    assert slurm.of_manager(options) == ["--account=lab", "-p", "a,b", "--partition=gpu", "-N", "1"]


def test_a_setup_line_stands_before_the_worker_as_it_is(tmp_path: Path) -> None:
    around = slurm.Surroundings(["module load cuda", 'x="a  b"; cd /'])
    script = slurm.pilot_script(1, ["w"], ["1 2"], tmp_path, around)
    assert script.endswith("module load cuda\nx=\"a  b\"; cd /\nexec w '1 2' --requeue\n")
    assert "#SBATCH --array=0-0\n" in script


def test_without_slurm_a_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^sbatch, the program of Slurm, is not installed here; run this"):
        slurm.submit("", [])


def test_outside_a_job_there_is_no_end_and_nothing_to_requeue(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert slurm.seconds_left({}) is None
    assert caplog.messages == []
    slurm.requeue({})
    assert caplog.messages == [
        "--requeue: nothing is requeued, since this is no job of Slurm (SLURM_JOB_ID is not set)"
    ]


def test_a_slurm_that_does_not_answer_is_told_and_no_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.seconds_left({"SLURM_JOB_ID": "7"}) is None
    (message,) = caplog.messages
    assert message.startswith("squeue: ")
    assert "Slurm does not answer (" in message


# -- on a real one -----------------------------------------------------------------------------------------


def undisturbed(folder: Folder, width: int) -> dict[str, float]:
    """Return what the experiment of `folder` finds where nobody stops it. The gate is open."""
    spec = importlib.util.spec_from_file_location("undisturbed", folder.root / "experiment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.root)
        found: dict[str, float] = module.run({"width": width}, Context(seed=42))
    return found


def await_given_back(folder: Folder) -> str:
    """Return the manager's line of a task that a worker gave back."""
    poll(lambda: any("given back by" in line for line in folder.log()), "a task given back", 120.0)
    return next(line for line in folder.log() if "given back by" in line)


@on_slurm
def test_a_sweep_runs_on_pilots_that_end_when_it_does(cluster: Cluster, tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3, 4]")
    open_gate(tmp_path)
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 2, "--job-name=mine")
        assert cluster.say("squeue", "-h", "-o", "%j").splitlines()[0] == "mine"
        rows = await_rows(folder, 4)
        cluster.await_states(array, "COMPLETED", "COMPLETED")
    assert sorted((row["width"], row["score"], row["attempt"]) for row in rows) == [
        (str(width), str(10 * width), "1") for width in (1, 2, 3, 4)
    ]
    logs = [(tmp_path / ".experiment_manager" / f"slurm-{array}_{i}.log").read_text() for i in (0, 1)]
    assert all("No task is left" in log for log in logs)


def reach_limit(cluster: Cluster, array: str) -> None:
    """Wait for Slurm's warning: the job was submitted with a limit. The next turn gets more time."""
    poll(lambda: cluster.states(array) == ["PENDING"], "the job is back in line", 120.0)
    cluster.say("scontrol", "update", f"JobId={array}_0", "TimeLimit=30")


def preempt(cluster: Cluster, array: str) -> None:
    cluster.say("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true")


def requeue_by_hand(cluster: Cluster, array: str) -> None:
    assert cluster.say("scontrol", "requeue", f"{array}_0") == ""


WITHOUT_SLURM = ("--wrap", "env PATH=/nowhere")  # as in a container


@on_slurm
@pytest.mark.parametrize(
    ("stop", "options", "words"),
    [
        (reach_limit, ["--time=1", "--signal=B:USR2@30"], ()),
        (reach_limit, ["--time=1", "--signal=B:USR2@30"], WITHOUT_SLURM),
        (preempt, [], ()),
        (preempt, [], WITHOUT_SLURM),
        (requeue_by_hand, [], ()),
    ],
)
def test_a_task_that_slurm_stops_resumes_from_its_checkpoint_and_ends_with_the_same_row(
    cluster: Cluster,
    tmp_path: Path,
    stop: Callable[[Cluster, str], None],
    options: list[str],
    words: tuple[str, ...],
) -> None:
    folder = gated_folder(tmp_path, "[7]", RESUMING)
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 1, *options, words=words)
        await_file(tmp_path / "waits")
        stop(cluster, array)
        assert await_given_back(folder) == "Task exp1_vary_width_0_42 given back by cpu0: preempted"
        open_gate(tmp_path)
        poll(folder.csv.is_file, "a row", 120.0)
        (row,) = await_rows(folder, 1)
        cluster.await_states(array, "COMPLETED")
    assert (tmp_path / "began-7-2").read_text() == "30"
    assert (row["attempt"], json.loads(row["x"])) == ("2", undisturbed(folder, 7)["x"])


@on_slurm
@pytest.mark.parametrize("index", [0, 1])
def test_of_several_pilots_the_one_that_was_warned_goes_back_in_line(
    cluster: Cluster, tmp_path: Path, index: int
) -> None:
    folder = gated_folder(tmp_path, "[1, 2]", RESUMING)
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 2, "--time=30")
        for width in (1, 2):
            await_began(tmp_path, width)
        cluster.say("scancel", "--batch", "--signal=USR2", f"{array}_{index}")
        await_given_back(folder)
        states = ["RUNNING", "RUNNING"]
        states[index] = "PENDING"
        cluster.await_states(array, *states)
        open_gate(tmp_path)
        await_rows(folder, 2)
        cluster.await_states(array, "COMPLETED", "COMPLETED")


@on_slurm
def test_a_pilot_without_time_for_a_task_goes_back_in_line_unless_it_never_had(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = gated_folder(tmp_path, "[1, 2]")
    open_gate(tmp_path)
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 1, words=("--time-limit", "0"))
        log = tmp_path / ".experiment_manager" / f"slurm-{array}_0.log"
        poll(lambda: log.exists() and log.read_text().count("No time is left") == 2, "two turns", 120.0)
        cluster.await_states(array, "COMPLETED")
    assert len(folder.rows()) == 1
    assert log.read_text().count(f"Job {array}_0 is back in line: it was stopped before the sweep's end") == 1


@on_slurm
def test_the_task_of_a_cancelled_pilot_goes_to_another(cluster: Cluster, tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2]")
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 2)
        for width in (1, 2):
            await_began(tmp_path, width)
        cluster.say("scancel", f"{array}_0")
        await_given_back(folder)
        open_gate(tmp_path)
        rows = await_rows(folder, 2)
        cluster.await_states(array, "CANCELLED", "COMPLETED")
    assert sorted(row["attempt"] for row in rows) == ["1", "2"]
    assert len({row["worker"] for row in rows}) == 1


@on_slurm
def test_pilots_outlive_the_daemon_of_their_node(cluster: Cluster, tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3]")
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 1)
        await_began(tmp_path)
        cluster.kill("slurmd")
        open_gate(tmp_path)
        rows = await_rows(folder, 3)
        cluster.start_node()
        cluster.await_states(array, "COMPLETED")
    assert [row["attempt"] for row in rows] == ["1", "1", "1"]


@on_slurm
def test_pilots_outlive_a_restart_of_the_manager(cluster: Cluster, tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2, 3]")
    with folder.serving(rescan_s=0.5):
        array = cluster.submit(tmp_path, 1)
        await_began(tmp_path)
    with folder.serving(rescan_s=0.5):
        open_gate(tmp_path)
        rows = await_rows(folder, 3)
        cluster.await_states(array, "COMPLETED")
    assert [row["attempt"] for row in rows] == ["1", "1", "1"]


@on_slurm
def test_a_manager_that_is_a_job_goes_on_upon_another_node_and_its_workers_find_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    gated_folder(tmp_path, "[1, 2, 3]", SET_UP)
    cluster.start_node("second")
    words = ("--with-manager", "--setup", "export FROM_SETUP='a line'", "--wrap", "env FROM_WRAP=wrapped")
    array = cluster.submit(tmp_path, 1, "--partition=both", words=words)
    await_began(tmp_path)
    (manager,) = {*cluster.say("squeue", "-h", "-o", "%A").split()} - {array}
    before = cluster.say("squeue", "-h", "-j", manager, "-o", "%N")
    cluster.say("scontrol", "update", f"NodeName={before}", "State=DRAIN", "Reason=test")
    cluster.say("scontrol", "requeue", manager)
    poll(
        lambda: cluster.say("squeue", "-h", "-j", manager, "-o", "%N") not in ("", before), "it moved", 120.0
    )
    open_gate(tmp_path)
    cluster.await_states(array, "COMPLETED")
    poll(lambda: "COMPLETED" in cluster.say("scontrol", "show", "job", manager), "the manager's end", 120.0)
    cluster.say("scontrol", "update", f"NodeName={before}", "State=RESUME")
    cluster.kill("slurmd of second")
    rows = Folder(tmp_path).rows()
    assert sorted((row["width"], row["attempt"]) for row in rows) == [(str(n), "1") for n in (1, 2, 3)]
    assert {(row["setup"], row["wrap"]) for row in rows} == {("a line", "wrapped")}


@on_slurm
def test_a_manager_that_waits_in_line_is_found_by_the_next_submission_and_by_stop(
    cluster: Cluster, tmp_path: Path
) -> None:
    gated_folder(tmp_path, "[1]")
    open_gate(tmp_path)
    about = ("--with-manager", "--workdir", str(tmp_path), "--device", "cpu")
    first = cluster.say("bash", str(LAUNCHER), "slurm", "1", *about, "--manager-options", "--hold")
    found = re.search(r"Submitted batch job (\d+): the manager", first)
    assert found, first
    job = found[1]
    told = cluster.say("bash", str(LAUNCHER), "slurm", "1", *about)
    assert f"Batch job {job} is the manager of {tmp_path} already: the workers use it" in told
    assert "the manager\n" not in told
    stopped = cluster.say("bash", str(LAUNCHER), "stop", "--workdir", str(tmp_path))
    assert stopped.splitlines()[-1] == (
        f"error: the manager of {tmp_path} is batch job {job} of Slurm: `scancel {job}` stops it"
    )
    cluster.say("scancel", job)
    poll(lambda: cluster.say("squeue", "-h", "-j", job) == "", "the job is gone", 120.0)
    stopped = cluster.say("bash", str(LAUNCHER), "stop", "--workdir", str(tmp_path))
    assert stopped.splitlines()[-1] == f"No manager runs in {tmp_path}"


@on_slurm
def test_no_manager_stays_behind_when_slurm_refuses_its_workers(cluster: Cluster, tmp_path: Path) -> None:
    gated_folder(tmp_path, "[1]")
    words = ["slurm", "1", "--with-manager", "--workdir", str(tmp_path), "--", "--gres=gpu:1"]
    assert "error: sbatch refuses (exit code 1); see" in cluster.say("bash", str(LAUNCHER), *words)
    poll(lambda: cluster.say("squeue", "-h") == "", "no job is left", 120.0)


@on_slurm
def test_a_manager_whose_time_ends_first_is_put_back_in_line(cluster: Cluster, tmp_path: Path) -> None:
    gated_folder(tmp_path, "[1, 2]")
    words = ("--with-manager", "--manager-options", "--time=1 --signal=B:USR2@30")
    array = cluster.submit(tmp_path, 1, words=words)
    await_began(tmp_path)
    (manager,) = {*cluster.say("squeue", "-h", "-o", "%A").split()} - {array}
    poll(lambda: "Restarts=1" in cluster.say("scontrol", "show", "job", manager), "back in line", 120.0)
    cluster.say("scontrol", "update", f"JobId={manager}", "TimeLimit=30")
    open_gate(tmp_path)
    cluster.await_states(array, "COMPLETED")
    assert sorted(row["width"] for row in Folder(tmp_path).rows()) == ["1", "2"]


@on_slurm
def test_a_job_knows_when_slurm_will_warn_it(cluster: Cluster, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = "from distexp.cluster import slurm; print(slurm.seconds_left())"
    ask = f"cd {shlex.quote(str(PROJECT))} && exec {shlex.quote(sys.executable)} -c '{program}'"
    for limit in (("--time=10", "--array=0-1"), ("--time=UNLIMITED",)):
        options = ("--wait", "--open-mode=append", f"--output={told}", *limit)
        cluster.say("sbatch", *options, input=f"#!/bin/bash\n{ask}\n")
    *limited, unlimited = told.read_text().splitlines()
    assert len(limited) == 2
    assert all(0 < float(left) <= 10 * 60 - slurm.WARNING_S for left in limited)
    assert unlimited == "None"
