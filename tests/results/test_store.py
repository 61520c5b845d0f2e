import errno
import os
from pathlib import Path

import msgspec
import pytest

from distexp.errors import ResultsUnwritable
from distexp.results.results_file import ResultsFile, Scan
from distexp.results.store import ResultsStore
from distexp.system import files, locks
from tests.live_manager import Folder
from tests.row_cases import a_row, a_task, tasks_of


class Seen:
    """What the looks at the files have brought."""

    def __init__(self) -> None:
        self.complete: list[str] = []

    def __call__(self, scan: Scan) -> None:
        self.complete += scan.complete


def test_an_append_that_fails_writes_nothing_and_works_later(tmp_path: Path) -> None:
    tasks, seen = tasks_of(5), Seen()
    rows = [a_row(task) for task in tasks]
    store = ResultsStore(tmp_path, seen)
    store.sync(tasks)
    store.path(tasks[0]).mkdir(parents=True)
    with pytest.raises(ResultsUnwritable):
        store.append(rows)
    assert seen.complete == []
    store.path(tasks[0]).rmdir()
    store.append(rows)
    assert sorted(seen.complete) == sorted(task.key for task in tasks)
    assert len(Folder(tmp_path).rows()) == 5


def test_a_row_of_a_task_that_left_the_sweep_is_found_when_asked_for(tmp_path: Path) -> None:
    stays, leaves = tasks_of(2)
    seen = Seen()
    store = ResultsStore(tmp_path, seen)
    store.sync([stays, leaves])
    store.sync([stays])
    Folder(tmp_path).add_rows("0,42", "1,42", header="width,seed")
    store.scan_all()
    assert seen.complete == [stays.key]
    store.scan(leaves)
    assert leaves.key in seen.complete


def test_rows_of_tasks_that_join_later_are_found(tmp_path: Path) -> None:
    first, second = tasks_of(2)
    seen = Seen()
    store = ResultsStore(tmp_path, seen)
    store.sync([first])
    Folder(tmp_path).add_rows("0,42", "1,42", header="width,seed")
    store.scan_all()
    store.sync([first, second])
    store.scan_all()
    assert set(seen.complete) == {first.key, second.key}


def test_the_bookmark_spares_a_writer_what_was_read(tmp_path: Path) -> None:
    task = a_task()
    store = ResultsStore(tmp_path, Seen())
    store.sync([task])
    assert store.bookmark(task) is None
    Folder(tmp_path).add_rows("9,42", header="width,seed")
    store.scan_all()
    bookmark = store.bookmark(task)
    assert bookmark is not None
    assert bookmark.offset == os.path.getsize(store.path(task))
    assert store.find([task]) == {}
    store.append([a_row(task, score=1)])
    found = store.find([task])[task.key]
    assert (found["width"], found["score"]) == ("1", "1")


def test_tasks_without_a_row_are_those_whose_files_hold_none_now(tmp_path: Path) -> None:
    here, there = a_task(), msgspec.structs.replace(a_task(43), output_dir="elsewhere")
    store = ResultsStore(tmp_path, Seen())
    store.sync([here, there])
    store.append([a_row(here)])
    store.append([a_row(there)])
    assert store.without_row([here, there]) == []
    store.path(there).unlink()
    assert store.without_row([here, there]) == [there.key]
    assert store.without_row([here]) == []


def test_a_file_that_cannot_be_read_tells_of_missing_rows_only_if_it_never_held_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "results_exp1" / "final_results.csv", tmp_path / "results_theirs"
    theirs.mkdir()
    (theirs / "final_results.csv").write_text("width,seed\n1,42\n")
    closed = {theirs / "final_results.csv"}

    def refuse(path: str | os.PathLike[str], flags: int) -> int:
        if Path(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return files.regular(path, flags)

    monkeypatch.setattr("distexp.results.reader.regular", refuse)
    tasks = tasks_of(2)
    store = ResultsStore(tmp_path, Seen())
    store.sync(tasks)
    store.append([a_row(tasks[0])])
    assert store.without_row(tasks) == [tasks[1].key]
    closed = set()
    assert store.without_row(tasks) == []
    for path in (ours, theirs / "final_results.csv"):
        closed = {path}
        with pytest.raises(ResultsUnwritable, match="cannot be read now"):
            store.without_row(tasks)


def test_rows_of_any_results_folder_count_and_the_file_is_named_once(tmp_path: Path) -> None:
    tasks = tasks_of(3)
    complete: list[str] = []
    notes: list[str] = []

    def on_scan(scan: Scan) -> None:
        complete.extend(scan.complete)
        notes.extend(scan.notes)

    store = ResultsStore(tmp_path, on_scan)
    store.sync(tasks)
    store.scan_all()
    for folder, width in (("results_by_hand", 0), (".", 1), ("elsewhere", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "final_results.csv").write_text(f"width,seed\n{width},42\n")
    for _ in range(2):
        store.scan_all()
    assert sorted(complete) == sorted(task.key for task in tasks[:2])
    assert notes == [
        f"{tmp_path}/final_results.csv completes 1 task, though no task writes there",
        f"{tmp_path}/results_by_hand/final_results.csv completes 1 task, though no task writes there",
    ]
    assert store.find(tasks).keys() == {task.key for task in tasks[:2]}
    assert store.without_row(tasks) == [tasks[2].key]


def test_a_task_with_rows_in_two_files_is_completed_by_the_first(tmp_path: Path) -> None:
    notes: list[str] = []
    store = ResultsStore(tmp_path, lambda scan: notes.extend(scan.notes))
    for folder, rows in ((".", "0,42\n"), ("results_copy", "0,42\n1,42\n")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "final_results.csv").write_text(f"width,seed\n{rows}")
    store.sync(tasks_of(3))
    store.scan_all()
    assert notes == [
        f"{tmp_path}/final_results.csv completes 1 task, though no task writes there",
        f"{tmp_path}/results_copy/final_results.csv completes 1 task, though no task writes there; "
        "another file holds a row of 1 of its tasks",
    ]


def test_only_the_first_row_waits_for_a_lock_that_another_program_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.results.store.LOCK_TIMEOUT_S", 0.02)
    store = ResultsStore(tmp_path, lambda scan: None)
    first, second = tasks_of(2)
    store.sync([first, second])
    store.path(first).parent.mkdir(exist_ok=True)
    with locks.acquire(f"{store.path(first)}.lock"):
        with pytest.raises(ResultsUnwritable, match=r"waited 0\.02 s"):
            store.append([a_row(first)])
        monkeypatch.setattr(ResultsFile, "append", None)
        with pytest.raises(ResultsUnwritable, match=r"waited 0\.02 s"):
            store.append([a_row(second)])
    monkeypatch.undo()
    store.append([a_row(second)])
    assert store.problems() == {}


def test_a_link_to_nowhere_stays_a_problem(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path, lambda scan: None)
    (task,) = tasks_of(1)
    store.sync([task])
    path = store.path(task)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "nowhere" / "x.csv")
    with pytest.raises(ResultsUnwritable):
        store.append([(task, {"phase": task.phase})])
    assert "cannot be written" in store.problems()[task.output_dir]
    (tmp_path / "nowhere").mkdir()
    assert store.problems() == {}


def test_a_row_is_gone_only_when_no_file_holds_one(tmp_path: Path) -> None:
    (task,) = tasks_of(1)
    vanished: list[str] = []
    store = ResultsStore(tmp_path, lambda scan: vanished.extend(scan.vanished))
    store.sync([task])
    for folder in ("results_exp1", "results_copy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "final_results.csv").write_text("width,seed\n0,42\n")
    store.scan_all()
    (tmp_path / "results_exp1" / "final_results.csv").unlink()
    store.scan_all()
    assert vanished == []
    (tmp_path / "results_copy" / "final_results.csv").unlink()
    store.scan_all()
    assert vanished == [task.key]


def test_a_file_that_cannot_be_used_is_a_problem_until_it_is_moved_away(tmp_path: Path) -> None:
    task = a_task()
    store = ResultsStore(tmp_path, lambda scan: None)
    store.sync([task])
    path = store.path(task)
    path.parent.mkdir()
    path.write_bytes("width,seed\n1,42\n".encode("utf-16"))
    store.scan_all()
    assert store.problems() == {"results_exp1": f"{path} is UTF-16 text; save it as UTF-8"}
    path.unlink()
    store.scan_all()
    assert store.problems() == {}
