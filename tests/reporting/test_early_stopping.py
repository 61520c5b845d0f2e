"""What plan and report say of phases that stop tasks early."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distexp.cli.plan import main, told
from distexp.cli.report import main as report_command
from distexp.cli.summary import print_summary
from distexp.reporting.aggregate import make_report
from distexp.reporting.plan import make_plan
from distexp.reporting.search_progress import search_of
from distexp.results.audit import FileAudit, Row, audit
from distexp.results.rungs import read_rungs
from distexp.search.history import known_tasks
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.growing import GrowingPhase

SWEEP = """
defaults: {output_dir: ./results, experiment: "mine:run"}
seeds: [1, 2]
metric: {name: loss, goal: minimize}
early_terminate: {type: asha, max_iter: 9}
p: {combinations: [{width: [1, 2, 4]}]}
"""
ROWS = """\
phase,width,seed,loss,started_utc,stopped_at,duration_s
p,1,1,0.5,2026-01-01T00:00:00Z,,10
p,1,2,0.7,2026-01-01T00:00:00Z,,20
p,2,1,0.1,2026-01-01T00:00:11Z,3,1
p,4,1,0.6,2026-01-01T00:00:30Z,1,1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    results.mkdir()
    (results / "final_results.csv").write_text(ROWS)
    keys = [point.key for point in expand(parse_config(SWEEP, "f.yaml"))]
    lines = ["phase,task_id,key,seed,rung,step,value,verdict,rank,of,kept,max_iter,at_utc"]
    for at, rung, value, verdict in (
        (0, 1, 0.8, "go"),
        (2, 1, 0.4, "go"),
        (4, 1, 0.6, "stop"),
        (2, 3, 0.1, "stop"),
    ):
        lines.append(f"p,p_{at // 2}_1,{keys[at]},1,{rung},{rung},{value},{verdict},1,1,1,9,")
    lines += [f"p,p_1_1,{keys[2]},1,3,3,0.1,again,1,1,1,9,", "p,torn"]
    (results / "rungs.csv").write_text("\n".join(lines))
    return tmp_path


def reported(folder: Path) -> dict[str, Any]:
    phases = parse_config(SWEEP, "f.yaml")
    tasks = expand(phases)
    rungs = read_rungs(folder / "results" / "rungs.csv")
    found: dict[str, Any] = make_report(phases, tasks, audit(folder, tasks), [], None, rungs=rungs)
    return found


def test_plan_names_the_rungs_and_counts_pruned_tasks_apart(folder: Path) -> None:
    phases = parse_config(SWEEP, "f.yaml")
    tasks = expand(phases)
    plan = make_plan(phases, tasks, audit(folder, tasks), 1)
    assert (plan.complete, plan.pruned, plan.left) == (2, 2, 2)
    lines = told(plan)
    assert lines[2].strip() == "rungs at 1, 3, 9: 1 of 3 goes on, by loss (minimize)"
    assert "results/final_results.csv: completes 2 tasks, 2 pruned" in lines


@pytest.mark.parametrize(
    ("max_iter", "counts"),
    [
        ("max_iter: 9", (2, 1, 3)),
        ("max_iter: 27", (2, 0, 4)),
        ("max_iter: 3", (2, 1, 3)),
        ("eta: 3", (2, 0, 4)),
    ],
)
def test_plan_counts_stopped_tasks_of_which_more_is_wanted_as_left(
    folder: Path, max_iter: str, counts: tuple[int, int, int]
) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "config_exp1.yaml").write_text(SWEEP.replace("max_iter: 9", max_iter))
    done = CliRunner().invoke(main, ["--workdir", str(folder), "--json"])
    plan = json.loads(done.stdout)
    assert (plan["complete"], plan["pruned"], plan["left"]) == counts, "one was asked for again"
    assert (plan["phases"][0]["pruned"], plan["files"][0]["pruned"]) == (counts[1], counts[1])


def test_a_pruned_row_is_in_no_mean_of_finished_ones(folder: Path) -> None:
    report = reported(folder)
    (phase,) = report["phases"]
    assert (report["totals"]["complete"], report["totals"]["pruned"], report["rows"]) == (2, 2, 4)
    assert phase["complete"] == 2
    ((place, point),) = phase["shown"]["loss"]["lowest"]
    assert (place, point.mean, point.seeds) == ([0], 0.6, 2)


def test_the_report_says_how_many_tasks_were_stopped_early(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "config_exp1.yaml").write_text(SWEEP)
    done = CliRunner().invoke(report_command, ["--workdir", str(folder)])
    assert done.stdout == f"Wrote {folder / 'report.html'}: 2 of 6 tasks complete, 2 stopped early\n"


def test_a_search_that_stops_nobody_shows_its_best_over_the_finished_tasks(folder: Path) -> None:
    sweep = SWEEP.replace(
        "early_terminate: {type: asha, max_iter: 9}", "search: {method: random, samples: 3}"
    )
    phases = parse_config(sweep, "f.yaml")
    tasks = expand(phases)
    found = search_of(phases[0], [task.key for task in tasks], audit(folder, tasks), [])
    assert found
    assert (found["unit"], found["rungs"]) == ("finished tasks", [])
    assert found["best"] == [[1, 0.5], [2, 0.1], [4, 0.1]]


def test_an_adaptive_search_is_shown_by_the_configurations_that_it_has_chosen() -> None:
    sweep = """
metric: {name: loss, goal: minimize}
search: {method: tpe, samples: 20}
defaults: {output_dir: ./r, experiment: "mine:run"}
p: {combinations: [{lr: {min: 0.1, max: 0.9}}, {n: [1, 2]}]}
"""
    (phase,) = parse_config(sweep, "f.yaml")
    growing = GrowingPhase(phase)
    for at in range(9):
        growing.add({"lr": 0.1 + at / 20, "n": 1 + at % 2})
    rows = [Row([str(at), str(at % 2)], [task.key]) for at, task in enumerate(growing.tasks())]
    file = FileAudit(path="r/final_results.csv", columns=("loss", "lr"), rows=rows)
    (found,) = make_report([phase], growing.tasks(), [file], [], None)["phases"]
    assert [axis["values"] for axis in found["axes"]][1] == ["1", "2"]
    assert [mean for _, mean in found["shown"]["loss"]["dots"]] == [*range(9)]
    assert [share.axis for share in found["shown"]["loss"]["importance"]] == [0, 1]


@pytest.mark.parametrize(
    ("goal", "best"),
    [("minimize", [[1, 2, 0, 0.3], [3, 1, 1, 0.2]]), ("maximize", [[1, 2, 0, 0.6], [3, 1, 1, 0.2]])],
)
def test_the_best_of_a_rung_is_that_of_all_tasks_by_the_metric_of_now(
    folder: Path, goal: str, best: list[list[float]]
) -> None:
    keys = [point.key for point in expand(parse_config(SWEEP, "f.yaml"))]
    lines = ["phase,task_id,key,seed,rung,step,value,verdict,rank,of,kept,max_iter,at_utc,metric"]
    for at, rung, value, verdict, metric in (
        (0, 1, 0.01, "stop", "val"),  # before the metric was another
        (2, 1, 0.99, "go", "val"),
        (0, 1, 0.3, "go", "loss"),
        (0, 1, 9, "go", "loss"),  # the first counts
        (2, 1, 0.6, "go", "loss"),  # of another group, where it is the best as well
        (2, 1, 7, "again", "loss"),
        (4, 1, "", "stop", "val"),
        (0, 3, 0.2, "stop", ""),  # of a version that did not say
    ):
        lines.append(f"p,p_{at // 2}_1,{keys[at]},1,{rung},{rung},{value},{verdict},1,1,1,9,,{metric}")
    (folder / "results" / "rungs.csv").write_text("\n".join(lines))
    (phase,) = parse_config(SWEEP.replace("minimize", goal), "f.yaml")
    rungs = read_rungs(folder / "results" / "rungs.csv")
    found = search_of(phase, keys, [], rungs)
    assert found
    assert found["rungs"] == best


TPE = """
metric: {name: loss, goal: minimize}
search: {method: tpe, samples: 12}
defaults: {output_dir: ./results, experiment: "mine:run"}
p: {combinations: [{lr: {min: 0.1, max: 0.9}}]}
"""


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A search of which 7 of 12 samples have a row."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(TPE)
    (tmp_path / "results").mkdir()
    rows = [f"p,p_{at}_42,0.{at + 1},42,{at}" for at in range(7)]
    text = "\n".join(["phase,task_id,lr,seed,loss", *rows, ""])
    (tmp_path / "results" / "final_results.csv").write_text(text)
    return tmp_path


def test_the_report_and_the_summary_count_what_a_search_has_yet_to_choose(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = CliRunner().invoke(report_command, ["--workdir", str(searched)])
    assert done.stdout == f"Wrote {searched / 'report.html'}: 7 of 12 tasks complete\n"
    phases = parse_config(TPE, "f.yaml")
    tasks, to_come = known_tasks(phases, searched)
    report = make_report(phases, tasks, audit(searched, tasks), [], None, to_come=to_come)
    assert (report["totals"]["tasks"], report["totals"]["complete"]) == (12, 7)
    assert [(phase["tasks"], phase["complete"]) for phase in report["phases"]] == [(12, 7)]
    print_summary(searched, "configs/*.yaml", lambda verb, words: verb)
    assert "Next: run  goes on with the 5 tasks that are left" in capsys.readouterr().err.splitlines()


def test_the_report_shows_who_came_to_each_rung_and_the_best_over_all_steps(folder: Path) -> None:
    found = reported(folder)["phases"][0]["search"]
    assert found["rungs"] == [[1, 3, 1, 0.4], [3, 1, 1, 0.1]]
    assert found["best"] == [[9.0, 0.5], [12.0, 0.1], [22.0, 0.1]]
