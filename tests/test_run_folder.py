"""A run folder exists once there is something in it, and then says how it was made."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from distexp import run_folder
from distexp.run_folder import HALF_PARAMETERS_FILE, PARAMETERS_FILE, RunFolder, header, key_in
from distexp.task import Task, make_task

HEAD = "# head\n"


def a_task(command: str | None = None) -> Task:
    return make_task(
        task_id="exp1_0_42",
        phase="exp1",
        config={"model": {"width": 4, "depth": 2}, "model.width": 8},
        seed=42,
        output_dir="results_a",
        axes=("model.width",),
        experiment="my_experiment:run",
        command=command,
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "results_a").mkdir()
    return the_folder(tmp_path)


def the_folder(root: Path, command: str | None = None) -> RunFolder:
    task = a_task(command)
    return RunFolder.of(root / run_folder.run_folder("results_a", "exp1", 42, task.key), task)


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_task_that_leaves_nothing_has_no_folder(tmp_path: Path, folder: RunFolder) -> None:
    log, start = folder.begin_log(HEAD)
    assert not folder.end_log(log, start)
    assert names_below(tmp_path) == ["results_a"]


def test_what_a_program_prints_past_python_makes_the_folder_at_the_end(folder: RunFolder) -> None:
    log, start = folder.begin_log(HEAD)
    with open(log, "a", encoding="utf-8") as file:
        file.write("written by C\n")
    assert folder.end_log(log, start)
    assert folder.log.read_text() == HEAD + "written by C\n"
    assert json.loads((folder.path / "params.json").read_text()) == {
        "model": {"width": 8, "depth": 2},
        "seed": 42,
    }


@pytest.mark.skipif(not run_folder.MOVES_OPEN_FILES, reason="open files cannot be moved here")
def test_an_open_log_goes_along_when_the_folder_is_made(folder: RunFolder) -> None:
    log, start = folder.begin_log(HEAD)
    with open(log, "a", encoding="utf-8") as file:
        folder.open()
        folder.open()
        file.write("later\n")
    assert folder.end_log(log, start)
    assert folder.log.read_text() == HEAD + "later\n"
    assert not log.exists()


def test_a_failure_leaves_a_folder_though_nothing_was_printed(folder: RunFolder) -> None:
    log, start = folder.begin_log(HEAD)
    assert folder.end_log(log, start, keeps=True)
    assert names_below(folder.path) == ["log.txt", "params.json"]


def test_later_attempts_stand_below_earlier_ones(tmp_path: Path, folder: RunFolder) -> None:
    folder.end_log(*folder.begin_log("# first\n"), keeps=True)
    log, start = the_folder(tmp_path).begin_log("# second\n")
    assert (log, start) == (folder.log, len("# first\n# second\n"))


def test_an_attempt_that_was_killed_while_silent_is_told_by_the_next(
    tmp_path: Path, folder: RunFolder
) -> None:
    folder.begin_log("# killed\n")
    log, _ = the_folder(tmp_path).begin_log("# second\n")
    assert log.read_text() == "# killed\n# second\n"
    assert log == folder.log


def test_so_it_is_though_another_task_has_made_the_folder_of_runs_meanwhile(
    tmp_path: Path, folder: RunFolder
) -> None:
    folder.begin_log("# killed\n")
    folder.path.parent.mkdir()
    again = the_folder(tmp_path)
    log, start = again.begin_log("# second\n")
    assert again.end_log(log, start, keeps=True)
    assert folder.log.read_text() == "# killed\n# second\n"
    assert [name for name in names_below(tmp_path) if name.endswith(f"{again.task.key}.log")] == []


def test_half_a_file_that_a_kill_has_left_goes_with_the_next_attempt(folder: RunFolder) -> None:
    folder.open()
    half = folder.path / HALF_PARAMETERS_FILE
    half.write_text('{"width": ')
    folder.open()
    assert not half.exists()
    assert json.loads((folder.path / PARAMETERS_FILE).read_text(encoding="utf-8"))


def test_a_command_has_its_folder_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "results_a").mkdir()
    folder = the_folder(tmp_path, command="python train.py")
    folder.begin_log(HEAD)
    assert names_below(folder.path) == ["log.txt", "params.json"]


def test_where_open_files_cannot_be_moved_the_bare_folder_goes_at_the_end(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "MOVES_OPEN_FILES", False)
    log, start = folder.begin_log(HEAD)
    assert log == folder.log
    assert not folder.end_log(log, start)
    log, start = folder.begin_log(HEAD)
    (folder.path / "model.pt").touch()
    assert folder.end_log(log, start)
    assert names_below(folder.path) == ["log.txt", "model.pt", "params.json"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_runs_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "results_a").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "results_a" / "runs").symlink_to(tmp_path / "scratch")
    log, _ = the_folder(tmp_path).begin_log(HEAD)
    assert log.parent.resolve() == (tmp_path / "scratch").resolve()


def test_a_header_says_who_ran_what_with_which_parameters() -> None:
    now = datetime(2026, 11, 24, 7, 33, 4, tzinfo=UTC)
    assert header(a_task(), 2, "gpu0 of ada", now).splitlines() == [
        "# exp1_0_42, attempt 2, on gpu0 of ada, 2026-11-24 07:33:04 UTC",
        '# parameters: {"model": {"width": 4, "depth": 2}, "model.width": 8, "seed": 42}',
        "# runs my_experiment:run",
    ]


def test_the_name_of_a_folder_ends_with_the_key(folder: RunFolder) -> None:
    assert key_in(folder.path) == a_task().key


@pytest.mark.parametrize("phase", ["long_" * 40, "\u00e4\u8a9e" * 40])
def test_the_folder_of_a_long_phase_leaves_room_in_a_path_of_windows(phase: str) -> None:
    name = run_folder.run_folder("results_a", phase, 42, "e0ce42851637c62d1a5e").name
    assert name == f"{phase[:80]}_42_e0ce42851637c62d1a5e"
    assert len(name) < 110
