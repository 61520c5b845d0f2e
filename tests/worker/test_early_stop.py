"""A task that is told to stop at a rung leaves one row, whatever it does."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from distexp.task import Halving
from distexp.worker import early_stop
from distexp.worker.reports import Reported
from distexp.worker.rungs import Reached, RungGate
from tests.live_manager import Folder
from tests.live_worker import await_file, await_rows, threaded_worker

CONFIG = """
defaults: {{output_dir: "./results_exp1", experiment: "{module}:run"}}
metric: {{name: loss, goal: minimize}}
early_terminate: {{type: asha}}
exp1_vary_how:
  combinations: [{{how: {widths}}}]
"""
EXPERIMENT = """
import time
def run(params, context):
    how = params["how"]
    for step in range(1, 6):
        time.sleep(0.005)
        context.report(step, 5, loss=1 / step if how == "good" else 9.0, how_far=step)
        while how != "good" and not context.should_stop(): time.sleep(0.01)  # however late
        if context.should_stop() and how != "whole":
            break
    if how == "raises": raise context.Stopped
    if how == "fails": raise ValueError("no")
    while how == "stays": time.sleep(0.01)
    return {"loss": 0.0 if how == "good" else 8.0, "more": how}
"""
SAVES = """
import time
def run(params, context):
    saved = context.checkpoint_dir / "resume.pt"
    begin = int(saved.read_text()) if saved.exists() else 0
    for step in range(begin + 1, 10):
        saved.write_text(str(step))
        is_late = step < 3 and params["how"] == "late"
        context.report(step, 9, loss=9.0 if is_late else 1 / step)
        while is_late and not begin and not context.should_stop(): time.sleep(0.01)  # however late
        if context.should_stop(): raise context.Stopped
    return {"begin": begin}
"""
COMMAND_SAVES = """
import json, os, pathlib, sys, time
saved = pathlib.Path(os.environ["DISTEXP_CHECKPOINT_DIR"], "resume.pt")
begin = int(saved.read_text()) if saved.exists() else 0
for step in range(begin + 1, 10):
    is_late = step < 3 and sys.argv[1] == "late"
    saved.write_text(str(step))
    print(json.dumps({"step": step, "total": 9, "loss": 9.0 if is_late else 1 / step}), flush=True)
    if is_late and not begin: time.sleep(60)
print(json.dumps({"begin": begin}))
"""
COMMAND = """
import json, sys
for step in range(1, 6):
    print(json.dumps({"step": step, "total": 5, "loss": float(sys.argv[1])}), flush=True)
"""


def a_folder(root: Path, hows: str, monkeypatch: pytest.MonkeyPatch) -> Folder:
    module = f"experiment_{time.monotonic_ns()}"
    (root / f"{module}.py").write_text(EXPERIMENT)
    folder = Folder(root)
    folder.configure(hows, CONFIG.replace("{module}", module))
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    return folder


def test_a_stopped_task_leaves_the_row_of_its_rung_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path, "[good, raises, returns, fails, whole]", monkeypatch)
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port) as worker:
        worker.await_end()
        status = manager.dispatcher.status()
        assert (status.complete, status.pruned, status.failed, status.done) == (2, 3, 0, True)
        assert status.progress == "5/5 (100.0%)"
    rows = {row["how"]: row for row in folder.rows()}
    assert len(folder.rows()) == len(rows) == 5
    assert (rows["good"]["loss"], rows["good"]["stopped_at"]) == ("0.0", "")
    assert (rows["whole"]["loss"], rows["whole"]["stopped_at"]) == ("8.0", "")
    for how in ("raises", "returns", "fails"):
        assert (rows[how]["loss"], rows[how]["how_far"], rows[how]["stopped_at"]) == ("9.0", "1", "1")
        assert rows[how]["more"] == ("returns" if how == "returns" else "")


def test_a_stopped_task_that_does_not_leave_is_ended_and_leaves_the_row_of_its_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_stop, "STOP_GRACE_S", 0.3)
    folder = a_folder(tmp_path, "[good, stays]", monkeypatch)
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port) as worker:
        worker.await_end()
        status = manager.dispatcher.status()
        assert (status.complete, status.pruned, status.failed) == (1, 1, 0)
    _, row = folder.rows()
    assert (row["how"], row["loss"], row["how_far"], row["stopped_at"]) == ("stays", "9.0", "1", "1")


def test_a_command_is_stopped_by_the_lines_that_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path, "[]", monkeypatch)
    (tmp_path / "train.py").write_text(COMMAND + "\nimport time\nif sys.argv[1] == '9': time.sleep(60)\n")
    text = CONFIG.replace('experiment: "{module}:run"', 'command: "python train.py {{how}}"')
    folder.configure("[1, 9]", text)
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port) as worker:
        worker.await_end()
        assert (manager.dispatcher.status().complete, manager.dispatcher.status().pruned) == (1, 1)
    assert [(row["loss"], row["stopped_at"]) for row in folder.rows()] == [("1.0", ""), ("9.0", "1")]


@pytest.mark.parametrize("code", ['experiment: "{module}:run"', 'command: "python train.py {{how}}"'])
def test_a_pruned_task_that_is_asked_for_more_goes_on_from_its_checkpoint(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.EXPERIMENT", SAVES)
    (tmp_path / "train.py").write_text(COMMAND_SAVES)
    asha = CONFIG.replace('experiment: "{module}:run"', code).replace("asha", "asha, max_iter: 3")
    monkeypatch.setattr(f"{__name__}.CONFIG", asha)
    folder = a_folder(tmp_path, "[good, late]", monkeypatch)
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port) as worker:
        worker.await_end()
    assert [row["stopped_at"] for row in folder.rows()] == ["", "1"]
    (kept,) = tmp_path.rglob("resume.pt")
    (config,) = (tmp_path / "configs").iterdir()
    config.write_text(config.read_text().replace("max_iter: 3", "max_iter: 9"))
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port) as worker:
        worker.await_end()
    assert [(row["stopped_at"], row["begin"]) for row in folder.rows()] == [("", "0"), ("", "1")]
    assert not kept.exists()


def test_without_a_manager_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = """from pathlib import Path
        Path(f"at-{step}").touch()
        while step == 2 and not Path("gate").exists(): time.sleep(0.01)"""
    monkeypatch.setattr(f"{__name__}.EXPERIMENT", EXPERIMENT.replace("time.sleep(0.005)", waits))
    folder = a_folder(tmp_path, "[good]", monkeypatch)
    with ExitStack() as stack:
        with folder.serving() as manager:
            stack.enter_context(threaded_worker(tmp_path, manager.port))
            await_file(tmp_path / "at-2")
        (tmp_path / "gate").touch()
        assert await_rows(folder, 1)[0]["loss"] == "0.0"


# -- the gate, in the child


def reached_by(steps: list[float], halving: Halving, **metrics: float | str) -> list[Reached]:
    found: list[Reached] = []
    answered = threading.Event()

    def ask(reached: Reached) -> None:
        found.append(reached)
        answered.set()

    gate = RungGate(halving, ask, answered, waits=True)
    for step in steps:
        gate.pass_report(Reported(step, 10, metrics or {"acc": 0.5}))
    return found


def test_the_first_report_at_or_beyond_a_rung_passes_it_once() -> None:
    found = reached_by([0, 0.5, 1, 2, 4, 5, 10], Halving(metric="acc"))
    assert [(each.step, each.is_last) for each in found] == [(1, False), (4, False), (10, True)]


@pytest.mark.parametrize(("metric", "value"), [(0.5, 0.5), (2, 2.0), ("nan", None), (True, 1.0)])
def test_what_is_no_number_is_sent_as_none(metric: float | str, value: float | None) -> None:
    assert [each.value for each in reached_by([1], Halving(metric="acc"), acc=metric)] == [value]


def test_reports_without_the_metric_pass_no_rung_and_that_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reached_by([1, 2, 3], Halving(metric="acc"), loss=1.0) == []
    said = "warning: context.report gives no acc, which early_terminate looks at, but loss\n"
    assert capsys.readouterr().out == said


def test_a_task_waits_for_its_verdict_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    waits_s: list[float | None] = []

    class Answered(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits_s.append(timeout)
            return super().wait(timeout)

    monkeypatch.setattr("distexp.worker.rungs.VERDICT_S", 0.05)
    gate = RungGate(Halving(metric="acc"), lambda reached: None, Answered(), waits=True)
    gate.pass_report(Reported(1, 10, {"acc": 0.5}))
    assert waits_s == [0.05]
