"""Conditions, samples, tags, a place in a mapping and a grown axis: from the config to rows and restarts."""

from pathlib import Path

import pytest

import experiment_manager
from distexp.manager.manager import ExperimentManager
from distexp.task import State
from tests.live_manager import Folder, RawClient, worker

CONFIG = """
defaults: {{experiment: "absent_module:run", output_dir: ./results_exp1, project: thesis}}
tags: [project]
conditional:
  combinations:
    - model: [cnn, mlp]
    - kernel: [3, 5]
      when: {{model: cnn}}
    - dropout: [0.0, 0.5]
  assume: {{dropout: 0.0}}
  renamed_from: {{model: [net]}}
sampled:
  search: {{samples: 6, for_each: [data]}}
  combinations:
    - data: [a, b]
    - lr: {{distribution: log_uniform_values, min: 1e-6, max: 1}}
    - depth: {{min: 1, max: 3}}
      when: {{data: a}}
nested:
  defaults: {{head: {{width: 1, name: x}}}}
  combinations:
    - head.width: [2, 3]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([], CONFIG)
    return folder


def run_all(manager: ExperimentManager) -> None:
    """Let one worker on another machine run every task."""
    with worker(manager, shares=False) as talk:
        while (task := talk.say("request_task"))["type"] == "task":
            named = {name: task[name] for name in ("task_id", "lease_id", "key", "sweep_id")}
            assert talk.say("task_complete", **named, result={"acc": 0.5})["type"] == "ack"


def test_rows_that_are_gone_run_again_and_a_restart_knows_the_others(folder: Folder) -> None:
    with folder.serving() as manager:
        run_all(manager)
        header, *rows = folder.csv.read_text(encoding="utf-8").splitlines(keepends=True)
        assert len(rows) == manager.queue.counts()[State.COMPLETE] == 20
        folder.csv.write_text("".join([header, *rows[::2]]), encoding="utf-8")
        manager.rescan()
        with RawClient(manager.port, token=folder.token) as user:
            assert user.say("requeue", missing=True)["count"] == 10
    with folder.serving() as manager:
        assert manager.queue.counts()[State.COMPLETE] == 10
        run_all(manager)
        assert manager.queue.counts()[State.COMPLETE] == 20
    assert len({row["task_id"] for row in folder.rows()}) == len(folder.rows()) == 20


def test_rows_under_earlier_names_and_without_a_new_axis_count(folder: Folder) -> None:
    old = folder.root / "results_old"
    old.mkdir()
    text = "phase,net,kernel,acc\nconditional,cnn,3,0.1\nconditional,cnn,5,0.2\nconditional,mlp,,0.3\n"
    (old / "final_results.csv").write_text(text, encoding="utf-8")
    with folder.serving() as manager:
        complete = [entry.task.config for entry in manager.queue.entries(State.COMPLETE)]
    assert [(each["model"], each.get("kernel")) for each in complete] == [
        ("cnn", 3),
        ("cnn", 5),
        ("mlp", None),
    ]
    assert {each["dropout"] for each in complete} == {0.0}


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (["kernel=3"], 2),
        (["kernel=null"], 2),
        (["model=mlp", "dropout=0.5"], 1),
        (["head.width=2"], 1),
        (["project=thesis"], 20),
        (["data=b"], 6),
        (["data=b", "depth=null"], 6),
    ],
)
def test_tasks_are_found_by_their_values(
    folder: Folder, capsys: pytest.CaptureFixture[str], where: list[str], count: int
) -> None:
    words = [word for each in where for word in ("--where", each)]
    with folder.serving():
        assert experiment_manager.main(["tasks", *words, "--workdir", str(folder.root)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == count + 1


def test_plan_and_report_tell_of_all_forms(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    with folder.serving() as manager:
        run_all(manager)
    assert experiment_manager.main(["plan", "--workdir", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert "results_exp1/final_results.csv: completes 20 tasks" in out
    assert "kernel: 3, 5 when model is cnn" in out
    assert "search: 6 samples, seed 1, for each data" in out
    assert experiment_manager.main(["report", "--workdir", str(folder.root)]) == 0
    assert "20 of 20 tasks complete" in capsys.readouterr().out
