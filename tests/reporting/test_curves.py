"""Learning curves of a report, beside pandas."""

from pathlib import Path

import pandas as pd
import pytest

from distexp.reporting.curves import MOST_POINTS, curves_of, thinned
from distexp.reporting.frame import load_metrics


def write(root: Path, name: str, text: str) -> str:
    folder = root / "results" / "runs" / name
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)
    return f"results/runs/{name}"


def test_a_step_that_a_later_attempt_repeats_counts_as_it_was_then(tmp_path: Path) -> None:
    text = "attempt,step,total,elapsed_s,loss\n1,1,3,0.1,5\n1,2,3,0.2,4\n2,2,3,0.1,3\n2,3,3,0.2,\n"
    frame = load_metrics(write(tmp_path, "a", text), workdir=tmp_path)
    assert thinned(frame) == {"loss": ([1, 2], [5, 3])}


def test_a_long_curve_is_thinned_evenly_and_keeps_both_ends() -> None:
    frame = pd.DataFrame({"step": range(1000), "loss": [at**0.5 for at in range(1000)], "note": ["x"] * 1000})
    steps, values = thinned(frame)["loss"]
    assert len(steps) == MOST_POINTS
    assert (steps[0], steps[-1]) == (0, 999)
    gaps = pd.Series(steps).diff().dropna()
    assert {*gaps} == {10, 11}
    assert values == pytest.approx([step**0.5 for step in steps], rel=1e-5)


def test_each_metric_is_thinned_by_the_steps_that_it_has() -> None:
    """A validation every 100 steps stands between many reports of the loss."""
    frame = pd.DataFrame({"step": range(1, 1001), "loss": 1.0, "acc": [None] * 1000})
    frame["acc"] = frame["step"].where(frame["step"] % 100 == 0).astype("float64")
    assert thinned(frame)["acc"] == ([*range(100, 1001, 100)], [*range(100, 1001, 100)])


def test_the_wanted_rows_come_first_and_the_others_are_spread_over_all(tmp_path: Path) -> None:
    text = "attempt,step,total,elapsed_s,acc\n1,1,,0.1,0.5\n"
    folders = ["" if at % 2 else write(tmp_path, f"t{at}", text) for at in range(40)]
    found = curves_of(tmp_path, folders, [7, 30, 32], most=8)
    rows = [each["row"] for each in found["tasks"]]
    assert (rows[:2], len(rows), found["folders"], found["cut"]) == ([30, 32], 8, 20, False)
    assert min(rows) < 10
    assert max(rows) > 25
    assert found["metrics"] == ["acc"]


@pytest.mark.parametrize(
    "text", [None, "", "attempt,step\n", "step,acc\nx,1\n", "attempt,step,acc\n1,1,oops\n", "\0\0"]
)
def test_what_is_no_curve_is_left_out(tmp_path: Path, text: str | None) -> None:
    folder = "results/runs/none" if text is None else write(tmp_path, "bad", text)
    good = write(tmp_path, "good", "attempt,step,total,elapsed_s,acc\n1,1,,0.1,0.5\n")
    found = curves_of(tmp_path, [folder, good], [])
    assert [each["row"] for each in found["tasks"]] == [1]
