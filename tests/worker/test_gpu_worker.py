"""GPU workers as processes, on the GPUs of a stand-in machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from distexp.cli.main import main
from distexp.manager.manager import ExperimentManager
from distexp.task import State
from tests.live_manager import Folder, RawClient
from tests.live_worker import CONFIG, await_began, gated_folder, open_gate, worker_process
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import poll

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")

# Two workers meet: neither task ends before both have begun.
SHOW = """
import os, time
from pathlib import Path
def run(params, context):
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while not Path("gate").exists(): time.sleep(0.01)
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    seen = {"device_seen": context.device, "gpus": context.gpus}
    return seen | {name: os.environ.get(name, "") for name in names}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return gated_folder(tmp_path, "[1, 2]", SHOW, CONFIG)


def assigned(manager: ExperimentManager, folder: Folder) -> set[str]:
    return {line.rpartition(" to ")[2] for line in folder.log() if line.startswith("Assigned task ")}


@pytest.mark.parametrize(
    ("gpus", "words", "names"),
    [
        ([gpu(0), gpu(1)], [], {"gpu0", "gpu1"}),
        ([gpu(0)], ["--slots-per-gpu", "2"], {"gpu0", "gpu0.1"}),
    ],
    ids=["two equal GPUs", "a shared GPU"],
)
def test_two_workers_started_at_once_get_a_seat_each_and_show_their_tasks_one_gpu(
    folder: Folder,
    caplog: pytest.LogCaptureFixture,
    gpus: list[dict[str, object]],
    words: list[str],
    names: set[str],
) -> None:
    caplog.set_level("INFO")
    scenario = folder.root / "machine.json"
    write_scenario(scenario, *gpus)
    sees = environment(scenario, folder.root / "gpu-claims")
    with (
        folder.serving() as manager,
        worker_process(folder.root, *words, device="auto", environment=sees) as one,
        worker_process(folder.root, *words, device="auto", environment=sees) as two,
    ):
        for width in (1, 2):
            await_began(folder.root, width)
        open_gate(folder.root)
        assert (one.code(), two.code()) == (0, 0)
        assert assigned(manager, folder) == names
    rows = folder.rows()
    uuid_of = {f"gpu{index}": each["uuid"] for index, each in enumerate(gpus)}
    assert {row["worker"] for row in rows} == names
    for row in rows:
        assert row["CUDA_VISIBLE_DEVICES"] == uuid_of[row["worker"].partition(".")[0]]
        assert (row["CUDA_DEVICE_ORDER"], row["device_seen"]) == ("PCI_BUS_ID", "cuda:0")
        assert row["device"] == "NVIDIA A100"


NEEDS = """
defaults: {{output_dir: ./results_exp1, experiment: "experiment:run"}}
pair:
  defaults: {{gpus: 2}}
  combinations:
    - width: {widths}
single:
  combinations:
    - width: [3]
    - kind: [one]
"""
TOLD = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "DISTEXP_GPUS", "DISTEXP_DEVICE", "WORLD_SIZE", "RANK")
PROGRAM = f"""
import json, os, sys
print(json.dumps({{"words": sys.argv[1]}} | {{name: os.environ.get(name, "unset") for name in {TOLD}}}))
"""


def sees_of(folder: Folder, *gpus: dict[str, object]) -> dict[str, str]:
    scenario = folder.root / "machine.json"
    write_scenario(scenario, *gpus)
    return environment(scenario, folder.root / "gpu-claims")


def test_a_worker_of_two_gpus_shows_each_task_as_many_as_it_asks_for(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1, 2]", SHOW, NEEDS)
    open_gate(folder.root)
    gpus = [gpu(0), gpu(1), gpu(2, 100)]
    sees = sees_of(folder, *gpus)
    with (
        folder.serving() as manager,
        worker_process(folder.root, "--gpus", 2, device="auto", environment=sees) as worker,
    ):
        assert worker.code() == 0
        assert assigned(manager, folder) == {"gpu0+1"}
    names = ("phase", "CUDA_VISIBLE_DEVICES", "device_seen", "gpus")
    seen = [tuple(row[name] for name in names) for row in folder.rows()]
    both = f"{gpus[0]['uuid']},{gpus[1]['uuid']}"
    assert seen == [
        ("pair", both, "cuda:0", "2"),
        ("pair", both, "cuda:0", "2"),
        ("single", str(gpus[0]["uuid"]), "cuda:0", "1"),
    ]
    assert {row["device"] for row in folder.rows()} == {"2 x NVIDIA A100"}


def test_a_command_of_two_gpus_knows_their_number_and_no_variables_of_torchrun(tmp_path: Path) -> None:
    config = """
defaults: {{output_dir: results_exp1, command: "python show.py --nproc-per-node={{gpus}} {{args}}", gpus: 2}}
pair:
  combinations:
    - width: {widths}
"""
    folder = gated_folder(tmp_path, "[1]", SHOW, config)
    (tmp_path / "show.py").write_text(PROGRAM)
    gpus = [gpu(0), gpu(1)]
    sees = sees_of(folder, *gpus)
    with (
        folder.serving(),
        worker_process(folder.root, "--gpus", 2, device="gpu", environment=sees) as worker,
    ):
        assert worker.code() == 0
    (row,) = folder.rows()
    assert row["words"] == "--nproc-per-node=2"
    both = f"{gpus[0]['uuid']},{gpus[1]['uuid']}"
    assert [row[name] for name in TOLD] == [both, "PCI_BUS_ID", "2", "cuda:0", "unset", "unset"]


def test_a_task_waits_until_the_memory_that_it_needs_is_free_and_show_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.manager.waiting.MAX_WAIT_S", 0.5)  # soon asked again, with what is free then
    config = CONFIG.replace("exp1_vary_width:\n", "exp1_vary_width:\n  defaults: {{min_free_gb: 12}}\n")
    folder = gated_folder(tmp_path, "[1]", SHOW, config)
    open_gate(folder.root)
    sees = sees_of(folder, gpu(0, 8 * 1024))
    with (
        folder.serving() as manager,
        RawClient(manager.port, token=folder.token) as user,
        worker_process(folder.root, device="gpu", environment=sees) as worker,
    ):

        def why() -> str:
            return str(user.say("show", task="exp1_vary_width_0_42")["why"])

        poll(lambda: why().startswith("needs 12 GB free on its GPU"), "the GPU is seen", 60)
        most = "the most that a worker had when it last asked is 8.0 GB (gpu0)"
        poll(lambda: why().endswith(most), "a driver that has answered in time", 60)
        sees_of(folder, gpu(0, 12 * 1024))
        assert worker.code() == 0
    assert [row["worker"] for row in folder.rows()] == ["gpu0"]


@linux_only
def test_a_worker_that_waits_for_memory_keeps_no_process_ready_that_holds_some(tmp_path: Path) -> None:
    config = CONFIG + "exp2: {{defaults: {{min_free_gb: 12}}, combinations: [width: [2]]}}\n"
    folder = gated_folder(tmp_path, "[1]", SHOW, config)
    open_gate(folder.root)
    sees = sees_of(folder, gpu(0, 8 * 1024))
    with (
        folder.serving() as manager,
        RawClient(manager.port, token=folder.token) as user,
        worker_process(folder.root, device="gpu", environment=sees) as worker,
    ):
        mine = psutil.Process(worker.process.pid)

        def is_idle() -> bool:
            told = user.say("workers")["workers"]
            return folder.csv.exists() and [each["task"] for each in told] == [None]

        def forked() -> set[psutil.Process]:
            return {*mine.children(recursive=True)} - {*mine.children()}

        poll(is_idle, "the worker waits", 60)
        poll(lambda: not forked(), "the standby has ended")
        sees_of(folder, gpu(0, 12 * 1024))
        assert worker.code() == 0
    assert [row["phase"] for row in folder.rows()] == ["exp1_vary_width", "exp2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "cpu"], "--gpus 2 cannot be used together with --device cpu"),
        (
            ["--slots-per-gpu", "3"],
            "--gpus 2 cannot be used together with --slots-per-gpu 3: "
            "a worker with several GPUs does not share them",
        ),
    ],
)
def test_what_excludes_several_gpus_is_told_in_a_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--gpus", "2", *words]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


USES_TORCH = """
import torch
def run(params, context):
    return {"score": params["width"]}
"""
USES_TORCH_LATE = """
def run(params, context):
    import torch
    return {"score": float(torch.ones(1, device=context.device).sum())}
"""


PROGRAM_USES_TORCH = """
import sys, torch
print(float(torch.ones(1, device=sys.argv[1]).sum()))
"""
COMMAND_CONFIG = """
defaults: {{command: "python experiment.py {{device}} {{width}}", output_dir: ./results_exp1}}
exp1_vary_width: {{combinations: [{{width: {widths}}}]}}
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
@pytest.mark.parametrize(
    ("source", "config"),
    [(USES_TORCH, CONFIG), (USES_TORCH_LATE, CONFIG), (PROGRAM_USES_TORCH, COMMAND_CONFIG)],
    ids=["at its import", "when it runs", "in a command"],
)
def test_a_gpu_that_torch_cannot_use_is_the_workers_fault(tmp_path: Path, source: str, config: str) -> None:
    folder = gated_folder(tmp_path, "[1, 2]", source, config)
    with folder.serving() as manager:
        sees = sees_of(folder, gpu(0))
        with worker_process(folder.root, device="auto", environment=sees) as worker:
            assert worker.code() == 2
            assert "cannot be used by torch" in worker.output()
            assert "start the worker with --device cpu" in worker.output()
        states = [(entry.state, entry.failures, entry.losses) for entry in manager.queue.entries()]
    assert states == [(State.PENDING, 0, 0)] * 2


POLITE = """
import os, time
from pathlib import Path
def run(params, context):
    saved = context.checkpoint_dir / "step"
    began = saved.read_text() if saved.exists() else "0"
    Path(f"began-{params['width']}-{context.attempt}").touch()
    while not Path("gate").exists():
        if context.should_stop():
            saved.write_text("7")
            raise context.Stopped
        time.sleep(0.01)
    return {"began_at": int(began), "gpu": os.environ["CUDA_VISIBLE_DEVICES"], "niceness": os.nice(0)}
"""


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may become another user")
def test_a_worker_gives_way_with_a_checkpoint_when_another_user_computes_on_its_gpu(tmp_path: Path) -> None:
    folder = gated_folder(tmp_path, "[1]", POLITE, CONFIG)
    sees = sees_of(folder, gpu(0, 30_000), gpu(1, 20_000))
    with (
        folder.serving(),
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, user="nobody") as other,
        worker_process(folder.root, "--yield", "--nice", "3", device="gpu", environment=sees) as worker,
    ):
        await_began(folder.root, 1)
        sees_of(folder, gpu(0, 29_900, processes=[{"pid": other.pid, "used_mib": 100}]), gpu(1, 20_000))
        await_began(folder.root, 1, attempt=2)
        open_gate(folder.root)
        assert worker.code() == 0
        other.communicate()
    (row,) = folder.rows()
    assert (row["worker"], row["gpu"], row["began_at"]) == ("gpu1", gpu(1)["uuid"], "7")
    assert int(row["niceness"]) == min(19, os.nice(0) + 3)
    assert "Gave the GPU back to nobody on gpu0; waiting for one" in worker.output()
    assert "Giving task exp1_vary_width_0_42 back: gives way to nobody on gpu0" in worker.output()
