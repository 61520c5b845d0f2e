"""What a task reports over time stays in its run folder; what goes wrong there costs the curve alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from distexp.worker import metrics
from distexp.worker.metrics import MetricsFile
from distexp.worker.task_main import Finished
from distexp.worker.task_process import Children
from tests.live_child import Write, a_run, outcome_of
from tests.support import ENVIRONMENT, Clock


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()


def test_each_report_is_a_line_with_attempt_step_and_time(tmp_path: Path) -> None:
    clock = Clock()
    made = MetricsFile(tmp_path, 1, clock)
    made.add(1, 3, {"loss": 0.5})
    clock.advance(0.25)
    made.add(2, 3, {"loss": 0.25})
    made.close()
    assert lines(tmp_path) == ["attempt,step,total,elapsed_s,loss", "1,1,3,0.0,0.5", "1,2,3,0.25,0.25"]


def test_a_report_is_on_the_disk_within_a_second_and_the_last_one_at_once(tmp_path: Path) -> None:
    clock = Clock()
    made = MetricsFile(tmp_path, 1, clock)
    made.add(1, 3, {"loss": 4})
    clock.advance(1.0)
    made.add(2, 3, {"loss": 2})
    assert len(lines(tmp_path)) == 3
    made.add(3, 3, {"loss": 1})
    assert lines(tmp_path)[-1] == "1,3,3,1.0,1"
    made.close()


def test_a_metric_that_comes_later_gets_its_column(tmp_path: Path) -> None:
    made = MetricsFile(tmp_path, 1, Clock())
    made.add(1, 3, {"loss": 4})
    made.add(2, 3, {"acc": 0.5, "note": 'a, "b"\nc'})
    made.add(3, 3, {"loss": 1})
    made.close()
    assert lines(tmp_path) == [
        "attempt,step,total,elapsed_s,loss,acc,note",
        "1,1,3,0.0,4,,",
        '1,2,3,0.0,,0.5,"a, ""b"" c"',
        "1,3,3,0.0,1,,",
    ]


def test_a_metric_called_like_a_column_of_ours_gets_one_of_its_own(tmp_path: Path) -> None:
    made = MetricsFile(tmp_path, 1, Clock())
    made.add(1, 3, {"attempt": 9, "elapsed_s": 7.5})
    made.close()
    assert lines(tmp_path) == [
        "attempt,step,total,elapsed_s,metric_attempt,metric_elapsed_s",
        "1,1,3,0.0,9,7.5",
    ]


def test_the_next_attempt_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path, 1, Clock())
    first.add(1, 2, {"loss": 4})
    first.close()
    with open(tmp_path / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("1,2,2,0.")
    second = MetricsFile(tmp_path, 2, Clock())
    second.add(1, 2, {"loss": 3})
    second.close()
    assert lines(tmp_path)[1:] == ["1,1,2,0.0,4", "2,1,2,0.0,3"]


def test_a_million_steps_stay_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_DENSE_LINES", 10)
    clock = Clock()
    made = MetricsFile(tmp_path, 1, clock)
    for step in range(1, 51):
        made.add(step, 50, {"loss": step})
        clock.advance(0.125)
    made.close()
    steps = [int(line.split(",")[1]) for line in lines(tmp_path)[1:]]
    assert steps == [*range(1, 11), 17, 25, 33, 41, 49, 50]


def test_a_disk_that_refuses_costs_the_curve_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MetricsFile(tmp_path / "absent", 1, Clock())
    made.add(1, 2, {"loss": 4})
    made.add(2, 2, {"loss": 3})
    made.close()
    path = tmp_path / "absent" / "metrics.csv"
    expected = f"warning: {path}: cannot be written (No such file or directory); the curve ends\n"
    assert capsys.readouterr().out == expected


def test_tensorboard_is_left_alone_by_a_task_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from distexp.worker.metrics import MetricsFile\n"
        f"made = MetricsFile(Path({str(tmp_path)!r}), 1); made.add(1, 1, {{'loss': 1.0}}); made.close()\n"
        "print({'torch', 'tensorboard'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert child.stdout == "set()\n"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_folder_called_tensorboard_is_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "torch", sys)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    assert metrics.import_board() is None
    assert capsys.readouterr().err == ""


def test_a_tensorboard_that_failed_in_a_way_of_its_own_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setitem(sys.modules, metrics.BOARD, sys)
    assert metrics.import_board() is sys
    metrics.block_board()
    assert metrics.import_board() is None
    assert capsys.readouterr().err.startswith("warning: no curves for TensorBoard: ")


TORCH = """
import torch
def run(params, context):
    for step in range(3):
        context.report(step + 1, 3, loss=torch.tensor(1.0 / (step + 1)), note="text is no curve")
    return {"loss": 1.0}
"""


def test_a_task_with_torch_leaves_curves_for_tensorboard(
    children: Children, write: Write, tmp_path: Path
) -> None:
    outcome = outcome_of(children, a_run(tmp_path, write(TORCH)))
    assert isinstance(outcome, Finished)
    assert outcome.torch_version
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    written = events.read_bytes()
    assert written.count(b"loss") >= 3
    assert b"note" not in written
    assert len(lines(tmp_path / "run")) == 4
