"""A working folder that version 0.1.0 left in mid-sweep: configs, rows, journal, spool and token go on."""

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from distexp.queue.task_queue import TaskQueue
from distexp.sweep.source import Sweep
from tests.live_manager import Folder
from tests.live_worker import worker_process
from tests.support import poll

RECORDED = Path(__file__).parent / "recorded"
PROJECT = Path(__file__).parent.parent
CONFIGS = "configs/config_exp*.yaml"


@pytest.fixture
def recorded(tmp_path: Path) -> Folder:
    with tarfile.open(RECORDED / "folder_0_1_0.tar.gz") as tar:
        tar.extractall(tmp_path, filter="tar")
    return Folder(tmp_path / "folder_0_1_0")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RECORDED / "folder_0_1_0.json").read_text(encoding="utf-8"))
    return loaded


def states_of(queue: TaskQueue) -> dict[str, str]:
    return {entry.key: entry.state.value for entry in queue.entries()}


def all_rows(folder: Folder) -> list[dict[str, str]]:
    rows = []
    for path in folder.root.glob("results_*/final_results.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    return rows


def test_every_key_is_what_it_was(recorded: Folder, facts: dict[str, Any]) -> None:
    tasks = Sweep(recorded.root, CONFIGS).load()
    assert {task.task_id: task.key for task in tasks} == facts["keys"]


def test_the_keys_of_the_shipped_sweeps_are_what_they_were(facts: dict[str, Any]) -> None:
    tasks = Sweep(PROJECT, CONFIGS).load()
    text = "\n".join(f"{task.task_id} {task.key}" for task in tasks)
    assert len(tasks) == facts["shipped_tasks"]
    assert hashlib.sha256(text.encode()).hexdigest() == facts["shipped_keys"]


def test_a_manager_takes_over_states_attempts_leases_and_secret(
    recorded: Folder, facts: dict[str, Any]
) -> None:
    with recorded.serving() as manager:
        assert states_of(manager.queue) == facts["states"]
        for key, (attempts, failures, losses) in facts["attempts"].items():
            entry = manager.queue.entry(key)
            if entry.state != "complete":  # of those the row is all that matters
                assert (entry.attempts, entry.failures, entry.losses) == (attempts, failures, losses)
        assert manager.journal.sweep_id == facts["sweep_id"]
        assert recorded.token == facts["secret"]


def test_the_sweep_goes_on_to_its_end_and_hands_the_spooled_result_over(
    recorded: Folder, facts: dict[str, Any]
) -> None:
    left_alone = {facts["failed"], facts["cancelled"], facts["held"]}
    before = {path: path.read_bytes() for path in recorded.root.glob("results_*/*.csv")}
    with recorded.serving() as manager, worker_process(recorded.root, "127.0.0.1", manager.port) as process:

        def is_over() -> bool:
            manager.rescan()
            found = states_of(manager.queue)
            return all(state == "complete" for key, state in found.items() if key not in left_alone)

        poll(is_over, f"all but three tasks complete: {process.output()}", 60.0)
        spooled = manager.queue.entry(facts["spooled"])
        assert spooled.attempts == facts["attempts"][facts["spooled"]][0]
    assert list((recorded.root / ".experiment_spool").glob("*.result")) == []
    rows = all_rows(recorded)
    ids = [row["task_id"] for row in rows if row["task_id"]]
    assert len(ids) == len(set(ids))
    assert [row["said"] for row in rows if row["task_id"] == spooled.task.task_id] == ["spooled"]
    for path, content in before.items():
        old = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns, *now = csv.reader(file)
        places = [columns.index(column) for column in next(old)]  # a new column is empty in the old lines
        for was, row in zip(old, now, strict=False):
            assert [row[at] for at in places[: len(was)]] == was
