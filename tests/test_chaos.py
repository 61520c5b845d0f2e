"""The chaos runs judge rightly: a plan is its seed's alone, and every check can fail."""

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from benchmarks.chaos import findings
from benchmarks.chaos.checks import Evidence, Line, Mark, Table, violations
from benchmarks.chaos.experiments import score
from benchmarks.chaos.plan import WEIGHTS, Kind, Placement, Shape, make_plan
from benchmarks.chaos.relay import Relay
from benchmarks.chaos.stage import ASKED, LAST_TASK, MARK_VARIABLE, Actor, Stage
from distexp.errors import ConfigError
from distexp.queue.journal import Journal
from distexp.results.rungs import RungRecord
from distexp.results.spool import Spool
from distexp.sweep.config import load_configs
from distexp.system import locks
from distexp.task import Task, make_task

PATIENCE_S = 30.0
ABSENCE_S = 0.2  # in which a byte would arrive that nothing holds back


def task(phase: str, index: int) -> Task:
    return make_task(
        task_id=f"{phase}_{index}_1",
        phase=phase,
        config={"kind": "quick", "size": index + 1},
        seed=1,
        output_dir="results_quick",
        axes=("kind", "size"),
    )


def row(of: Task) -> dict[str, str]:
    config = {name: str(value) for name, value in of.config.items()}
    right = str(score(str(of.config["kind"]), int(of.config["size"]), of.seed))
    return {"phase": of.phase, "task_id": of.task_id, **config, "seed": str(of.seed), "score": right}


def said(*texts: str, who: str = "manager0") -> tuple[Line, ...]:
    return tuple(Line(float(number), who, text) for number, text in enumerate(texts))


def lived(attempt: int, pid: int, first_s: float, last_s: float) -> tuple[Mark, ...]:
    work = ("quick", 1, 1)
    return (Mark(work, attempt, pid, first_s, "start"), Mark(work, attempt, pid, last_s, "step"))


FIRST, SECOND = task("quick", 0), task("quick", 1)
ROWS = (row(FIRST), row(SECOND))
GOOD = Evidence(wanted=(FIRST, SECOND), known=(FIRST, SECOND), tables=(Table("results", ROWS),))
LENT, DONE = "Assigned task quick_0_1 to cpu0", "Task quick_0_1 completed by cpu0"
LOST = "Task quick_0_1 lost by cpu0: no sign of life (loss 1 of 5, now pending)"


def problems(**changed: object) -> str:
    return "\n".join(violations(replace(GOOD, **changed)))  # type: ignore[arg-type]


def test_a_run_in_which_all_is_well_has_no_violation() -> None:
    lines = said(LENT, "Running task quick_0_1 (attempt 1)", LOST, LENT, DONE)
    assert problems(lines=lines, ends=(("manager0", 0, False),)) == ""


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:1], "one_row: quick_1_1 has no row and did not fail"),
        ((*ROWS, ROWS[0]), "one_row: quick_0_1 has 2 rows"),
        ((*ROWS, {**ROWS[0], "phase": "none"}), "rows_are_right: results: a row of no task"),
        ((ROWS[0], {**ROWS[1], "score": "-1"}), "rows_are_right: results: quick_1_1 has the score -1"),
    ],
)
def test_a_lost_doubled_foreign_or_wrong_row_is_a_violation(
    rows: tuple[dict[str, str], ...], words: str
) -> None:
    assert words in problems(tables=(Table("results", rows),))


def test_a_torn_record_that_was_not_set_aside_is_a_violation() -> None:
    table = Table("results", ROWS, bad=("quick,qu",))
    assert "a record of the wrong length: 'quick,qu'" in problems(tables=(table,))


def test_a_task_without_row_may_only_stand_as_failed_once_its_budget_is_spent() -> None:
    one_row = (Table("results", ROWS[:1]),)
    end = "Task quick_1_1 failed on cpu0 (crash, failure {} of 3, now failed): ended by SIGKILL"
    assert problems(tables=one_row, lines=said(end.format(3))) == ""
    assert "has no row and did not fail" in problems(tables=one_row, lines=said(end.format(2)))


def searched(number: int) -> Task:
    return structs.replace(task("tpe_search", number), output_dir="results_tpe")


def test_a_search_with_too_few_or_too_many_configurations_is_a_violation() -> None:
    tasks = tuple(searched(number) for number in range(7))

    def found(number: int, **more: object) -> str:
        rows = (Table("results_tpe", tuple(map(row, tasks[:number]))),)
        return problems(wanted=tasks[:number], known=tasks, tables=rows, **more)

    assert found(6) == ""
    assert found(5) == "samples: tpe_search ran 5 configurations, not 6"
    assert found(7) == "samples: tpe_search ran 7 configurations, not 6"
    assert found(7, deleted_s=(1.0,)) == ""


def test_a_task_that_was_judged_twice_at_a_rung_is_a_violation() -> None:
    verdict = RungRecord(phase="p", task_id="p_0_1", key="k", seed=1, rung=1, step=1, verdict="go")
    later = structs.replace(verdict, rung=3)
    assert problems(rungs=(verdict, later)) == ""
    assert problems(rungs=(verdict, later, verdict)) == "rungs: p_0_1 was judged 2 times at step 1"


@pytest.mark.parametrize("who", ["manager0", "worker1@far1"])
def test_an_acknowledged_task_without_its_row_is_a_violation(who: str) -> None:
    lines = said("Task quick_1_1 completed", who=who)
    assert "quick_1_1 was acknowledged and has no row" in problems(
        tables=(Table("results", ROWS[:1]),), lines=lines
    )


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((LENT, LENT), "assigned while assigned"),
        ((LENT, DONE, LENT, "Running task quick_0_1 (attempt 2)"), "assigned while complete"),
        ((LENT, DONE, LOST), "moved after it was complete"),
        ((LOST.replace("pending", "failed"), LENT), "assigned while failed"),
    ],
)
def test_a_move_that_the_table_does_not_hold_is_a_violation(texts: tuple[str, ...], words: str) -> None:
    assert words in problems(lines=said(*texts))


def test_a_lease_that_a_row_overtook_before_its_worker_heard_of_it_is_none() -> None:
    assert problems(lines=said(LENT, DONE, LENT)) == ""


def test_the_line_of_a_leases_end_may_follow_that_of_the_next_lease_at_once_but_not_later() -> None:
    first = said(LENT)
    at_once = (Line(5.0, "manager0", LENT), Line(5.1, "manager0", LOST), Line(9.0, "manager0", DONE))
    assert problems(lines=(*first, *at_once)) == ""
    later = (*first, at_once[0], replace(at_once[1], at_s=8.0))
    assert "assigned while assigned" in problems(lines=later)
    assert problems(lines=later, late_s=4.0) == "", "the machine is that busy"


def test_a_manager_may_end_with_1_only_if_a_task_failed() -> None:
    ends = (("manager1", 1, False),)
    assert "manager1 ended with exit code 1" in problems(ends=ends)
    end = said("Task quick_1_1 lost by cpu0: no sign of life (loss 5 of 5, now failed)")
    assert problems(tables=(Table("results", ROWS[:1]),), lines=end, ends=ends) == ""


def test_overlapping_attempts_need_a_lease_that_was_lost_before() -> None:
    marks = (*lived(1, 100, 1.0, 9.0), *lived(2, 200, 5.0, 9.0))
    assert "whose lease had not been lost" in problems(marks=marks, lines=said(LENT))
    lost = (Line(1.0, "manager0", LENT), Line(4.0, "manager0", LOST), Line(4.5, "manager0", LENT))
    assert problems(marks=marks, lines=lost) == ""
    seen_to_die = replace(lost[1], text=LOST.replace("no sign of life", "its process is gone"))
    assert "whose lease had not been lost" in problems(marks=marks, lines=(lost[0], seen_to_die, lost[2]))
    too_late = (*lost[:1], replace(lost[1], at_s=8.0))
    assert "whose lease had not been lost" in problems(marks=marks, lines=too_late)


def test_what_ran_when_the_managers_folder_was_deleted_may_run_twice() -> None:
    again = (LENT, "Generated 2 total tasks", LENT, DONE)
    assert "assigned while assigned" in problems(lines=said(*again))
    assert problems(lines=said(*again), deleted_s=(0.5,)) == ""
    two = (*lived(1, 7, 1.0, 5.0), *lived(1, 8, 3.0, 6.0))
    assert "began 2.00 s before the end of attempt 1" in problems(marks=two)
    assert problems(marks=two, deleted_s=(2.0,)) == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"left_over": ("process 7 is left: sleep",)}, "nothing_left: process 7"),
        ({"torn_lines": 2, "tears": 1}, "2 torn lines were set aside, the plan tore 1"),
        ({"lines": said("Traceback (most recent call last):")}, "no_bug_shown: manager0"),
        ({"ends": (("worker1", 1, False),)}, "worker1 ended with exit code 1"),
        ({"overdue": "the sweep did not end"}, "ended: the sweep did not end"),
    ],
)
def test_an_orphan_a_foreign_tear_a_traceback_a_bad_exit_and_a_sweep_without_end_are_violations(
    changed: dict[str, object], words: str
) -> None:
    assert words in problems(**changed)


def test_a_seed_makes_the_same_plan_each_time_and_another_seed_another() -> None:
    assert make_plan(7) == make_plan(7)
    assert make_plan(7) != make_plan(8)


def test_two_hundred_plans_hold_every_kind_of_event_and_both_kinds_of_hosts() -> None:
    plans = [make_plan(seed) for seed in range(200)]
    assert {event.kind for plan in plans for event in plan.events} == set(Kind) == set(WEIGHTS)
    assert {placement.far > 0 for plan in plans for placement in plan.workers} == {False, True}
    assert all(3 <= len(plan.workers) <= 6 for plan in plans)


def test_a_stalled_relay_holds_bytes_back_until_it_heals_and_a_cut_one_breaks_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(lambda: int(server.getsockname()[1]))
        with socket.create_connection(("127.0.0.1", relay.port), PATIENCE_S) as near:
            far, _ = server.accept()
            with far:
                relay.stall()
                near.sendall(b"held back")
                far.settimeout(ABSENCE_S)
                with pytest.raises(TimeoutError):
                    far.recv(100)
                far.settimeout(PATIENCE_S)
                relay.heal()
                assert far.recv(100) == b"held back"
                relay.cut()
                assert near.recv(1) == far.recv(1) == b""
        relay.close()


def test_a_plan_edits_configs_as_a_user_may_and_breaks_them_so_that_they_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config_exp1.yaml"
    for event in (event for seed in range(20) for event in make_plan(seed).events if event.text):
        path.write_text(event.text, encoding="utf-8")
        if event.kind is Kind.EDIT_CONFIG:
            assert load_configs([path], tmp_path)
        else:
            with pytest.raises(ConfigError):
                load_configs([path], tmp_path)


def test_what_a_run_leaves_behind_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "GONE_S", 0.0)
    stage = Stage(tmp_path, speed=1.0, far_hosts=1, config=Shape().text())
    results = stage.workdir.results_folder("results_quick")
    results.mkdir()
    done, left_alone = [task for task in stage.wanted() if task.phase == "quick"][:2]
    row = f"quick,{done.task_id},{done.config['kind']},{done.config['size']},{done.seed},1,1"
    header = "phase,task_id,kind,size,seed,score,duration_s"
    (results / "final_results.csv").write_text(f"{header}\n{row}\nquick,qui\n")
    (results / "final_results.csv.torn").write_text("quick,q\n")
    stage.workdir.state.mkdir()
    Journal(stage.workdir.journal).close()
    for task in (done, left_alone):
        Spool(tmp_path / "far1" / ".experiment_spool").put(f"{task.key}-lease", b"a result")
    (results / "final_results.csv.tmp").touch()
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()"],
        env={**os.environ, MARK_VARIABLE: stage.mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert orphan.stdout is not None
    try:
        orphan.stdout.readline()
        with locks.acquire(stage.workdir.state / "lock"):
            found = findings.gather(stage, tears=0, deleted_s=(), overdue="")
    finally:
        stage.close()
        orphan.communicate()
    left = "\n".join(found.left_over)
    assert f"process {orphan.pid} is left" in left
    assert "lock work/.experiment_manager/lock is held" in left
    assert "file work/results_quick/final_results.csv.tmp is left" in left
    assert f"file far1/.experiment_spool/{done.key}-lease.result is left" in left
    assert left_alone.key not in left
    assert found.tables[0].bad == ("quick,qui\n",)
    assert found.torn_lines == 1


@pytest.mark.parametrize("module", ["spawn", "forkserver"])
def test_only_where_a_child_is_born_as_its_worker_leaves_pythons_own_traceback_may_stand(module: str) -> None:
    birth = (
        "Traceback (most recent call last):",
        f'  File "multiprocessing/{module}.py"',
        "EOFError: Ran out of input",
    )
    lines = said(*birth, who="worker1@work")
    assert "no_bug_shown: worker1@work" in problems(lines=lines, ends=(("worker1@work", 0, False),))
    assert problems(lines=lines, ends=(("worker1@work", -9, True),)) == ""
    ours = said(birth[0], '  File "worker.py"', who="worker1@work")
    assert "no_bug_shown: worker1@work" in problems(lines=ours, ends=(("worker1@work", -9, True),))


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("said", "number", "is_excused"),
    [
        (["No task is left: every task of the sweep has ended"], signal.SIGTERM, True),
        (["Giving task slow_0_2 back: preempted"], signal.SIGTERM, True),
        (["Giving task slow_0_2 back: interrupted", "Running task slow_0_2"], signal.SIGTERM, False),
        (["No task is left: every task of the sweep has ended"], signal.SIGSEGV, False),
        (["Running task slow_0_1 (attempt 1)"], signal.SIGTERM, False),
        (["Running task slow_0_1 (attempt 1)", LAST_TASK], signal.SIGTERM, False),
        ([f"{LAST_TASK}; Ctrl+C again to stop", "Task slow_0_1 completed"], signal.SIGTERM, True),
        ([f"{ASKED} slow_0_1 to stop", "Task slow_0_1 completed"], signal.SIGTERM, True),
        (["Task slow_0_1 completed"], signal.SIGTERM, False),
    ],
)
def test_a_worker_may_end_by_a_signal_to_stop_once_it_was_done(
    said: list[str], number: signal.Signals, is_excused: bool
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    actor = Actor("worker1", process, Placement(0, "forkserver"), threading.Thread(), said)
    actor.signal(number)
    process.communicate()
    assert actor.is_excused is is_excused
