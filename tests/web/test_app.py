"""What the page's addresses answer, over real sockets, with and without a manager."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distexp.text import join_words, split_words
from distexp.web.app import parse_filter
from tests.live_manager import CONFIG, Folder, worker
from tests.live_page import Served, served_page
from tests.support import poll

FIRST = "exp1_vary_width_0_42"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 3, 4], CONFIG + "    - model: [mlp, cnn]\n")
    return folder


@pytest.fixture
def page(folder: Folder) -> Iterator[Served]:
    with served_page(folder.root) as page:
        page.log_in()
        yield page


def told(page: Served, path: str) -> Any:
    status, answer = page.ask(path)
    assert status == 200, answer
    return answer


def update(page: Served) -> dict[str, Any]:
    """The next thing that a browser is told."""
    connection = http.client.HTTPConnection(page.host, timeout=30)
    connection.request("GET", "/events", headers={"cookie": page.cookie})
    line = connection.getresponse().readline()
    connection.close()
    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return found


def view_at_rest(page: Served, is_new: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What a browser is told once the manager has ended, let go of the folder, and its files were read."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(update(page))
        return bool(found["problem"] and found["view"] and is_new(found["view"]))

    poll(is_there, "what the files say")
    view: dict[str, Any] = found["view"]
    return view


def test_tasks_are_filtered_by_state_phase_value_and_words_and_sorted(folder: Folder, page: Served) -> None:
    with folder.serving():
        page.ask("/action", "POST", {"type": "cancel", "tasks": [FIRST]})

        def ids(query: str) -> list[str]:
            reply, _ = told(page, f"/tasks?{query}")
            return [task["task_id"].split("_")[-2] for task in reply["tasks"]]

        assert ids("state=cancelled") == ids("filter=0_42") == ["0"]
        assert ids("filter=width%3D2") == ["2", "3"]
        assert ids("filter=width%3D2+model%3Dcnn") == ["3"]
        assert ids("sort=-width&offset=6") == ["0", "1"]
        assert ids("phase=exp9") == []


def test_a_filter_holds_values_as_in_yaml_and_words() -> None:
    assert parse_filter("lr=0.1 model=cnn a=b=c =x deep null=") == (
        {"lr": 0.1, "model": "cnn", "a": "b=c", "null": ""},
        ["=x", "deep"],
    )


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("""data="a b" lr=0.1""", {"data": "a b", "lr": 0.1}, []),
        ("""data='a "b"' "out of memory" ''""", {"data": 'a "b"'}, ["out of memory", ""]),
        ("""w='[1, 2]' d=["x","y"] t='"1"' n='1'""", {"w": [1, 2], "d": ["x", "y"], "t": "1", "n": 1}, []),
        ("""don't "data=a b" open="a b""", {"data": "a b", "open": '"a'}, ["don't", "b"]),
    ],
)
def test_quotes_hold_blanks_together_in_a_filter_as_in_a_shell(
    text: str, where: dict[str, Any], words: list[str]
) -> None:
    assert parse_filter(text) == (where, words)
    assert split_words(join_words(words)) == words


@pytest.mark.parametrize("value", ["[" * 5000, "[" * 5000 + "]" * 5000, "9" * 5000, "{", "NaN"])
def test_a_value_that_is_no_json_is_a_text(page: Served, value: str) -> None:
    assert (told(page, f"/tasks?filter=width%3D{value}"))[0]["tasks"] == []


def test_without_a_manager_the_files_answer_and_nothing_is_changed(folder: Folder, page: Served) -> None:
    folder.add_rows("1,mlp,42,0.5", header="width,model,seed,score")
    with folder.serving() as manager:
        manager.rescan()
    view_at_rest(page, lambda view: view["status"]["complete"] == 1)
    assert [task["state"] for task in told(page, "/tasks")[0]["tasks"]] == ["complete", *["pending"] * 7]
    assert update(page)["problem"].startswith("no manager answers")
    status, answer = page.ask("/action", "POST", {"type": "cancel", "tasks": [FIRST]})
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["error"].startswith("no manager answers")
    assert told(page, f"/task?task={FIRST}")["row"]["score"] == "0.5"


NO_VALUE = "5 different tasks failed and none succeeded (each: ValueError: no)"
CANNOT = "absent_module:run cannot be imported: ValueError: no"


@pytest.mark.parametrize(
    ("cause", "keeps_going", "held"),
    [("error", False, NO_VALUE), ("error", True, ""), ("import", False, CANNOT)],
)
def test_without_a_manager_the_journal_says_why_tasks_failed_and_phases_were_held(
    folder: Folder, page: Served, cause: str, keeps_going: bool, held: str
) -> None:
    with folder.serving(keep_going=keeps_going) as manager, worker(manager) as talk:
        for _ in range(5 if cause == "error" else 1):
            task = talk.say("request_task")
            about = {"lease_id": task["lease_id"], "key": task["key"], "cause": cause}
            talk.say("task_failed", **about, error="Traceback ...\nValueError: no")
        assert bool(manager.dispatcher.status().held_phases) == bool(held)
    view = view_at_rest(page, lambda view: bool(view["failures"]))
    assert [phase["held"] for phase in view["phases"]] == [held]
    why, count = ("error: ValueError: no", 5) if cause == "error" else (f"import: {CANNOT}", 1)
    found = [(each["why"], each["state"], each["count"]) for each in view["failures"]]
    assert found == [(why, "pending", count)]


def test_a_manager_that_starts_later_or_again_on_another_port_is_found(folder: Folder, page: Served) -> None:
    assert update(page)["problem"]
    ports = set()
    for _ in range(2):
        with folder.serving() as manager:
            ports.add(manager.port)
            poll(lambda: not update(page)["problem"], "the manager found")
        poll(lambda: bool(update(page)["problem"]), "its end seen")
    assert len(ports) == 2


def test_an_unknown_task_is_said_to_be_one(folder: Folder, page: Served) -> None:
    with folder.serving():
        status, answer = page.ask("/task?task=exp9_0_1")
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["error"].startswith("task 'exp9_0_1' is not in this sweep")


def test_a_log_is_read_from_its_end_then_as_it_grows(folder: Folder, page: Served) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
        log = folder.root / told(page, f"/task?task={FIRST}")["log_path"]
        log.parent.mkdir(parents=True)
        log.write_text("x" * 200_000 + "\nlast\n")
        piece = told(page, f"/log?task={task['task_id']}")
        assert len(piece["text"]) == 64 * 1024
        assert piece["text"].endswith("\nlast\n")
        with log.open("a") as file:
            file.write("more\n")
        assert told(page, f"/log?task={FIRST}&offset={piece['offset']}")["text"] == "more\n"


def steps_seen(page: Served) -> list[float]:
    update(page)
    return [at for at, _ in told(page, f"/curves?task={FIRST}")[FIRST].get("loss", [])]


def test_curves_are_read_from_the_run_folder_else_from_heartbeats(folder: Folder, page: Served) -> None:
    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
        about = {"lease_id": task["lease_id"], "key": task["key"]}
        for step in (1, 2):
            progress = {"step": step, "total": 9, "metrics": {"loss": 1 / step, "note": "text"}}
            talk.say("heartbeat", **about, progress=progress)
            poll(lambda: steps_seen(page) == list(range(1, step + 1)), f"step {step} seen")  # noqa: B023
        assert told(page, f"/curves?task={FIRST}") == {FIRST: {"loss": [[1, 1.0], [2, 0.5]]}}
        run = (folder.root / told(page, f"/task?task={FIRST}")["log_path"]).parent
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text(
            "attempt,step,total,elapsed_s,loss\n1,1,9,0.1,4\n2,1,9,0.1,3\n2,2,9,0.2,nan\n2,3,9,0.2,2.5\n2,4"
        )
        assert told(page, f"/curves?task={FIRST}") == {FIRST: {"loss": [[1, 3], [3, 2.5]]}}


STOPPING = """
metric: {name: val_acc, goal: maximize}
defaults: {output_dir: "./out/{width}", experiment: "absent_module:run"}
exp1_vary_width:
  early_terminate: {type: asha, max_iter: 9, for_each: [model]}
  combinations: [{width: [1, 2]}, {model: [mlp, cnn]}]
exp2_plain: {metric: {name: nll, goal: minimize}, combinations: [{width: [1, 2]}]}
"""


def test_searches_are_read_wherever_tasks_write_and_their_best_is_that_of_all_groups(
    folder: Folder, page: Served
) -> None:
    assert told(page, "/searches") == []
    (folder.root / "configs" / "config_exp1.yaml").write_text(STOPPING)
    columns = "phase,task_id,key,seed,rung,step,value,verdict,rank,of,kept,max_iter,at_utc,metric"
    for at, (width, value) in enumerate([(1, 0.93), (2, 0.33)]):  # each the best of its group
        (folder.root / "out" / str(width)).mkdir(parents=True)
        line = f"exp1_vary_width,exp1_vary_width_{at}_42,key{at},42,1,1,{value},go,1,1,1,9,,val_acc"
        (folder.root / "out" / str(width) / "rungs.csv").write_text(f"{columns}\n{line}\n")
    rung = {"rung": 1, "tasks": 2, "stopped": 0, "best": 0.93, "best_task": "exp1_vary_width_0_42"}
    assert told(page, "/searches") == [{"phase": "exp1_vary_width", "metric": "val_acc", "rungs": [rung]}]
    assert told(page, "/metrics") == {"exp1_vary_width": "val_acc", "exp2_plain": "nll"}
    (folder.root / "configs" / "config_exp1.yaml").write_text("exp1: {combinations: 3}\n")
    assert told(page, "/metrics") == {"exp1_vary_width": "val_acc", "exp2_plain": "nll"}, "those that were"


def test_at_rest_rows_of_any_folder_and_configs_of_any_name_are_seen_to_change(
    folder: Folder, page: Served
) -> None:
    (folder.root / "configs" / "config_exp1.yaml").unlink()
    text = STOPPING.partition("exp2")[0]
    folder.configure([], text.replace("{", "{{").replace("}", "}}"), name="../sweeps/mine.yml")
    (folder.root / "out").mkdir()
    folder.add_rows("1,mlp,42,0.5", "1,cnn,42,0.5", header="width,model,seed,val_acc", place="out/1")

    def counts() -> list[int]:
        return [told(page, f"/tasks?state={state}")[0]["total"] for state in ("complete", "")]

    with folder.serving(configs="sweeps/*.yml") as manager:
        manager.rescan()
    view_at_rest(page, lambda view: view["status"]["complete"] == 2)
    rows = folder.root / "out" / "1" / "final_results.csv"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    assert counts() == [1, 4]
    config = folder.root / "sweeps" / "mine.yml"
    config.write_text(config.read_text().replace("[1, 2]", "[1, 2, 3]"))
    assert counts() == [1, 6]


def test_a_report_is_made_of_the_rows_when_asked_for(folder: Folder, page: Served) -> None:
    pytest.importorskip("pandas")
    folder.add_rows("1,mlp,42,0.5", header="width,model,seed,score")
    assert page.ask("/report", "POST") == (200, {"error": ""})
    assert "exp1_vary_width" in told(page, "/report")
    (folder.root / "configs" / "config_exp1.yaml").write_text("exp1: {combinations: 3}\n")
    _, answer = page.ask("/report", "POST")
    assert isinstance(answer, dict)
    assert "config_exp1.yaml" in answer["error"]
