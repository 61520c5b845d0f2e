"""What idle workers lack for the tasks that are left is said once, and ends a sweep that gets no others."""

import pytest

from distexp.manager import unmet
from tests.live_manager import Folder, RawClient, worker
from tests.support import poll

CONFIG = """
defaults: {{output_dir: "./results_exp1", experiment: "absent_module:run", {needs}}}
exp1_vary_width: {{combinations: [width: [1, 2]]}}
"""
A100 = {"gpus": 1, "device": "NVIDIA A100", "memory_mib": 80 * 1024}
T4 = {"gpus": 1, "device": "Tesla T4", "memory_mib": 16 * 1024}
CPU = {"device": "cpu", "memory_mib": 64 * 1024}


@pytest.fixture
def folder(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(unmet, "LOOK_S", 0.0)
    monkeypatch.setattr(unmet, "UNMET_S", 0.0)
    return Folder(tmp_path)  # type: ignore[arg-type]


def told(folder: Folder) -> list[str]:
    start = "No worker that is connected can run what is left: "
    return [line.removeprefix(start) for line in folder.log() if line.startswith(start)]


H100 = "gpu_model: [H100]"
NEEDS_H100 = "phase exp1_vary_width needs a GPU of the model H100, and the workers that are connected have "
NEEDS_GPU = "phase exp1_vary_width needs a GPU, and no worker that is connected holds one"


@pytest.mark.parametrize(
    ("needs", "device", "why"),
    [
        (H100, A100, f"{NEEDS_H100}NVIDIA A100"),
        ("gpus: 1", CPU, NEEDS_GPU),
        (
            "gpus: 2",
            A100,
            "phase exp1_vary_width needs 2 GPUs, and no worker that is connected holds more than 1: "
            "`distexp worker --gpus 2`",
        ),
        (
            "min_free_gb: 60",
            T4,
            "phase exp1_vary_width needs 60 GB free on its GPU, and the most that a worker had when it last "
            "asked is 14.6 GB (gpu0)",
        ),
    ],
)
@pytest.mark.parametrize("has_all_workers", [True, False])
def test_what_no_worker_can_run_is_said_once_and_ends_a_sweep_that_gets_no_others(
    folder: Folder, needs: str, device: dict[str, object], why: str, has_all_workers: bool
) -> None:
    folder.configure("", CONFIG.replace("{needs}", needs))
    with folder.serving(exit_when_done=True, has_all_workers=has_all_workers) as manager:
        with worker(manager, **device) as client:
            first = client.say("request_task", free_mib=15000)
            for _ in range(3):
                manager.run_once()
            then = client.say("request_task", free_mib=15000)
        assert (first["reason"], then["reason"]) == ("wait", "done" if has_all_workers else "wait")
        poll(lambda: not manager._registry.connected(), "the worker has left")
        manager.run_once()
        assert manager._is_done is has_all_workers
    assert told(folder) == [why]
    assert (f"Stopping with 2 tasks pending: {why}" in folder.log()) is has_all_workers


def test_a_lost_task_whose_file_stays_unreadable_keeps_no_sweep_alive_whose_other_tasks_no_worker_can_run(
    folder: Folder,
) -> None:
    folder.configure("", CONFIG.replace("{needs}", "x: 1"))
    folder.configure("", CONFIG.replace("{needs}", H100).replace("exp1", "exp2"), "config_exp2.yaml")
    with folder.serving(exit_when_done=True, has_all_workers=True) as manager:
        with worker(manager, "lost", heartbeat_s=0.001, **A100) as lost:
            lost.say("request_task", free_mib=15000)
        folder.csv.mkdir(parents=True)
        poll(lambda: manager.queue.overdue(manager.queue.now_s()), "its lease to be overdue")
        manager.run_once()
        manager.rescan()
        with worker(manager, **A100) as client:
            assert client.say("request_task", free_mib=15000)["reason"] == "wait"
            for _ in range(3):
                manager.run_once()
            assert client.say("request_task", free_mib=15000)["reason"] == "done"
    assert told(folder) == [f"{NEEDS_H100.replace('exp1', 'exp2')}NVIDIA A100"]


def test_memory_that_others_hold_now_is_waited_for(folder: Folder) -> None:
    folder.configure("", CONFIG.replace("{needs}", "min_free_gb: 60"))
    ends = {"exit_when_done": True, "has_all_workers": True}
    with folder.serving(**ends) as manager, worker(manager, **A100) as client:
        assert client.say("request_task", free_mib=37 * 1024)["reason"] == "wait"
        for _ in range(3):
            manager.run_once()
        assert client.say("request_task", free_mib=61 * 1024)["type"] == "task"
    assert [line.partition(", and ")[0] for line in told(folder)] == [
        "phase exp1_vary_width needs 60 GB free on its GPU"
    ]


def test_nothing_is_said_while_a_worker_may_run_something_or_runs_it(folder: Folder) -> None:
    folder.configure("", CONFIG.replace("{needs}", H100))
    folder.configure("", CONFIG.replace("{needs}", "x: 1").replace("exp1", "exp2"), "config_exp2.yaml")
    with folder.serving() as manager, worker(manager, **A100) as client:
        for _ in range(2):
            manager.run_once()
            task = client.say("request_task", free_mib=15000)
            manager.run_once()
            client.say("task_complete", key=task["key"], result={"score": 1})
        assert told(folder) == []
        for _ in range(2):
            manager.run_once()
        assert told(folder) == [f"{NEEDS_H100}NVIDIA A100"]
        with worker(manager, "gpu1", **T4) as other:
            other.say("request_task", free_mib=15000)
            manager.run_once()
            manager.run_once()
        assert told(folder)[1:] == [f"{NEEDS_H100}NVIDIA A100, Tesla T4"]


def test_a_sweep_that_is_paused_does_not_end(folder: Folder) -> None:
    folder.configure("", CONFIG.replace("{needs}", H100))
    ends = {"exit_when_done": True, "has_all_workers": True}
    with folder.serving(**ends) as manager, worker(manager, **A100) as client:
        client.say("pause")
        for _ in range(3):
            assert client.say("request_task", free_mib=15000)["message"] == "paused"
            manager.run_once()
        client.say("resume")
        manager.run_once()
        manager.run_once()
        assert client.say("request_task", free_mib=15000)["reason"] == "done"
    assert told(folder) == [f"{NEEDS_H100}NVIDIA A100"]


def test_a_manager_that_other_machines_reach_waits_for_their_workers(folder: Folder) -> None:
    folder.configure("", CONFIG.replace("{needs}", H100))
    with folder.serving(exit_when_done=True, has_all_workers=True, host="0.0.0.0") as manager:
        with worker(manager, **CPU) as client:
            for _ in range(3):
                assert client.say("request_task")["reason"] == "wait"
                manager.run_once()
        assert not manager._is_done
    assert len(told(folder)) == 1


def test_memory_of_a_gpu_that_comes_and_goes_does_not_fill_the_log(folder: Folder) -> None:
    folder.configure("", CONFIG.replace("{needs}", "min_free_gb: 60"))
    with folder.serving() as manager, worker(manager, **A100) as client:
        for free_mib in (15_000, 14_000, 13_000):
            client.say("request_task", free_mib=free_mib)
            for _ in range(2):
                manager.run_once()
    assert len(told(folder)) == 1


def test_a_program_that_shows_how_far_the_sweep_is_keeps_none_alive_that_no_worker_can_run(
    folder: Folder,
) -> None:
    folder.configure("", CONFIG.replace("{needs}", "gpus: 1"))
    with (
        folder.serving(exit_when_done=True, has_all_workers=True) as manager,
        RawClient(manager.port, token=folder.token) as shows,
        worker(manager, **CPU) as client,
    ):
        client.say("request_task")
        shows.say("status", token=folder.token)
        for _ in range(3):
            manager.run_once()
        assert client.say("request_task")["reason"] == "done"
