"""Which task a word names."""

from pathlib import Path

import pytest

from distexp import load_results
from distexp.cli.choice import Chooser
from distexp.errors import UserError
from tests.live_manager import Folder

CONFIGS = "configs/config_exp*.yaml"


@pytest.fixture
def chooser(folder: Folder) -> Chooser:
    folder.add_rows("2,42,0.5", "bad line", "7,42,0.7", "1,42,0.25")
    other = folder.root / "results_all"
    other.mkdir()
    (other / "final_results.csv").write_text("width;seed;score\n3;42;1.5\n", encoding="utf-8")
    return Chooser(folder.root, CONFIGS)


def test_a_number_is_that_of_the_row_in_pandas(folder: Folder, chooser: Chooser) -> None:
    frame = load_results(folder.root)
    for at, width in enumerate(frame["width"]):
        if width == 7:
            continue  # no config asks for it, and nothing says what it ran
        chosen = chooser.choose(str(at))
        assert chosen.row is not None
        assert chosen.task.config["width"] == width
        assert float(chosen.row["score"]) == frame["score"][at]
    with pytest.raises(UserError, match="row 4: there is no such row: 4 rows are there, numbered from 0"):
        chooser.choose("4")


def test_a_line_is_that_of_the_file(folder: Folder, chooser: Chooser) -> None:
    for line, width in {"results_exp1/final_results.csv:2": 2, "results_all/final_results.csv:2": 3}.items():
        assert chooser.choose(line).task.config["width"] == width
        assert chooser.choose(line).where == line
    with pytest.raises(UserError, match=r"final_results\.csv:3: no row of a results file begins there"):
        chooser.choose("results_exp1/final_results.csv:3")


def test_a_row_that_nobody_can_run_is_refused_with_the_reason(chooser: Chooser) -> None:
    with pytest.raises(UserError, match="it names no phase, and no log says what it ran"):
        chooser.choose("results_exp1/final_results.csv:4")


def test_a_row_of_another_program_gives_the_parameters_of_its_phase(folder: Folder) -> None:
    lines = ["exp1_vary_width,0.9,7", "exp1_vary_width,0.8,"]
    folder.add_rows(*lines, header="phase,score,config/width")
    first, second = (Chooser(folder.root, CONFIGS).choose(str(at)).task for at in (0, 1))
    assert (first.config, first.seed) == ({"width": 7}, 42)
    assert second.config == {"width": None}


def test_a_mistake_in_the_configs_is_what_a_task_without_them_is_told_by(folder: Folder) -> None:
    folder.add_rows("exp1_vary_width_6_42,7,42,0.7", header="task_id,width,seed,score")
    folder.configure("7")
    chooser = Chooser(folder.root, CONFIGS)
    for word in ("exp1_vary_width_6_42", "exp1_vary_width_1_42", "0"):
        with pytest.raises(UserError, match=r"configs cannot be read:\nconfigs/config_exp1.yaml:5: "):
            chooser.choose(word)


def test_a_row_of_another_file_is_found_for_an_id(chooser: Chooser, folder: Folder) -> None:
    chosen = chooser.choose("exp1_vary_width_2_42")
    assert chosen.where == "results_all/final_results.csv"
    key = chosen.task.key
    assert Chooser(Path(folder.root), CONFIGS).choose(key).row == chosen.row
