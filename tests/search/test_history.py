"""Which configurations of an adaptive search its rows and its journal hold; rows of tasks that join later."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distexp.queue.lookup import Labels
from distexp.queue.records import SuggestionRecord
from distexp.results.matching import TaskIndex
from distexp.search.history import grow_phase, known_tasks
from distexp.sweep.config import Phase, parse_config
from distexp.sweep.growing import GrowingPhase
from distexp.sweep.space import Config

CONFIG = """
defaults: {{output_dir: "./results_a", batch: 32}}
metric: loss
{more}
p:
  search: {{method: tpe, samples: 4}}
  combinations:
    - lr: {{distribution: log_uniform_values, min: 1e-4, max: 1}}
    - width: [1, 2, 4, 8]
    - optimizer: [sgd, adam]
    - when: {{optimizer: adam}}
      beta: {{min: 0.5, max: 1.0}}
"""
OURS = "phase,task_id,lr,width,optimizer,beta,batch,seed,loss"


def phase_of(more: str = "") -> Phase:
    (phase,) = parse_config(CONFIG.format(more=more), "c.yaml")
    return phase


def found(
    root: Path, rows: Sequence[str], header: str = OURS, more: str = "", *suggested: SuggestionRecord
) -> dict[int, Config]:
    folder = root / "results_a"
    folder.mkdir(exist_ok=True)
    (folder / "final_results.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    known = grow_phase(phase_of(more), root, suggested).known
    return {number: each.config for number, each in known.items()}


def test_rows_of_ours_keep_their_number(tmp_path: Path) -> None:
    rows = ["p,p_3_42,0.01,4,adam,0.75,32,42,1", "p,p_0_42,0.5,1,sgd,,32,42,1"]
    assert found(tmp_path, rows) == {
        0: {"lr": 0.5, "width": 1, "optimizer": "sgd"},
        3: {"lr": 0.01, "width": 4, "optimizer": "adam", "beta": 0.75},
    }


@pytest.mark.parametrize("number", ["9" * 12, "9" * 5000])
def test_a_number_that_no_search_reaches_is_none(tmp_path: Path, number: str) -> None:
    row = f"p,p_{number}_42,0.5,1,sgd,,32,42,1"
    assert found(tmp_path, [row]) == {0: {"lr": 0.5, "width": 1, "optimizer": "sgd"}}


def test_rows_of_another_program_take_the_numbers_that_are_free(tmp_path: Path) -> None:
    header = "config/lr,config.width,optimizer,beta,loss"
    assert found(tmp_path, ["1e-2,4.0,sgd,nan,1", "0.1,2,adam,0.5,2"], header) == {
        0: {"lr": 0.01, "width": 4, "optimizer": "sgd"},
        1: {"lr": 0.1, "width": 2, "optimizer": "adam", "beta": 0.5},
    }


@pytest.mark.parametrize(
    "row",
    [
        "q,q_0_42,0.01,4,adam,0.75,32,42,1",  # of another phase
        "p,p_0_42,0.01,3,adam,0.75,32,42,1",  # no such width
        "p,p_0_42,7,4,adam,0.75,32,42,1",  # beyond
        "p,p_0_42,high,4,adam,0.75,32,42,1",
        "p,p_0_42,0.01,4,adam,,32,42,1",  # adam has a beta
        "p,p_0_42,0.01,4,sgd,0.75,32,42,1",  # sgd has none
        "p,p_0_42,0.01,4,adam,0.75,64,42,1",  # another batch
        "p,p_0_7,0.01,4,adam,0.75,32,7,1",  # another seed
    ],
)
def test_a_row_of_something_else_is_no_configuration(tmp_path: Path, row: str) -> None:
    assert found(tmp_path, [row]) == {}


def test_earlier_names_and_assumed_values_count(tmp_path: Path) -> None:
    more = "renamed_from: {lr: [rate]}\nassume: {optimizer: sgd}"
    assert found(tmp_path, ["0.01,4,1"], "rate,width,loss", more) == {
        0: {"lr": 0.01, "width": 4, "optimizer": "sgd"}
    }


def test_a_value_is_assumed_only_where_there_is_the_parameter(tmp_path: Path) -> None:
    rows = ["0.01,4,adam,1", "0.02,4,sgd,2"]
    assert found(tmp_path, rows, "lr,width,optimizer,loss", "assume: {beta: 0.5}") == {
        0: {"lr": 0.01, "width": 4, "optimizer": "adam", "beta": 0.5},
        1: {"lr": 0.02, "width": 4, "optimizer": "sgd"},
    }


def test_what_was_suggested_comes_after_the_rows_up_to_samples(tmp_path: Path) -> None:
    def suggested(number: int, lr: float) -> SuggestionRecord:
        return SuggestionRecord(phase="p", number=number, config={"lr": lr, "width": 1, "optimizer": "sgd"})

    row = "p,p_0_42,0.5,1,sgd,,32,42,1"
    records = [
        suggested(0, 0.5),
        suggested(1, 7),
        suggested(2, 0.2),
        *[suggested(n, n / 10) for n in (3, 4, 5)],
    ]
    known = found(tmp_path, [row], OURS, "", *records)
    assert {number: config["lr"] for number, config in known.items()} == {0: 0.5, 2: 0.2, 3: 0.3, 4: 0.4}
    tasks, to_come = known_tasks([phase_of()], tmp_path, records[:4])
    assert [task.task_id for task in tasks] == ["p_0_42", "p_2_42", "p_3_42"]
    assert list(to_come.values()) == [1]


def test_a_number_that_no_configuration_has_is_no_label() -> None:
    grown = GrowingPhase(phase_of())
    first, third = ({"lr": lr, "width": 4, "optimizer": "sgd"} for lr in (0.1, 0.3))
    (point,) = [*grown.add(first, 0)]
    grown.add(third, 2)
    labels = Labels(grown.tasks())
    assert (labels.key_of("p_0_42"), labels.key_of("p_1_42")) == (point.key, None)


def test_rows_are_read_while_tasks_join(switch_often: None) -> None:
    grown, index = GrowingPhase(phase_of()), TaskIndex()
    index.grow(grown.add({"lr": 0.5, "width": 4, "optimizer": "sgd"}))
    matcher = index.matcher(("phase", "lr", "width", "optimizer", "beta"), "results_a")

    def read_rows() -> None:
        for number in range(20_000):
            matcher.one(("p", f"{number}e-9", "4", "sgd", ""))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_rows)
        for number in itertools.takewhile(lambda _: not reading.done(), itertools.count(1)):
            index.grow(grown.add({"lr": number / 1e6, "width": 4, "optimizer": "sgd"}))
        reading.result()


def test_rows_are_known_as_those_of_tasks_that_joined_later() -> None:
    grown = GrowingPhase(phase_of())
    index = TaskIndex()
    columns = ("phase", "lr", "width", "optimizer", "beta", "loss")
    rows = [("p", f"{lr}", "4", "sgd", "", "1") for lr in (0.1, 0.2, 0.3)]
    for number, lr in enumerate((0.1, 0.2, 0.3)):
        index.grow(grown.add({"lr": lr, "width": 4, "optimizer": "sgd"}))
        matcher = index.matcher(columns, "results_a")
        assert [len(matcher.one(row)) for row in rows] == [1] * (number + 1) + [0] * (2 - number)
    together = TaskIndex(grown.tasks()).matcher(columns, "results_a")
    assert [together.one(row) for row in rows] == [matcher.one(row) for row in rows]


def test_its_tasks_have_the_keys_that_any_task_of_theirs_has() -> None:
    grown = GrowingPhase(phase_of("seeds: [1, 2]\ntags: [batch]"))
    points = grown.add({"lr": 0.5, "width": 4, "optimizer": "sgd"})
    tasks = [point.task for point in points]
    assert [point.key for point in points] == [task.key_in("p") for task in tasks]
    assert [task.seed for task in tasks] == [1, 2]
