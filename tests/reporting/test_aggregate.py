"""What a report holds, and its page in a real browser."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import CHROMIUM, Page
from distexp.cli.main import main as command
from distexp.cli.records import failures_of
from distexp.errors import UserError
from distexp.queue.records import TaskRecord
from distexp.reporting.aggregate import make_report
from distexp.reporting.html import embedded
from distexp.results.audit import audit
from distexp.results.row import row_for
from distexp.run_folder import run_folder
from distexp.sweep.config import load_configs, parse_config
from distexp.sweep.expand import expand
from distexp.task import Provenance, Task
from distexp.workdir import Workdir
from tests.live_manager import Folder, worker

NASTY = "</script><script>window.hacked=1</script><b>"
SWEEP = f"""
defaults: {{output_dir: ./results, experiment: "absent_module:run", epochs: 3}}
seeds: [1, 2, 3]
exp1_width:
  combinations:
    - width: [2, 1, 4]
    - data: [digits, '{NASTY}']
exp2_none:
  combinations:
    - lr: [0.1]
"""
CONFIG = "configs/config_exp1.yaml"
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)


def fill(folder: Folder) -> list[Task]:
    """Write the sweep and all rows of its first phase but one; return its tasks."""
    folder.configure("", SWEEP.replace("{", "{{").replace("}", "}}"))
    tasks = [point.task for point in expand(parse_config(SWEEP, CONFIG))]
    rows = []
    for at, task in enumerate(tasks[:17]):
        result = {"acc": 0.5 + task.config["width"] / 10 + task.seed / 100, "note": f"note {at}", "loss": 1.0}
        run = Provenance(worker="cpu0", host="ada", device="cpu", duration_s=2.0)
        rows.append({**row_for(task, result, run), "data": task.config["data"]})
    path = folder.root / "results" / "final_results.csv"
    path.parent.mkdir()
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows), "exp1_width,of no use"]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return tasks


def made(
    folder: Folder, records: list[TaskRecord] | None = None, metric: str | None = None
) -> dict[str, Any]:
    phases = parse_config(SWEEP, CONFIG)
    tasks = expand(phases)
    found: dict[str, Any] = make_report(phases, tasks, audit(folder.root, tasks), records or [], metric)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    fill(folder)
    return folder


def test_metrics_are_the_numbers_that_are_neither_parameters_nor_ours(folder: Folder) -> None:
    report = made(folder)
    assert report["metrics"] == ["acc", "loss", "duration_s"]
    assert report["metric"] == "acc"
    assert report["lower"] == ["loss", "duration_s"]


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_a_column_in_which_pandas_numbers_the_rows_is_no_metric(folder: Folder, index: str) -> None:
    path = folder.root / "results" / "final_results.csv"
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    numbered = [f"{index},{head}", *(f"{at},{line}" for at, line in enumerate(lines))]
    path.write_text("\n".join([*numbered, ""]), encoding="utf-8")
    report = made(folder)
    assert report["metrics"] == ["acc", "loss", "duration_s"]
    assert {column["name"]: column["group"] for column in report["columns"]}[index] == "ours"


def test_a_metric_that_is_not_there_is_refused_with_those_that_are(folder: Folder) -> None:
    with pytest.raises(UserError) as caught:
        made(folder, metric="f1")
    assert str(caught.value) == "--metric f1: no row has such a metric; choose one of: acc, loss, duration_s"


def test_each_axis_has_its_means_and_each_pair_its_map(folder: Folder) -> None:
    report = made(folder)
    first, second = report["phases"]
    assert (first["tasks"], first["complete"], first["seconds"]) == (18, 17, 34.0)
    charts = first["shown"]["acc"]
    width, data = charts["axes"]
    assert (width.axes, data.axes, width.runs, width.of) == ([0], [1], 5, 6)
    assert [(at, point.mean) for at, point in width.points] == [(0, 0.72), (1, 0.62), (2, 0.92)]
    (pairs,) = charts["maps"]
    assert (pairs.axes, len(pairs.pairs), len(pairs.pairs[0])) == ([0, 1], 2, 3)
    assert (second["complete"], second["shown"]) == (0, {})


def test_every_row_is_in_the_table_and_every_line_that_does_not_count_is_told(folder: Folder) -> None:
    report = made(folder)
    assert report["rows"] == 17
    phase, width = report["columns"][:2]
    assert (phase["distinct"], width["distinct"]) == (["exp1_width"], [2, 1, 4])
    assert report["problems"] == [
        ["results/final_results.csv", 19, "the line has 2 cells, and the header 22", 1]
    ]


def failed(task: Task, error: str) -> TaskRecord:
    return TaskRecord(key=task.key, state="failed", attempts=3, cause="error", error=error)


def test_failures_are_grouped_by_cause_and_are_of_tasks_that_have_no_row(folder: Folder) -> None:
    tasks = [point.task for point in expand(parse_config(SWEEP, CONFIG))]
    error = "Traceback ...\nmine.py:3: ValueError: no"
    records = [failed(tasks[19], error.replace("3", "4"))]  # the same cause, elsewhere
    records += [failed(tasks[0], error), failed(tasks[18], "other"), failed(tasks[17], error)]
    first, second = made(folder, records)["failures"]
    assert first == {
        "state": "failed",
        "cause": "error",
        "message": "mine.py:3: ValueError: no",
        "count": 2,
        "tasks": [tasks[17].task_id, tasks[19].task_id],
        "error": error,
        "folder": run_folder(tasks[17].output_dir, tasks[17].phase, tasks[17].seed, tasks[17].key).as_posix(),
    }
    assert (second["message"], second["count"]) == ("other", 1)


@pytest.mark.parametrize("text", [NASTY, "<!--<script>", "a\u2028b", 'quote " and \\'])
def test_no_text_can_leave_the_element_that_holds_the_data(text: str) -> None:
    page = embedded({"cell": text})
    assert not re.search(r"[<>\u2028]", page)
    assert json.loads(page) == {"cell": text}


def test_the_failures_are_those_of_the_running_manager_or_of_its_journal(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2])
    with folder.serving() as manager:
        entry, _ = manager.queue.entries()
        manager.queue.cancel(entry.task.key)
        manager.journal.flush()
        asked = failures_of(manager.workdir)
    read = [record for record in failures_of(manager.workdir) if record.state == "cancelled"]
    assert [(record.key, record.state) for record in asked] == [(entry.task.key, "cancelled")]
    assert [record.key for record in read] == [entry.task.key]


@pytest.mark.parametrize("cause", ["error", "setup"])
def test_a_failure_that_is_to_be_tried_again_is_one_while_the_manager_runs_and_after(
    tmp_path: Path, cause: str
) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 4])

    def failures(workdir: Workdir) -> list[tuple[str, str, str, int, list[str], bool]]:
        phases = load_configs([Path(workdir.configs)], tmp_path)
        report = make_report(phases, expand(phases), [], failures_of(workdir), None)
        names = ("state", "cause", "message", "count", "tasks")
        return [(*(each[name] for name in names), bool(each["folder"])) for each in report["failures"]]

    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
        about = {"lease_id": task["lease_id"], "key": task["key"], "cause": cause}
        talk.say("task_failed", **about, error="Traceback ...\nValueError: no")
        manager.journal.flush()
        asked = failures(manager.workdir)
    message = "ValueError: no" if cause == "error" else asked[0][2]
    assert asked == [("pending", cause, message, 1, [task["task_id"]], cause == "error")]
    assert failures(manager.workdir) == asked


TWO_METRICS = """
defaults: {output_dir: "./results_{phase}", experiment: "absent_module:run"}
exp1_acc: {metric: {name: acc, goal: maximize}, combinations: [{lr: [1, 2, 3]}]}
exp2_nll: {metric: {name: nll, goal: minimize}, combinations: [{lr: [1, 2, 3]}]}
"""


@pytest.fixture
def two_metrics(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.configure("", TWO_METRICS.replace("{", "{{").replace("}", "}}"))
    for phase, metric in (("exp1_acc", "acc"), ("exp2_nll", "nll")):
        rows = [f"{phase},{lr},42,0.{lr},{phase}-{lr}" for lr in (1, 2, 3)]
        header = f"phase,lr,seed,{metric},run_dir"
        folder.add_rows(*rows, header=header, place=f"results_{phase}")
    return folder


def test_each_phase_has_its_own_metric_and_the_curves_of_its_best_rows_are_wanted(
    two_metrics: Folder,
) -> None:
    phases = parse_config(TWO_METRICS, CONFIG)
    wanted: list[str] = []

    def curves(folders: Sequence[str], best: Sequence[int]) -> dict[str, Any]:
        wanted.extend(folders[row] for row in best)
        return {}

    tasks = expand(phases)
    report = make_report(phases, tasks, audit(two_metrics.root, tasks), [], None, curves=curves)
    assert report["metric"] == "acc"
    assert [phase["metric"] for phase in report["phases"]] == ["acc", "nll"]
    assert [each for each in wanted if "acc" in each] == [f"exp1_acc-{lr}" for lr in (3, 2, 1)]
    assert [each for each in wanted if "nll" in each] == [f"exp2_nll-{lr}" for lr in (1, 2, 3)]


@pytest.mark.slow
@needs_chromium
def test_the_card_of_a_phase_shows_its_own_metric_where_no_row_has_the_chosen_one(
    two_metrics: Folder, chromium: Page
) -> None:
    assert command(["report", "--workdir", str(two_metrics.root)]) == 0
    chromium.open(two_metrics.root / "report.html")
    card = chromium.ask("document.getElementById('phase-exp2_nll').innerText")
    assert "No row of this phase has a number in acc: this is its own metric, nll." in card
    assert "Best combinations: lowest mean nll" in card
    choices = "[...document.querySelectorAll('#explore select')]"
    choice = f"{choices}.find((each) => each.options[1].text === 'exp2_nll')"
    chromium.ask(f"(({choice}).value = '1', ({choice}).dispatchEvent(new Event('change')))")
    explored = chromium.ask("document.getElementById('explore').innerText")
    assert "nll against lr" in explored
    assert "All of exp2_nll, by nll" in explored


def test_a_report_of_no_rows_is_a_report_and_leaves_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2])
    assert command(["report", "--workdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'report.html'}: 0 of 2 tasks complete\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs", "report.html"]


def test_a_report_is_made_without_failures_where_they_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2])
    with folder.serving() as manager:
        journal = manager.workdir.journal
    journal.write_bytes(b"no database at all, but long enough to be looked at as one" * 100)
    assert command(["report", "--workdir", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"warning: the report lists no failures: {journal}: ")
    assert shown.out == f"Wrote {tmp_path / 'report.html'}: 0 of 2 tasks complete\n"


def test_a_report_that_cannot_be_written_is_one_line(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.root / "absent" / "report.html"
    assert command(["report", "--workdir", str(folder.root), "--out", str(out)]) == 2
    told = f"error: --out {out}: cannot be written: No such file or directory\n"
    assert capsys.readouterr().err == told


# -- in a browser


@pytest.fixture
def opened(folder: Folder, chromium: Page) -> Iterator[Page]:
    """The report of the folder, open in the browser; it neither complains nor uses a network."""
    assert command(["report", "--workdir", str(folder.root)]) == 0
    chromium.open(folder.root / "report.html")
    yield chromium
    assert chromium.said == []
    assert [each for each in chromium.requests if not each.startswith(("file:", "data:", "blob:"))] == []


def cells(page: Page, column: str) -> list[str]:
    """The cells of one column that are on the screen."""
    found: list[str] = page.ask(
        f"""(() => {{ const at = [...document.querySelectorAll('#table thead tr:first-child button')]
        .findIndex((button) => button.textContent.split(' ')[0] === '{column}');
        const rows = [...document.querySelectorAll('#table tbody tr')];
        return rows.map((row) => row.children[at].textContent) }})()"""
    )
    return found


def head(page: Page, column: str) -> str:
    """A selector of the button that sorts a column."""
    at = page.ask(
        f"""[...document.querySelectorAll('#table thead tr:first-child button')]
        .findIndex((button) => button.textContent.split(' ')[0] === '{column}')"""
    )
    return f"#table thead tr:first-child th:nth-child({at + 1}) button"


@pytest.mark.slow
@needs_chromium
def test_a_click_sorts_the_table_and_a_second_one_turns_it_round(opened: Page) -> None:
    before = cells(opened, "acc")
    assert len(before) == 17
    opened.click(head(opened, "acc"))
    assert cells(opened, "acc") == sorted(before, key=float)
    opened.click(head(opened, "acc"))
    assert cells(opened, "acc") == sorted(before, key=float, reverse=True)
    assert opened.ask("document.querySelector('[aria-sort=descending]').textContent") == "acc ▼"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("column", "text", "kept"),
    [
        ("width", ">=2", {"2", "4"}),
        ("width", "=4", {"4"}),
        ("data", "</SCRIPT>", {NASTY}),
        ("data", "=digits", {"digits"}),
    ],
)
def test_a_filter_keeps_the_rows_that_it_names(opened: Page, column: str, text: str, kept: set[str]) -> None:
    opened.click(f"#table input[data-column={column}]")
    opened.type(text)
    assert set(cells(opened, column)) == kept
    shown = opened.ask("document.getElementById('count').textContent")
    assert shown == f"{len(cells(opened, column))} of 17 rows"


@pytest.mark.slow
@needs_chromium
def test_charts_are_drawn_and_no_cell_becomes_code(opened: Page) -> None:
    opened.resize(1280, 3000)
    opened.ask(
        """new Promise((done) => { const look = () => document.querySelectorAll('.plot .main-svg').length >= 6
        ? done(true) : requestAnimationFrame(look); look() })"""
    )
    assert (
        opened.ask("window.hacked === undefined && document.querySelectorAll('main b').length") == 5
    )  # the tiles
    ticks = opened.ask("[...document.querySelectorAll('.xtick text')].map((tick) => tick.textContent)")
    assert "</script><scrip…" in ticks
    assert NASTY in opened.ask("document.querySelector('#phases .scroll table').textContent")
    opened.ask("document.getElementById('metric').value = 'loss'")
    opened.ask("document.getElementById('metric').dispatchEvent(new Event('change'))")
    assert opened.ask("document.getElementById('best').value") == "lowest"
    assert "Best combinations: lowest mean loss" in opened.ask(
        "document.querySelector('#phases').textContent"
    )


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_never_wider_than_the_window(opened: Page, width: int) -> None:
    opened.resize(width, 900)
    assert opened.ask("document.documentElement.scrollWidth") == width


@pytest.mark.slow
@needs_chromium
def test_a_heat_map_has_numbers_ascending_whatever_their_order_in_the_config(opened: Page) -> None:
    named = "[...document.querySelectorAll('.plot')].find((plot) => plot.data?.[0]?.type === 'heatmap')"
    opened.ask(
        f"new Promise((done) => {{ const look = () => {named} ? done() "
        ": requestAnimationFrame(look); look() })"
    )
    axis, row = opened.ask(f"[{named}.layout.xaxis.ticktext, {named}.data[0].z[0]]")
    assert axis == ["1", "2", "4"]
    assert row == sorted(row)


@pytest.mark.slow
@needs_chromium
def test_the_page_counts_tasks_that_have_failed_and_are_to_be_tried_again(
    tmp_path: Path, chromium: Page
) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2, 4])
    with folder.serving() as manager, worker(manager) as talk:
        task = talk.say("request_task")
        about = {"lease_id": task["lease_id"], "key": task["key"], "cause": "error"}
        talk.say("task_failed", **about, error="Traceback ...\nValueError: no")
    assert command(["report", "--workdir", str(tmp_path)]) == 0
    chromium.open(tmp_path / "report.html")
    tiles = chromium.ask("[...document.querySelectorAll('.tile')].map((tile) => tile.innerText)")
    assert "0\nfailed for good" in tiles
    assert "1\nfailed, to be tried again" in tiles
    told = chromium.ask("document.querySelector('#failures').innerText")
    assert "1 failed, to be tried again · error: ValueError: no" in told
