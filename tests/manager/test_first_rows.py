"""Rows without metrics are told of while the sweep runs, once per phase, with what is wrong."""

import pytest

from distexp.manager.first_rows import has_result_file, why_no_result, why_without_metrics
from distexp.results.conversion import NO_JSON
from tests.live_manager import Folder, worker


@pytest.mark.parametrize(("results", "told"), [([{}, {}], 1), ([{"acc": 0}, {}], 0)])
def test_a_phase_whose_first_row_has_no_metrics_is_told_of_once(
    folder: Folder, results: list[dict[str, int]], told: int
) -> None:
    folder.configure([1, 2, 3])
    with folder.serving() as manager, worker(manager, "gpu0", shares=False) as talk:
        for result in results:
            task = talk.say("request_task")
            talk.say("task_complete", lease_id=task["lease_id"], key=task["key"], result=result)
            manager.rescan()
            manager.rescan()
    lines = [line for line in folder.log() if "has no metrics in its row: " in line]
    assert len(lines) == told
    assert all(line.endswith("; return a mapping, such as {'accuracy': 0.9}") for line in lines)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["{'acc': 0.9}", "saved"], "`{'acc': 0.9}` is how Python shows a dict: json.dumps makes JSON of it"),
        (["Results: {'acc': tensor(0.9)}"], "`Results: {'acc': tensor(0.9)}` is how Python shows a dict: "),
        (['{"acc": 0.9}', "", "bye"], '`{"acc": 0.9}` is on standard error'),
        (['INFO:root:{"acc": 1}'], '`INFO:root:{"acc": 1}` has other words before it'),
        (["{", '  "acc": 0.9', "}"], "one over several lines is none: leave `indent` out"),
        (["epoch 1: {x}", "set {1, 2}", "Namespace(lr=0.1)", "{}"], ""),
        (['# parameters: {"lr": 1}', "done"], ""),
        ([], ""),
    ],
)
def test_output_that_looks_like_a_result_and_is_none_is_quoted_with_what_is_wrong(
    lines: list[str], why: str
) -> None:
    warning = (
        "warning: printed no JSON object, so its row has no metrics: print one as a line, or write it to "
    )
    found = why_no_result([*lines, warning + "$DISTEXP_RESULT"])
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_it_stands_beside_the_advice(folder: Folder) -> None:
    log_path = folder.root / "log.txt"
    advice = "; print one as a line, or write it to $DISTEXP_RESULT (docs/experiments.md has more ways)"
    told = f"its command printed no JSON object{advice}"
    assert why_without_metrics("python train.py", "", log_path) == told
    log_path.write_text(f"{{'acc': 0.9}}\nwarning: {NO_JSON}\n", encoding="utf-8")
    said = "(`{'acc': 0.9}` is how Python shows a dict: json.dumps makes JSON of it)"
    assert why_without_metrics("python train.py", "", log_path) == told.replace("; ", f" {said}; ", 1)


def test_metrics_that_are_null_are_said_to_be_so(folder: Folder) -> None:
    log_path = folder.root / "log.txt"
    log_path.write_text('{"acc": 0.9}\n# attempt 2\n{"acc": null}\n', encoding="utf-8")
    assert why_without_metrics("python train.py", "", log_path) == "all its metrics are null or empty"


def test_a_result_file_that_the_task_wrote_itself_is_none_of_its_row(folder: Folder) -> None:
    assert not has_result_file(folder.root)
    (folder.root / "result.json").write_text("{}", encoding="utf-8")
    assert has_result_file(folder.root)
    for note in (
        "returned no metrics; its row holds none",
        "printed no JSON object, so its row has no metrics: ",
    ):
        told = f"epoch 1\nwarning: {note}print one as a line, or write it to $DISTEXP_RESULT\n"
        (folder.root / "log.txt").write_text(told, encoding="utf-8")
        assert not has_result_file(folder.root)
    (folder.root / "log.txt").write_text("epoch 1\n", encoding="utf-8")
    assert has_result_file(folder.root)
