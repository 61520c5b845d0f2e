"""What a manager would find to do: counts, copies, hours; and nothing is touched."""

import json
from pathlib import Path

import pytest

from distexp.cli.main import main as command
from distexp.cli.plan import told
from distexp.reporting.plan import Plan, make_plan
from distexp.results.audit import audit
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand

SWEEP = """
defaults: {output_dir: ./results, experiment: "mine:run", epochs: 3}
seeds: [1, 2]
narrow:
  combinations:
    - width: [1, 2]
wide:
  combinations:
    - width: [2, 4]
"""
HEADER = "phase,width,epochs,seed,score,duration_s\n"


def planned(root: Path, rows: str = "", workers: int = 1) -> Plan:
    (root / "results").mkdir(exist_ok=True)
    if rows:
        (root / "results" / "final_results.csv").write_text(HEADER + rows, encoding="utf-8")
    phases = parse_config(SWEEP, "configs/config_exp1.yaml")
    tasks = expand(phases)
    return make_plan(phases, tasks, audit(root, tasks), workers)


def test_the_same_work_in_two_phases_is_counted_as_a_copy(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert (plan.tasks, plan.complete, plan.copies, plan.left) == (8, 0, 2, 6)
    assert [(p.phase, p.where, p.tasks, p.copies, p.left) for p in plan.phases] == [
        ("narrow", "configs/config_exp1.yaml:4", 4, 0, 4),
        ("wide", "configs/config_exp1.yaml:7", 4, 2, 2),
    ]


def test_without_a_finished_row_the_hours_are_unknown(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.hours is None
    assert told(plan)[-1] == "Time for 1 worker: unknown, no finished row has a duration_s"


def test_hours_are_of_the_combination_else_of_the_phase_else_of_all(tmp_path: Path) -> None:
    rows = "narrow,1,3,1,0.5,100\nnarrow,2,3,1,0.5,300\nnarrow,2,3,2,0.5,500\n"
    plan = planned(tmp_path, rows, workers=2)
    assert plan.phases[0].seconds == 100  # width 1, seed 2: as its other seed
    assert plan.phases[1].seconds == 2 * 300  # width 4: the mean of all, since `wide` has no row
    assert plan.phases[1].copies == 2
    assert plan.hours == pytest.approx(700 / 2 / 3600)


def test_a_duration_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    plan = planned(tmp_path, "narrow,1,3,1,0.5,soon\nnarrow,1,3,2,0.5,nan\nnarrow,2,3,1,0.5,-1\n")
    assert (plan.complete, plan.timed_rows, plan.hours) == (3, 0, None)


def test_the_command_tells_rows_that_do_not_count_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(SWEEP, encoding="utf-8")
    planned(tmp_path, "narrow,1,3,1,0.5,60\nnarrow,9,3,1,0.5,100\nnarrow,9,3,2,0.5,100\n")
    before = sorted(tmp_path.rglob("*"))
    assert command(["plan", "--workdir", str(tmp_path), "--workers", "5"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().out.splitlines() == [
        "configs/config_exp1.yaml",
        "  narrow        4 tasks       1 complete       3 to run, 3 min 0 s of one worker",
        "  wide          4 tasks       0 complete       2 to run       2 copied from the same work, "
        "2 min 0 s of one worker",
        "Sum             8 tasks       1 complete       5 to run       2 copied from the same work",
        "results/final_results.csv: completes 1 task",
        "  line 3: width is '9', which no task of narrow has (and 1 more like it)",
        "Time for 5 workers: about 1 min 0 s (0.02 hours), from the duration_s of 1 tasks",
    ]


def test_the_plan_as_json_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(SWEEP, encoding="utf-8")
    assert command(["plan", "--workdir", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["tasks"], shown["left"], shown["hours"]) == (8, 6, None)
    assert [phase["phase"] for phase in shown["phases"]] == ["narrow", "wide"]


def test_what_tasks_need_is_told_with_their_phase() -> None:
    text = SWEEP.replace("narrow:\n", "narrow:\n  defaults: {gpus: 2, min_free_gb: 12}\n")
    phases = parse_config(text, "configs/config_exp1.yaml")
    plan = make_plan(phases, expand(phases), [], 1)
    assert [(phase.gpus, phase.min_free_gb) for phase in plan.phases] == [(2, 12), (None, None)]
    narrow, wide = told(plan)[1:3]
    assert narrow.endswith(", each on 2 GPUs, 12 GB free on each")
    assert "GPU" not in wide


def test_a_setup_is_told_with_each_phase_of_its_file() -> None:
    phases = parse_config(f"setup: bash get_data.sh\n{SWEEP}", "configs/config_exp1.yaml")
    plan = make_plan(phases, expand(phases), [], 1)
    assert ["setup: bash get_data.sh, once on each host" in phase.axes for phase in plan.phases] == [True] * 2
