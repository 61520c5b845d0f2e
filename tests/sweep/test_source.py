from pathlib import Path

import pytest

from distexp.errors import ConfigError
from distexp.sweep.source import Sweep
from tests.live_manager import Folder

PATTERN = "configs/config_exp*.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure([1, 2])
    return folder


def test_a_sweep_has_changed_when_a_file_came_went_or_was_edited(folder: Folder) -> None:
    sweep = Sweep(folder.root, PATTERN)
    assert sweep.has_changed()
    other = "exp2:\n  combinations:\n    - depth: {widths}\n"
    for change in (
        lambda: None,
        lambda: folder.configure([1, 2, 3]),
        lambda: folder.configure([1], other, "config_exp2.yaml"),
        (folder.root / "configs/config_exp2.yaml").unlink,
    ):
        change()
        sweep.load()
        assert not sweep.has_changed()
    folder.configure([1], other, "config_exp2.yaml")
    assert sweep.has_changed()
    assert [point.task.phase for point in sweep.load()] == ["exp1_vary_width"] * 3 + ["exp2"]


def test_files_that_do_not_match_are_nothing_to_a_sweep(folder: Folder) -> None:
    sweep = Sweep(folder.root, PATTERN)
    sweep.load()
    folder.configure([1], name="notes.yaml")
    assert not sweep.has_changed()


def test_a_broken_file_is_raised_once_until_it_changes_again(folder: Folder) -> None:
    sweep = Sweep(folder.root, PATTERN)
    folder.configure(7)
    with pytest.raises(ConfigError):
        sweep.load()
    assert not sweep.has_changed()


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_file_whose_name_looks_like_a_pattern_is_meant_as_it_stands(
    folder: Folder, is_absolute: bool
) -> None:
    name = "config[1].yaml"
    folder.configure([1, 2], name=name)
    sweep = Sweep(folder.root, str(folder.root / "configs" / name) if is_absolute else f"configs/{name}")
    assert len(sweep.load()) == 2
    folder.configure([1, 2, 3, 4], name=name)
    assert sweep.has_changed()
    assert len(sweep.load()) == 4


def test_no_file_at_all_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^configs/config_exp\*.yaml: there is no such config file"):
        Sweep(tmp_path, PATTERN).load()
