"""Adaptive searches of a real manager: what is suggested, when, and after what."""

import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from distexp.manager.manager import ExperimentManager
from distexp.queue.journal import Journal
from distexp.queue.records import SuggestionRecord
from distexp.results.store import ResultsStore
from distexp.sweep.grid import GridPoint
from distexp.task import State
from tests.live_manager import Folder, RawClient, worker
from tests.support import ENVIRONMENT, poll

CONFIG = """
defaults: {{output_dir: "./results_exp1", experiment: "absent_module:run"}}
metric: {{name: loss, goal: minimize}}
p:
  search: {widths}
  combinations:
    - lr: {{distribution: log_uniform_values, min: 1e-4, max: 1}}
    - width: [1, 2, 4, 8]
"""
DISCRETE = CONFIG[: CONFIG.index("    - lr")] + "    - a: {{range: [10]}}\n    - b: {{range: [10]}}\n"
# Waits to be killed once as many rows are there as the file `until` says.
MODEL = """
import time
from pathlib import Path
def run(params, context):
    until, rows = Path("until"), Path("results_exp1/final_results.csv")
    while until.exists() and rows.exists() and len(rows.read_text().splitlines()) > int(until.read_text()):
        time.sleep(0.01)
    return {"loss": abs(params["lr"] - 0.01) + abs(params["width"] - 4)}
"""
Reply = dict[str, Any]


def samples(number: int) -> str:
    return f"{{method: tpe, samples: {number}, seed: 3}}"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure(samples(30), CONFIG)
    return folder


class Runner:
    """A worker on another machine, which waits at the manager for its tasks."""

    def __init__(self, talk: RawClient) -> None:
        self._talk = talk

    def take(self) -> Reply:
        while (reply := self._talk.say("request_task", wait_s=20.0)).get("reason") == "wait":
            pass
        return reply

    def finish(self, task: Reply, result: object = None) -> None:
        about = {"lease_id": task["lease_id"], "key": task["key"], "result": result or loss_of(task)}
        assert self._talk.say("task_complete", **about)["type"] == "ack"

    def finish_all(self) -> list[Reply]:
        """Run what is left, and return it."""
        tasks = []
        while (task := self.take())["type"] == "task":
            self.finish(task)
            tasks.append(task)
        return tasks

    def fail(self, task: Reply) -> None:
        about = {"lease_id": task["lease_id"], "key": task["key"], "task_id": task["task_id"]}
        self._talk.say("task_failed", **about, error="it broke", cause="error")


def loss_of(task: Reply) -> Reply:
    config = task["config"]
    if "lr" not in config:
        return {"loss": abs(config["a"] - 3) + abs(config["b"] - 5)}
    return {"loss": abs(config["lr"] - 0.01) + abs(config["width"] - 4) + task["seed"] % 7}


@contextmanager
def runner(manager: ExperimentManager, name: str = "w0") -> Iterator[Runner]:
    with worker(manager, name, shares=False) as talk:
        yield Runner(talk)


def work(folder: Folder, stop_after: int = 10**9, **settings: Any) -> list[Reply]:
    """Run a manager with one worker, which dies with it in the middle of a task; return its tasks."""
    taken = []
    with folder.serving(**settings) as manager, runner(manager) as one:
        while (task := one.take())["type"] == "task":
            taken.append(task)
            if len(taken) > stop_after:
                break
            one.finish(task)
    return taken


def configs(folder: Folder) -> list[tuple[str, ...]]:
    """What was tried, by number."""
    rows = {int(row["task_id"].split("_")[1]): row for row in folder.rows()}
    names = [name for name in ("lr", "width", "a", "b") if name in rows[0]]
    return [tuple(rows[number][name] for name in names) for number in sorted(rows)]


def test_all_samples_are_run_and_the_search_learns(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "optuna", raising=False)  # other tests may have used it here
    taken = work(folder)
    assert [task["task_id"] for task in taken] == [f"p_{number}_42" for number in range(30)]
    assert "Generated 30 total tasks" in folder.log()
    widths = [task["config"]["width"] for task in taken]
    assert widths[20:].count(4) > 5
    assert "optuna" not in sys.modules


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_suggests_what_an_undisturbed_one_does(
    folder: Folder, tmp_path: Path
) -> None:
    other = Folder(tmp_path / "other")
    other.configure(samples(30), CONFIG)
    work(other)
    for _ in range(5):
        work(folder, stop_after=4)
    work(folder)
    assert configs(folder) == configs(other)
    assert len(folder.rows()) == 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_worker_that_is_killed_with_its_manager_ten_times_runs_what_an_undisturbed_one_does(
    folder: Folder, tmp_path: Path
) -> None:
    other = Folder(tmp_path / "other")
    for each in (folder, other):
        each.configure(samples(30), CONFIG.replace("absent_module", "model"))
        (each.root / "model.py").write_text(MODEL, encoding="utf-8")
    run(other)
    for kills in range(10):
        run(folder, until=2 * kills + 2)
    run(folder)
    assert configs(folder) == configs(other)
    assert len(folder.rows()) == 30


def run(folder: Folder, until: int | None = None) -> None:
    """`distexp run` with one worker, to its end, or killed with all that it started after so many rows."""
    words = [sys.executable, "-m", "distexp", "run", "--workers", "1", "--plain", "--port", "0"]
    (folder.root / "until").write_text(str(until or 10**9))
    with open(folder.root / "run.log", "ab") as log:
        process = subprocess.Popen(words, cwd=folder.root, stdout=log, stderr=log, env=ENVIRONMENT)
    if until is not None:
        poll(lambda: folder.csv.exists() and len(folder.rows()) >= until, f"{until} rows", 60)
        process.send_signal(signal.SIGSTOP)  # else it might see its children die, and end by itself
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.Error):
                each.kill()
    assert process.wait(120) == (0 if until is None else -signal.SIGKILL)


def test_without_its_journal_it_goes_on_from_the_rows(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    other.configure(samples(30), CONFIG)
    work(other)
    work(folder, stop_after=15)
    shutil.rmtree(folder.root / ".experiment_manager")
    work(folder)
    assert configs(folder) == configs(other)


@pytest.mark.slow
def test_sixteen_that_ask_at_once_get_no_configuration_twice(folder: Folder) -> None:
    folder.configure(samples(100), DISCRETE)
    with folder.serving() as manager, ExitStack() as stack:
        runners = [stack.enter_context(runner(manager, f"w{number}")) for number in range(16)]

        with ThreadPoolExecutor(16) as pool:
            keys = [task["key"] for tasks in pool.map(Runner.finish_all, runners) for task in tasks]
    assert len(keys) == len({*keys}) == 100
    assert len({*configs(folder)}) == 100


def test_a_space_that_is_exhausted_ends_the_search_with_a_count(folder: Folder) -> None:
    text = DISCRETE + "  exclude: [{{a: [0, 1, 2, 3, 4, 5, 6, 7, 8]}}]\n"
    folder.configure(samples(40), text)
    assert len(work(folder, exit_when_done=True)) == 10
    assert "Phase p has 10 configurations, though `samples` asks for 40" in folder.log()


def test_numbers_that_are_few_end_the_search_once_no_other_is_found(folder: Folder) -> None:
    quarters = "    - x: {{distribution: q_uniform, min: 0, max: 1, q: 0.25}}\n"
    folder.configure(samples(9), CONFIG[: CONFIG.index("    - lr")] + quarters)
    with folder.serving() as manager, runner(manager) as one:
        count = 0
        while (task := one.take())["type"] == "task":
            one.finish(task, {"loss": task["config"]["x"]})
            count += 1
        assert (count, manager.queue.counts()[State.PENDING]) == (5, 0)
    assert (
        "Phase p ends with 5 configurations: no other was found, though `samples` asks for 9" in folder.log()
    )


def test_more_samples_go_on_with_what_is_there(folder: Folder) -> None:
    folder.configure(samples(12), CONFIG)
    work(folder)
    folder.configure(samples(20), CONFIG)
    taken = work(folder)
    assert [task["task_id"] for task in taken] == [f"p_{number}_42" for number in range(12, 20)]


def test_an_edit_while_it_runs_brings_more_samples_or_fewer(folder: Folder) -> None:
    folder.configure(samples(2), CONFIG)
    with folder.serving() as manager, runner(manager) as one:
        for _ in range(2):
            one.finish(one.take())
        assert one.take()["reason"] == "done"
        folder.configure(samples(3), CONFIG)
        manager.rescan()
        task = one.take()
        assert task["task_id"] == "p_2_42"
        folder.configure(samples(1), CONFIG)
        manager.rescan()
        one.finish(task)
        assert one.take()["reason"] == "done"
        assert manager.dispatcher.status().total == 3


def test_what_an_edit_took_out_may_be_chosen_again(folder: Folder) -> None:
    narrow = DISCRETE.replace("{{range: [10]}}\n    - b", "[1]\n    - b").replace("[10]", "[2]")
    folder.configure(samples(2), narrow)
    with folder.serving() as manager, runner(manager) as one:
        task = one.take()
        folder.configure(samples(2), narrow.replace("[1]", "[2]"))
        manager.rescan()
        folder.configure(samples(2), narrow)
        manager.rescan()
        one.finish(task)
        keys = [task["key"], *(each["key"] for each in one.finish_all())]
    assert len(keys) == len({*keys}) == len(folder.rows()) == 2


def test_an_edited_space_keeps_the_rows_inside_it(folder: Folder) -> None:
    folder.configure(samples(20), CONFIG)
    work(folder)
    narrower = CONFIG.replace("[1, 2, 4, 8]", "[4, 8]")
    inside = sum(row["width"] in ("4", "8") for row in folder.rows())
    folder.configure(samples(20), narrower)
    assert len(work(folder)) == 20 - inside
    assert f"Marked {inside} tasks as already completed" in folder.log()


def test_an_axis_of_one_value_and_conditions_find_their_rows_again(folder: Folder) -> None:
    text = CONFIG + "    - kind: [a]\n    - when: {{width: [4, 8]}}\n      depth: {{min: 1, max: 3}}\n"
    folder.configure(samples(8), text)
    assert len(work(folder)) == 8
    folder.configure(samples(10), text)
    assert len(work(folder)) == 2
    assert len(folder.rows()) == 10


def test_rows_of_another_program_are_its_history(folder: Folder) -> None:
    rows = [f"{10 ** -(number / 10):.4g},{2 ** (number % 4)},42,0.5" for number in range(20)]
    folder.add_rows(*rows, "7,4,42,0.5", "0.1,3,42,0.5", header="lr,width,seed,loss")
    taken = work(folder)
    assert [task["task_id"] for task in taken] == [f"p_{number}_42" for number in range(20, 30)]
    assert "Marked 20 tasks as already completed" in folder.log()


def test_each_seed_is_a_task_and_all_of_them_make_a_result(folder: Folder) -> None:
    folder.configure(samples(3), CONFIG.replace("metric:", "seeds: [1, 2]\nmetric:"))
    with folder.serving() as manager, runner(manager) as one, runner(manager, "w1") as other:
        assert manager.dispatcher.status().total == 6
        first, second = one.take(), other.take()
        assert first["config"] == second["config"]
        assert (first["seed"], second["seed"]) == (1, 2)
        one.finish(first)
        third = one.take()
        assert third["config"] != first["config"]
        assert not manager.queue.is_over()
        other.finish(second)


def test_one_that_failed_counts_and_the_search_goes_on(folder: Folder) -> None:
    folder.configure(samples(14), CONFIG)
    with folder.serving(keep_going=True) as manager, runner(manager) as one:
        while (task := one.take())["type"] == "task":
            number = int(task["task_id"].split("_")[1])
            if number % 4 == 1:
                one.fail(task)
            else:
                one.finish(task, {"loss": "none"} if number % 4 == 2 else None)
        told = [
            line for line in folder.log() if line.startswith("The search learns nothing from task p_2_42")
        ]
        assert told == ["The search learns nothing from task p_2_42: its row holds no number `loss`"]
        counts = manager.queue.counts()
        assert (counts[State.FAILED], counts[State.COMPLETE]) == (4, 10)


def test_one_that_runs_again_counts_as_it_ends_at_last(folder: Folder, tmp_path: Path) -> None:
    with folder.serving() as manager, runner(manager) as one, runner(manager, "w1") as another:
        tasks = [one.take()]
        with RawClient(manager.port, token=folder.token) as user:
            for number in range(15):
                if number == 3:
                    user.say("cancel", tasks=["p_3_42"])
                else:
                    one.finish(tasks[number])
                if number == 13:
                    user.say("requeue", tasks=["p_3_42"])
                    another.finish(another.take(), {"loss": -100})
                tasks.append(one.take())
    other = Folder(tmp_path / "other")
    other.configure(samples(30), CONFIG)
    shutil.copytree(folder.csv.parent, other.csv.parent)
    with other.serving() as manager, runner(manager) as one:
        assert one.take()["key"] == tasks[15]["key"]


def test_a_sampler_that_dies_again_and_again_leaves_the_choice_to_chance(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.manager.searches.PAUSE_S", 0.01)
    monkeypatch.setattr("distexp.search.sampler_process.SAMPLER", ["-c", "raise SystemExit('no such thing')"])
    folder.configure(samples(3), CONFIG)
    assert len(work(folder)) == 3
    log = folder.log()
    assert "Phase p: configuration 0 is drawn at random" in log
    assert any("the process that asks Optuna has ended: no such thing" in line for line in log)


def test_a_waiting_worker_is_served_when_a_suggestion_comes(folder: Folder) -> None:
    with folder.serving() as manager, ExitStack() as stack:
        runners: Sequence[Runner] = [stack.enter_context(runner(manager, f"w{at}")) for at in range(4)]
        with ThreadPoolExecutor(4) as pool:
            tasks = list(pool.map(Runner.take, runners))
        assert len({task["key"] for task in tasks}) == 4
        poll(lambda: len(manager.queue.entries()) == 5, "one suggestion ahead")


def config_of(task: Reply) -> tuple[int, int]:
    return task["config"]["a"], task["config"]["b"]


FOUR = DISCRETE.replace("[10]", "[2]")  # of configurations


@pytest.mark.parametrize("is_scanned", [True, False])
@pytest.mark.parametrize("place", ["results_exp1", "results_other", "."])
@pytest.mark.parametrize("header", ["a,b,loss", "phase,a,b,seed,stopped_at,loss"])
def test_rows_that_another_program_writes_meanwhile_join_the_history(
    folder: Folder, place: str, header: str, *, is_scanned: bool
) -> None:
    text = FOUR.replace("p:\n", "early_terminate: {{type: asha}}\np:\n")
    folder.configure(samples(4), text)
    with folder.serving() as manager, runner(manager) as one:
        first = one.take()
        poll(lambda: len(manager.queue.entries()) == 2, "one suggestion ahead")
        ahead = manager.queue.entries()[1].task.config
        left = [each for each in itertools.product(range(2), range(2)) if each != config_of(first)]
        a, b = next(each for each in left if each != (ahead["a"], ahead["b"]))
        row = f"p,{a},{b},42,1.0,7" if "phase" in header else f"{a},{b},7"
        folder.add_rows("p,9,9,42,,1" if "phase" in header else "9,9,1", row, header=header, place=place)
        if is_scanned:
            manager.rescan()
        elif place != "results_exp1":
            manager.store.scan_all()
        one.finish(first)
        taken = [first, *one.finish_all()]
        assert len({config_of(task) for task in taken}) == len(taken) == 3
        assert (a, b) not in {config_of(task) for task in taken}
        assert taken[1]["task_id"] == "p_1_42"
        counts = manager.queue.counts()
        assert (counts[State.COMPLETE], counts[State.PRUNED]) == ((3, 1) if "phase" in header else (4, 0))
    rows = folder.rows("results_exp1") + (folder.rows(place) if place != "results_exp1" else [])
    assert len(rows) == 5
    assert "Phase p takes up 1 configuration that another program has run" in folder.log()
    with folder.serving() as manager:
        assert manager.queue.is_over()


def test_a_row_that_is_read_just_before_its_configuration_joins_completes_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = ResultsStore.grow

    def read_before(store: ResultsStore, tasks: Sequence[GridPoint]) -> None:
        if tasks[0].task_id == "p_1_42":
            config = tasks[0].task.config
            folder.add_rows(f"{config['a']},{config['b']},7", header="a,b,loss", place="results_other")
            store.scan_all()
        join(store, tasks)

    monkeypatch.setattr(ResultsStore, "grow", read_before)
    folder.configure(samples(3), FOUR)
    assert [task["task_id"] for task in work(folder)] == ["p_0_42", "p_2_42"]
    assert len(folder.rows()) == 2


def test_a_row_of_one_seed_brings_the_others_as_tasks(folder: Folder) -> None:
    folder.configure(samples(3), FOUR.replace("metric:", "seeds: [1, 2, 3]\nmetric:"))
    with folder.serving() as manager, runner(manager) as one:
        for _ in range(3):
            one.finish(one.take())
        poll(lambda: len(manager.queue.entries()) == 6, "one suggestion ahead")
        known = {(config["a"], config["b"]) for config in (e.task.config for e in manager.queue.entries())}
        a, b = next(each for each in itertools.product(range(2), range(2)) if each not in known)
        folder.add_rows(f"{a},{b},2,5", header="a,b,seed,loss", place="results_other")
        manager.rescan()
        others = {(*config_of(task), task["seed"]) for task in one.finish_all()}
        assert {each for each in others if each[:2] == (a, b)} == {(a, b, 1), (a, b, 3)}
        assert len(others) == 5
        folder.add_rows("1,1,2,5", "1,0,2,5", "0,1,2,5", "0,0,2,5", place="results_other")
        manager.rescan()
        assert manager.queue.is_over()


def test_a_search_without_a_task_yet_knows_the_columns_of_a_file_that_is_there(folder: Folder) -> None:
    folder.configure(samples(4), FOUR)
    folder.add_rows("10,1,42,7", header="a,b,seed,loss")
    with folder.serving() as manager:
        manager.rescan()
        assert manager.dispatcher.status().problems == 0, "its tasks would wait for ever"
        with runner(manager) as one:
            for _ in range(4):
                one.finish(one.take())
    assert len(folder.rows()) == 5
    assert next(line for line in folder.log() if "not count" in line).endswith(
        "1 row does not count: a is '10', which no task of p has so far"
    )


def test_rows_outside_the_space_change_nothing(folder: Folder) -> None:
    folder.configure(samples(4), FOUR)
    with folder.serving() as manager, runner(manager) as one:
        first = one.take()
        folder.add_rows("5,1,42,7", "0,x,42,7", "0,1,7,7", header="a,b,seed,loss", place="results_other")
        manager.rescan()
        one.finish(first)
        one.finish_all()
        assert manager.dispatcher.status().total == manager.queue.counts()[State.COMPLETE] == 4
    assert not [line for line in folder.log() if "takes up" in line]


GRID = "q:\n  combinations:\n    - a: [0, 1]\n    - b: [0, 1]\n"
SECOND = "q:\n  search: {widths}\n  combinations:\n    - a: {{range: [2]}}\n    - b: {{range: [2]}}\n"


TAGGED = GRID.replace("q:\n", "q:\n  tags: [note]\n  defaults: {{note: x}}\n")


@pytest.mark.parametrize(
    "text", [FOUR + GRID, FOUR.replace("p:\n", GRID + "p:\n"), FOUR + TAGGED, FOUR + SECOND]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_work_that_another_phase_has_done_or_does_runs_once(folder: Folder, text: str, workers: int) -> None:
    folder.configure(samples(4), text)
    with folder.serving() as manager, ExitStack() as stack:
        talks = [stack.enter_context(worker(manager, f"w{at}", shares=False)) for at in range(workers)]
        done = list[tuple[int, int]]()
        while not manager.queue.is_over():
            tasks = [(talk, talk.say("request_task")) for talk in talks]
            for talk, task in tasks:
                if task["type"] == "task":
                    done.append(config_of(task))
                    Runner(talk).finish(task)
            manager.rescan()
        assert sorted(done) == sorted(itertools.product(range(2), range(2)))
    assert len(folder.rows()) == 8


def test_choices_of_phases_that_are_gone_do_not_pile_up(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.configure(samples(4), FOUR)
    work(folder, stop_after=3)
    folder.configure(samples(4), FOUR.replace("p:\n", "r:\n"))
    for most, left in ((4, 4), (3, 0)):
        monkeypatch.setattr("distexp.manager.searches.MAX_GONE", most)
        with folder.serving() as manager:
            pass
        with closing(Journal(manager.workdir.journal)) as journal:
            known = journal.load(SuggestionRecord)
        assert sum(each.phase == "p" for each in known) == left
