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


COMMON = "defaults: {lr: 0.1, epochs: 3, output_dir: results}\nseeds: [7, 8]\n"
INCLUDES = "include: [../common.yaml]\ndefaults: {epochs: 5}\np: {combinations: [{a: [1]}]}\n"


def test_a_file_takes_defaults_and_seeds_from_another_and_an_edit_there_is_an_edit(tmp_path: Path) -> None:
    common, config = tmp_path / "common.yaml", tmp_path / "configs" / "config_exp1.yaml"
    config.parent.mkdir()
    common.write_text(COMMON)
    config.write_text(INCLUDES)
    sweep = Sweep(tmp_path, PATTERN)
    points = sweep.load()
    assert [(p.seed, p.task.config) for p in points] == [
        (seed, {"a": 1, "lr": 0.1, "epochs": 5}) for seed in (7, 8)
    ]
    assert not sweep.has_changed()
    common.write_text(COMMON.replace("0.1", "0.25"))
    assert sweep.has_changed()
    assert sweep.load()[0].task.config["lr"] == 0.25
    common.unlink()
    assert sweep.has_changed()


def test_an_included_file_may_be_empty_and_include_others(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(INCLUDES)
    (tmp_path / "common.yaml").write_text("include: [none.yaml, more.yaml]\ndefaults:\n")
    (tmp_path / "none.yaml").write_text("# nothing yet\n")
    (tmp_path / "more.yaml").write_text(COMMON)
    assert [point.seed for point in Sweep(tmp_path, PATTERN).load()] == [7, 8]


MAY = "an included file may hold defaults, seeds, include"
THERE = "write it in the file that includes this one"
UNDER = "write parameters under `defaults`, all else in the file that includes this one"


@pytest.mark.parametrize(
    ("common", "problem"),
    [
        (None, "common.yaml: cannot be read (No such file or directory)"),
        ("include: configs/config_exp1.yaml", "common.yaml:1: include: includes go in a circle: "
         "configs/config_exp1.yaml -> common.yaml -> configs/config_exp1.yaml"),
        ("defaults: {timeout_s: 0}", "common.yaml:1: defaults.timeout_s: must be a number of seconds above 0 "
         "(it is 0)"),
        ("default: {epochs: 30}", f"common.yaml:1: default: {MAY} (this is {{\"epochs\": 30}}): {UNDER}"),
        ("seeds: [1]\nepochs: 30", f"common.yaml:2: epochs: {MAY} (this is 30): {UNDER}"),
        ("tags: [a]", f'common.yaml:1: tags: {MAY} (this is ["a"]): {THERE}'),
        ("metric: loss", f'common.yaml:1: metric: {MAY} (this is "loss"): {THERE}'),
        ("p: {combinations: [{a: [1]}]}",
         f'common.yaml:1: p: {MAY} (this is {{"combinations": [{{"a": [1]}}]}}): {THERE}'),
        ("- {epochs: 30}", f'common.yaml:1: {MAY} (it is [{{"epochs": 30}}])'),
        ("epochs", f'common.yaml:1: {MAY} (it is "epochs")'),
        ("defaults: {combinations: [{a: [1]}]}",
         "common.yaml:1: defaults: is the name of what all phases start from: give the phase another one"),
        ("include: more.yaml", f"common.yaml:1: include: more.yaml:1: epochs: {MAY} (this is 1): {UNDER}"),
        ("\ndefaults: {output_dir: /tmp}", "common.yaml:2: defaults.output_dir: "
         "/tmp must be a path below the working folder, such as ./results_1"),
    ],
)  # fmt: skip
def test_a_problem_of_an_included_file_names_both_files(
    tmp_path: Path, common: str | None, problem: str
) -> None:
    config = tmp_path / "configs" / "config_exp1.yaml"
    config.parent.mkdir()
    config.write_text(INCLUDES)
    (tmp_path / "more.yaml").write_text("epochs: 1")
    if common is not None:
        (tmp_path / "common.yaml").write_text(common)
    with pytest.raises(ConfigError) as caught:
        Sweep(tmp_path, PATTERN).load()
    (found,) = caught.value.problems
    assert found.endswith(problem)
    assert found.startswith("configs/config_exp1.yaml:1: ")
