"""A view on terminals of 80 and 200 columns: what it shows, and that it fits."""

from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from distexp.cli.render import render
from distexp.wire.messages import FailureStatus, GpuUse, SweepStatus, ViewReply, WorkerStatus


def a_worker(number: int = 0, **more: Any) -> WorkerStatus:
    about = {
        **{"worker": f"box{number}/gpu0", "host": f"box{number}", "device": "NVIDIA H100 80GB HBM3"},
        **{"memory_mib": 81559, "connected": True, "age_s": 3.2, "task": f"exp1_vary_width_{number}_42"},
        **{"task_s": 132.0, "progress": (12, 300), "metrics": {"loss": 0.12345, "test_acc": 0.9}},
        "gpu": GpuUse(used_mib=31744, free_mib=49152, utilization_pct=97),
        **{"completed": 3, "failed": 0, "drained": False},
        **more,
    }
    return WorkerStatus(**about)


STATUS = SweepStatus(
    total=240,
    pending=183,
    assigned=4,
    complete=45,
    failed=7,
    cancelled=1,
    progress="45/240 (18.8%)",
    done=False,
    paused=False,
    workers=4,
)
FAILURE = FailureStatus(
    at_utc="2026-11-24T09:01:05Z",
    task_id="exp1_vary_width_7_2024",
    worker="box3/gpu1",
    why="out_of_memory: CUDA out of memory",
    state="pending",
)
VIEW = ViewReply(
    status=STATUS,
    per_hour=372.4,
    eta_s=18_200.0,
    why_no_eta="",
    workers=[a_worker(number) for number in range(4)],
    failures=[FAILURE],
)


def lines(view: ViewReply, width: int, height: int = 24, note: str = "") -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(render(view, width, height, note))
    return [line.rstrip() for line in shown.get().splitlines()]


def changed(**more: Any) -> ViewReply:
    return structs.replace(VIEW, **more)


def test_at_80_columns_used_and_free_memory_share_a_column_and_one_metric_is_shown() -> None:
    shown = lines(VIEW, 80)
    assert shown[0].endswith(" 45/240 (18.8%)  372 tasks/h  ETA 5 h 3 min")
    assert shown[0].startswith("━" * 30)
    assert shown[1] == "183 pending  4 assigned  45 complete  7 failed  1 cancelled  4 workers"
    assert shown[2].split() == ["worker", "GB", "used+free", "GPU", "task", "step", "metric", "age"]
    row = ["box0/gpu0", "31.0+48.0", "97%", "exp1_vary_width_0_42", "12/300", "loss=0.1235", "3s"]
    assert shown[3].split() == row
    assert shown[7] == "Last failures"
    assert shown[8].startswith("09:01Z exp1_vary_width_7_2024 out_of_memory: CUDA out of memory (box3/")


def test_at_200_columns_each_figure_has_its_column_and_all_metrics_are_shown() -> None:
    shown = lines(VIEW, 200)
    titles = "worker device used GB free GB GPU task for step metrics age"
    assert shown[2].split() == titles.split()
    assert shown[3].split("  ")[0] == "box0/gpu0"
    for text in ("NVIDIA H100 80GB HBM3", " 31.0 ", " 48.0 ", "2m12", "loss=0.1235 test_acc=0.9"):
        assert text in shown[3]
    assert shown[-1].endswith("(box3/gpu1, now pending)")


@pytest.mark.parametrize("width", [20, 40, 80, 109, 110, 200])
@pytest.mark.parametrize("height", [6, 10, 24, 50])
def test_a_view_of_100_workers_fits_whatever_the_terminal(width: int, height: int) -> None:
    names = {"task": "exp1_" + "long_" * 40 + "0_42", "worker": "\u30b7" * 90, "device": "\u30b7" * 90}
    metrics = {"metrics": {f"metric{number}": number / 7 for number in range(20)}}
    workers = [a_worker(number, **(names if number % 2 else {}), **metrics) for number in range(100)]
    shown = lines(changed(workers=workers, failures=[FAILURE] * 8), width, height)
    assert len(shown) <= height
    console = Console(width=width)
    assert all(console.measure(line).maximum <= width for line in shown)


def test_workers_that_do_not_fit_are_counted() -> None:
    shown = lines(changed(workers=[a_worker(number) for number in range(100)]), 80)
    rows = [line for line in shown if line.startswith("box")]
    assert f"... and {100 - len(rows)} more workers" in shown


def test_a_task_id_that_is_too_long_keeps_its_end() -> None:
    task = "exp1_a_rather_long_name_of_a_phase_17_2024"
    assert f"{task[-20:]}  12/300  loss=0.1235" in lines(changed(workers=[a_worker(task=task)]), 80)[3]
    assert f"  {task}  " in lines(changed(workers=[a_worker(task=task)]), 200)[3]


def test_what_a_worker_does_not_tell_takes_no_room() -> None:
    cpu = a_worker(worker="cpu0", gpu=None, progress=None, metrics={}, task=None, task_s=None, device="cpu")
    assert [line.split() for line in lines(changed(workers=[cpu]), 80)[2:4]] == [
        ["worker", "task", "age"],
        ["cpu0", "idle", "3s"],
    ]


@pytest.mark.parametrize(
    ("facts", "word"),
    [({"connected": False}, "gone"), ({"drained": True}, "drained"), ({"excluded": "it fails"}, "excluded")],
)
def test_a_worker_without_a_task_says_why(facts: dict[str, Any], word: str) -> None:
    assert word in lines(changed(workers=[a_worker(task=None, **facts)]), 80)[3]


def test_why_there_is_no_estimate_is_said() -> None:
    paused = changed(
        eta_s=None, why_no_eta="paused", per_hour=None, status=structs.replace(STATUS, paused=True)
    )
    shown = lines(paused, 80)
    assert shown[0].endswith("- tasks/h  ETA: paused")
    assert shown[1].endswith("4 workers  PAUSED")
    assert lines(changed(status=structs.replace(STATUS, done=True)), 80)[0].endswith("done")


def test_held_phases_are_named() -> None:
    held = changed(status=structs.replace(STATUS, held_phases="exp1_width"))
    assert lines(held, 120)[1].endswith("4 workers  HELD: exp1_width")


def test_what_others_say_does_not_steer_the_terminal() -> None:
    evil = "\x1b[2J[red]x"
    worker = a_worker(device=evil, metrics={evil: evil})
    shown = "\n".join(lines(changed(workers=[worker], failures=[structs.replace(FAILURE, why=evil)]), 200))
    assert "\x1b" not in shown
    assert shown.count("\\x1b[2J[red]x") == 4


def test_a_note_stands_at_the_end() -> None:
    assert lines(VIEW, 80, note="no manager answers at localhost:5000")[-1].startswith("no manager answers")


def test_a_cause_of_failure_ends_in_an_ellipsis_where_it_is_cut() -> None:
    whys = ["error: nan at step 3 " + "x" * 80, "timeout: 60 s"]
    failures = [structs.replace(FAILURE, why=why) for why in whys]
    shown = lines(changed(failures=failures), 80)
    at = shown.index("Last failures")
    assert len(shown[at:]) == 3
    assert "at step 3" in shown[at + 1] and shown[at + 1].endswith("…")
    assert "timeout: 60 s" in shown[at + 2]


def test_a_worker_that_has_left_is_shown_for_a_minute() -> None:
    left = {"connected": False, "task": None}
    gone = [a_worker(0, age_s=59.0, **left), a_worker(1, age_s=61.0, **left)]
    shown = "\n".join(lines(changed(workers=gone), 120))
    assert "box0/gpu0" in shown
    assert "box1/gpu0" not in shown


def test_without_a_worker_the_view_says_how_to_start_one() -> None:
    assert "No worker is connected: start one with `distexp worker`" in lines(changed(workers=[]), 80)
    over = structs.replace(STATUS, done=True)
    assert not any("No worker" in line for line in lines(changed(workers=[], status=over), 80))


def test_pruned_tasks_have_their_figure_and_their_part_of_the_bar() -> None:
    shown = lines(changed(status=structs.replace(STATUS, pruned=60, pending=123)), 100)
    assert "45 complete  7 failed  1 cancelled  60 pruned  4 workers" in shown[1]
    view = changed(status=structs.replace(STATUS, pruned=60))
    console = Console(width=80, height=24, force_terminal=True, color_system="standard")
    with console.capture() as coloured:
        console.print(render(view, 80, 24))
    assert "\x1b[34m━" in coloured.get()
