"""Verdicts at rungs: decided once, on disk before they leave, remembered by the next manager."""

import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import experiment_manager
from distexp.errors import ResultsUnwritable
from distexp.manager.manager import ExperimentManager
from distexp.results.rungs import read_rungs
from distexp.task import Cause, State
from tests.live_manager import Folder, RawClient, worker

CONFIG = """
defaults: {{output_dir: "./results_exp1", experiment: "absent_module:run"}}
metric: acc
early_terminate: {{type: asha, max_iter: 9}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""
SEEDS = CONFIG.replace("metric:", "seeds: [1, 2]\nmetric:")
Reply = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 3, 4], CONFIG)
    return folder


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


class Runner:
    """A worker on another machine, with a task in hand."""

    def __init__(self, talk: RawClient) -> None:
        self.talk = talk
        self.take()

    def take(self) -> None:
        self.task = self.talk.say("request_task", wait_s=20.0)

    @property
    def lease(self) -> dict[str, str]:
        return {"lease_id": self.task["lease_id"], "key": self.task["key"]}

    def verdict(self, step: float, value: float | None, **more: Any) -> str:
        said: str = self.talk.say("rung", **self.lease, step=step, value=value, **more)["verdict"]
        return said

    def stopped(self, step: int, acc: float) -> Reply:
        run = {"stopped_at": step}
        return self.talk.say("task_complete", **self.lease, result={"acc": acc}, run=run, stopped_at=step)

    def finished(self, acc: float) -> Reply:
        return self.talk.say("task_complete", **self.lease, result={"acc": acc})


@contextmanager
def runner(manager: ExperimentManager, name: str) -> Iterator[Runner]:
    with worker(manager, name, shares=False) as talk:
        yield Runner(talk)


@contextmanager
def runner_of(manager: ExperimentManager, task_id: str) -> Iterator[Runner]:
    """The worker that gets this task, after others got others."""
    with ExitStack() as stack:
        found = (stack.enter_context(runner(manager, f"w{number}")) for number in range(9))
        yield next(each for each in found if each.task["task_id"] == task_id)


def rungs(folder: Folder) -> list[tuple[str, int, str]]:
    found = read_rungs(folder.root / "results_exp1" / "rungs.csv")
    return [(each.task_id, each.rung, each.verdict) for each in found]


def states(manager: ExperimentManager) -> list[str]:
    return [entry.state.value for entry in manager.queue.entries()]


def test_the_worse_stops_and_its_verdict_is_on_disk(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert a.task["halving"] == {
            "metric": "acc", "goal": "maximize", "min_iter": 1, "eta": 3, "max_iter": 9, "for_each": []
        }  # fmt: skip
        assert (a.verdict(1, 0.5), b.verdict(1, 0.4)) == ("go", "stop")
        assert rungs(folder) == [("exp1_vary_width_0_42", 1, "go"), ("exp1_vary_width_1_42", 1, "stop")]
        assert b.stopped(1, 0.4)["type"] == "ack"
        assert states(manager) == ["assigned", "pruned", "pending", "pending"]
        assert folder.rows()[0]["stopped_at"] == "1"
        assert manager.dispatcher.status().pruned == 1
    said = "by acc at step 1: 0.4 is rank 2 of 2 there, and only the best goes on"
    assert f"Task exp1_vary_width_1_42 stops early, {said}" in folder.log()
    assert "Task exp1_vary_width_1_42 pruned by b" in folder.log()


def test_show_lists_the_rungs_of_a_task(
    folder: Folder, manager: ExperimentManager, capsys: pytest.CaptureFixture[str]
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.6), b.verdict(3, None)
        experiment_manager.main(["show", "exp1_vary_width_1_42", "--workdir", str(folder.root)])
    shown = "  rungs       step 1: 0.6, rank 1 of 2: go\n              step 3: no number, rank 1 of 1: go\n"
    assert shown in capsys.readouterr().out


def test_the_first_value_of_a_task_at_a_rung_counts(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, 0.5), a.verdict(1, 0.0), b.verdict(2, 0.6), b.verdict(1, 0.0)] == ["go"] * 4
    assert len(rungs(folder)) == 2


def test_a_stop_holds_at_later_reports_and_for_the_next_attempt(
    folder: Folder, manager: ExperimentManager
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, 0.5), b.verdict(1, 0.4), b.verdict(3, 0.9)] == ["go", "stop", "stop"]
        b.talk.say("task_released", **b.lease)
        with runner_of(manager, "exp1_vary_width_1_42") as again:
            assert again.verdict(1, 0.9) == "stop"
    assert len(rungs(folder)) == 2


def test_the_next_attempt_comes_to_the_rung_at_which_the_first_was_stopped(
    manager: ExperimentManager,
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, 0.5), b.verdict(1, 0.6), b.verdict(3, 0.6), a.verdict(3, 0.5)] == [
            *["go"] * 3, "stop"
        ]  # fmt: skip
        a.talk.say("task_released", **a.lease)
        with runner_of(manager, "exp1_vary_width_0_42") as again:
            assert [again.verdict(1, 0.5), again.verdict(3, 0.5)] == ["go", "stop"]


def test_a_task_that_left_the_configs_is_compared_and_keeps_its_pruned_row(
    folder: Folder, manager: ExperimentManager
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5)
        folder.configure([1], CONFIG)
        manager.rescan()
        assert b.verdict(1, 0.4) == "stop"
        assert b.stopped(1, 0.4)["type"] == "ack"
        assert [row["stopped_at"] for row in folder.rows()] == ["1"]
        assert states(manager)[:2] == ["assigned", "pruned"]


def test_an_edit_that_takes_early_stopping_away_lets_running_tasks_go_on(
    folder: Folder, manager: ExperimentManager
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5)
        folder.configure([1, 2, 3, 4], CONFIG.replace("early_terminate: {{type: asha, max_iter: 9}}", ""))
        manager.rescan()
        assert b.verdict(1, 0.4) == "go"


def test_a_paused_sweep_goes_on_deciding(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        with RawClient(manager.port, token=folder.token) as user:
            user.say("pause")
        assert [a.verdict(1, 0.5), b.verdict(1, 0.4)] == ["go", "stop"]


def test_nobody_is_stopped_where_it_ends(manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(9, 0.5), b.verdict(9, 0.4)] == ["go", "go"]
    with runner(manager, "c") as c:
        assert c.verdict(3, 0.4, last=True) == "go"


def test_a_manager_that_starts_again_knows_rungs_and_pruned_tasks(folder: Folder) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
        b.stopped(1, 0.4)
        a.finished(0.9)
    (folder.root / ".experiment_manager" / "journal.sqlite").unlink(missing_ok=True)
    with open(folder.root / "results_exp1" / "rungs.csv", "a") as file:
        file.write("exp1_vary_width,torn")
    with folder.serving() as manager:
        assert states(manager) == ["complete", "pruned", "pending", "pending"]
        assert "1 task pruned earlier stay so; `requeue` runs them again" in folder.log()
        with runner(manager, "c") as c:
            assert c.verdict(1, 0.45) == "stop"
        assert len(rungs(folder)) == 3


@pytest.mark.parametrize(
    "damaged",
    [
        lambda text: text[text.index(b"\n") + 1 :],
        lambda text: text[7:],
        lambda text: text[text.index(b"\n") - 9 :],
        lambda text: text.replace(b",metric\n", b"\n"),
        lambda text: text + b'exp1_vary_width,"torn\n' + text,
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\0" * 200_000,
    ],
    ids=[
        "no header",
        "half a header",
        "the end of a header",
        "of an earlier version",
        "twice",
        "another editor",
    ],
)
def test_verdicts_hold_whatever_has_become_of_other_lines(
    folder: Folder, damaged: Callable[[bytes], bytes]
) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
    path = folder.root / "results_exp1" / "rungs.csv"
    path.write_bytes(damaged(path.read_bytes()))
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "c") as c:
        assert c.task["task_id"] != a.task["task_id"]
        assert {a.verdict(1, 0.1), c.verdict(1, 0.45)} == {"go", "stop"}
        last = read_rungs(path)[-1]
        assert (last.of, last.metric) == (3, "acc")


def test_it_is_said_once_that_nobody_reports_the_metric(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a:
        for _ in range(3):
            a.finished(0.5)
            a.take()
    said = [line for line in folder.log() if "stops early" in line]
    assert said == [
        "Nothing stops early in phase exp1_vary_width: "
        "task exp1_vary_width_0_42 has ended and reported no `acc` at step 1 or later"
    ]


def test_values_of_another_metric_are_not_compared(folder: Folder) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, 0.5), b.verdict(1, 0.4)] == ["go", "stop"]
        folder.configure(
            [1, 2, 3, 4], CONFIG.replace("metric: acc", "metric: {{name: loss, goal: minimize}}")
        )
        manager.rescan()
        assert [b.verdict(1, 7.5), a.verdict(1, 7.0)] == ["go", "go"]
        assert b.verdict(3, 9) == "go"
        with runner(manager, "c") as c:
            assert c.verdict(1, 8) == "stop"


def test_a_task_that_a_search_chooses_again_has_passed_the_rungs_that_it_had(folder: Folder) -> None:
    search = "    - lr: {{min: 0.1, max: 1.0}}\n"
    config = CONFIG.replace("  combin", "  search: {{method: tpe, samples: 9}}\n  combin") + search
    folder.configure([1, 2, 3, 4], config)
    with folder.serving() as manager, ExitStack() as stack:
        a, b, c = (stack.enter_context(runner(manager, name)) for name in "abc")
        a.verdict(1, 0.5), b.verdict(1, 0.4), c.verdict(1, 0.3)
        a.finished(0.9), b.stopped(1, 0.4)
    for path in (folder.root / ".experiment_manager").glob("journal.sqlite*"):
        path.unlink()
    with folder.serving() as manager, runner(manager, "d") as d:
        assert d.task["key"] == c.task["key"]
        assert d.verdict(1, 0.6) == "stop"
    assert len(rungs(folder)) == 3


def test_a_requeued_task_passes_the_rung_and_its_next_row_replaces_the_first(folder: Folder) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
        b.stopped(1, 0.4)
        with RawClient(manager.port, token=folder.token) as user:
            assert user.say("requeue", tasks=["exp1_vary_width_1_42"])["count"] == 1
        manager.rescan()
        assert manager.queue.entries()[1].state is State.PENDING
    with folder.serving() as manager, runner_of(manager, "exp1_vary_width_1_42") as again:
        assert again.task["seen"] is None
        assert (again.verdict(1, 0.4), again.verdict(3, 0.6)) == ("go", "go")
        again.finished(0.8)
        assert [row["acc"] for row in folder.rows()] == ["0.8"]
        assert folder.rows()[0]["stopped_at"] == ""
        assert states(manager)[1] == "complete"


def test_a_requeued_task_passes_its_rung_also_where_the_verdicts_are_gone(folder: Folder) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(4, 0.4)
        b.stopped(4, 0.4)
        a.finished(0.9)
    (folder.root / "results_exp1" / "rungs.csv").unlink()
    with folder.serving() as manager, RawClient(manager.port, token=folder.token) as user:
        assert user.say("requeue", tasks=["exp1_vary_width_1_42"])["count"] == 1
        with runner(manager, "b") as again, runner(manager, "c") as c:
            assert again.task["task_id"] == "exp1_vary_width_1_42"
            assert c.verdict(3, 0.7) == "go"
            assert (again.verdict(3, 0.4), again.verdict(9, 0.4, last=True)) == ("go", "go")


def test_a_larger_max_iter_asks_for_more_of_pruned_tasks(folder: Folder) -> None:
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
        b.stopped(1, 0.4)
        folder.configure([1, 2, 3, 4], CONFIG.replace("max_iter: 9", "max_iter: 3"))
        manager.rescan()
        assert states(manager)[1] == "pruned"
        folder.configure([1, 2, 3, 4], CONFIG.replace("max_iter: 9", "max_iter: 81"))
        manager.rescan()
        assert states(manager)[1] == "pending"
        assert "1 task pruned earlier run on: more is wanted of them" in folder.log()


def test_another_output_dir_keeps_what_is_known(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
        b.stopped(1, 0.4)
        folder.configure([1, 2, 3, 4], CONFIG.replace("results_exp1", "results_moved"))
        manager.rescan()
        assert states(manager)[1] == "pruned"
        with runner(manager, "c") as c:
            assert c.verdict(1, 0.45) == "stop"
    (moved,) = read_rungs(folder.root / "results_moved" / "rungs.csv")
    assert (moved.task_id, moved.rank, moved.of) == ("exp1_vary_width_2_42", 2, 3)


def test_seeds_are_compared_by_their_mean(folder: Folder) -> None:
    folder.configure([1, 2], SEEDS)
    with folder.serving() as manager, ExitStack() as stack:
        a1, a2, b1 = (stack.enter_context(runner(manager, name)) for name in "abc")
        assert (a1.task["seed"], a2.task["seed"]) == (1, 2)
        assert [a1.verdict(1, 0.5), b1.verdict(1, 0.4), a2.verdict(1, 0.2)] == ["go", "stop", "stop"]


def test_what_is_no_number_stops_beside_one_that_is(folder: Folder, manager: ExperimentManager) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, -5.0), b.verdict(1, None)] == ["go", "stop"]
        with RawClient(manager.port, token=folder.token) as user:
            shown = user.say("show", task="exp1_vary_width_1_42")["rungs"]
        assert shown == [{"rung": 1, "step": 1, "value": None, "verdict": "stop", "rank": 2, "of": 2}]


def test_a_lease_that_has_ended_gets_no_verdict(manager: ExperimentManager) -> None:
    with runner(manager, "a") as a:
        assert manager.queue.cancel(a.task["key"])
        reply = a.talk.say("rung", **a.lease, step=1, value=0.5)
        assert reply["type"] == "error" and "has ended" in reply["error"]


def test_a_verdict_that_cannot_be_written_is_none(folder: Folder, manager: ExperimentManager) -> None:
    (folder.root / "results_exp1" / "rungs.csv").mkdir(parents=True)
    with runner(manager, "a") as a:
        reply = a.talk.say("rung", **a.lease, step=1, value=0.5)
        assert reply["type"] == "error" and reply["again"]
        (folder.root / "results_exp1" / "rungs.csv").rmdir()
        assert a.verdict(1, 0.1) == "go"
    with open(folder.root / "results_exp1" / "rungs.csv", newline="") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.1"]


def test_a_folder_that_hangs_or_refuses_loses_no_verdict_of_another(folder: Folder) -> None:
    folder.configure([1, 2, 3], CONFIG.replace("results_exp1", "results_{{width}}"))
    with folder.serving() as manager:
        hanging, refusing, fine = [entry.planned for entry in manager.queue.entries()]
        rungs = manager.dispatcher.rungs
        assert rungs.decide(hanging, 1, 0.8, is_last=False) == "go"
        (folder.root / "results_2" / "rungs.csv").mkdir(parents=True)
        with rungs._commits["results_1"]._committing:
            with pytest.raises(ResultsUnwritable, match="results_2"):
                rungs.decide(refusing, 1, 0.7, is_last=False)
            assert rungs.decide(fine, 1, 0.6, is_last=False) == "stop"
    assert [each.value for each in read_rungs(folder.root / "results_3" / "rungs.csv")] == [0.6]


@pytest.mark.parametrize("state", [State.CANCELLED, State.FAILED, State.WITHDRAWN])
def test_a_pruned_row_that_comes_late_makes_its_task_pruned(
    folder: Folder, manager: ExperimentManager, state: State
) -> None:
    with runner(manager, "a") as a, runner(manager, "b") as b:
        a.verdict(1, 0.5), b.verdict(1, 0.4)
        if state is State.CANCELLED:
            manager.queue.cancel(b.task["key"])
        elif state is State.FAILED:
            manager.queue.fail(b.task["lease_id"], b.task["key"], Cause.ERROR, "no", retry=False)
        else:
            manager.queue.lose(b.task["lease_id"], b.task["key"])
            folder.configure([1], CONFIG)
            manager.rescan()
        assert states(manager)[1] == state.value
        assert b.stopped(1, 0.4)["type"] == "ack"
        assert states(manager)[1] == "pruned"
        assert [row["stopped_at"] for row in folder.rows()] == ["1"]


def test_datasets_are_compared_apart(folder: Folder) -> None:
    text = CONFIG.replace("max_iter: 9", "for_each: [width]")
    folder.configure([1, 2], text)
    with folder.serving() as manager, runner(manager, "a") as a, runner(manager, "b") as b:
        assert [a.verdict(1, 0.5), b.verdict(1, 0.1)] == ["go", "go"]
