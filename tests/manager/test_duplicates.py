from pathlib import Path

import pytest

from distexp.manager.manager import ExperimentManager
from tests.live_manager import CONFIG, Folder, worker


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def counts(manager: ExperimentManager) -> dict[str, int]:
    return {state.value: number for state, number in manager.queue.counts().items() if number}


def test_a_duplicate_gets_one_copy_of_the_row_also_after_a_restart(folder: Folder) -> None:
    duplicate = "exp1_again:\n  combinations:\n    - width: {widths}\n"
    folder.configure([1, 2], CONFIG + duplicate)
    with folder.serving() as manager, worker(manager, instance="") as talk:
        tasks = [talk.say("request_task") for _ in range(2)]
        assert talk.say("request_task")["reason"] == "wait"  # the duplicates wait for them
        for task in tasks:
            talk.say("task_complete", key=task["key"], result={"score": 7})
        manager.rescan()
        manager.rescan()
        assert counts(manager) == {"complete": 4}
        assert f"Task exp1_again_0_42 completed by a copy of {tasks[0]['task_id']}" in folder.log()
    with folder.serving() as manager:
        assert counts(manager) == {"complete": 4}
    assert sorted((row["phase"], row["width"], row["score"]) for row in folder.rows()) == [
        *[("exp1_again", "1", "7"), ("exp1_again", "2", "7")],
        *[("exp1_vary_width", "1", "7"), ("exp1_vary_width", "2", "7")],
    ]


def test_a_folder_that_refuses_copies_keeps_no_other_duplicate_waiting(folder: Folder) -> None:
    duplicate = (
        '  defaults: {{output_dir: "./results_{{{{width}}}}"}}\n  combinations:\n    - width: {widths}\n'
    )
    folder.configure([1, 2], CONFIG + "exp1_again:\n" + duplicate.replace("{{{{width}}}}", "{{width}}"))
    refusing = folder.root / "results_1" / "final_results.csv"
    refusing.mkdir(parents=True)
    folder.add_rows("exp1_vary_width,1,42", "exp1_vary_width,2,42", header="phase,width,seed")
    with folder.serving() as manager:
        assert counts(manager) == {"pending": 1, "complete": 3}
        refusing.rmdir()
        manager.rescan()
        assert counts(manager) == {"complete": 4}
