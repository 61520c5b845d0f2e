"""The report of a real sweep in a real browser: what a reader chooses, and that it is what the rows say."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.browser import CHROMIUM, Page
from distexp.cli.main import main as command
from distexp.reporting.frame import load_metrics, load_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]

SWEEP = """
defaults: {experiment: "page_experiment:run", output_dir: "./results_{phase}", epochs: 9, weight_decay: 5e-4}
metric: {name: acc, goal: maximize}
grid:
  combinations:
    - data: [digits, wine]
    - lr: [0.0005, 0.005, 0.05]
    - width: [2, 4]
halved:
  early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 9}
  combinations:
    - lr: [0.0005, 0.005, 0.05]
    - width: [2, 4]
"""
EXPERIMENT = r"""
def run(params, context):
    if params.get("data") == "wine" and params["lr"] == 0.05:
        raise ValueError("never")
    for epoch in range(1, params["epochs"] + 1):
        acc = epoch / (10 + 3 * params["width"]) + params["lr"]
        context.report(epoch, params["epochs"], acc=acc)
        if context.should_stop():
            raise context.Stopped
    return {"acc": acc, "note": "two, \"quoted\"" if params["width"] == 2 else "<b>plain</b>"}
"""
LIST = "[...document.querySelectorAll('#columns {}')].find((each) => each.textContent == {}).click()"
ALL_CONTROLS = "[...document.querySelectorAll('a[href], button, select, input, summary')]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep: rows of finished and of stopped tasks, two that failed, curves."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "configs").mkdir()
    (root / "configs" / "config_exp1.yaml").write_text(SWEEP)
    (root / "page_experiment.py").write_text(EXPERIMENT)
    words = ["--workdir", str(root), "--workers", "1", "--device", "cpu", "--port", "0"]
    assert command(["run", *words]) == 1, "two tasks fail"
    assert command(["report", "--workdir", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def rows(folder: Path) -> pd.DataFrame:
    return load_results(folder)


@pytest.fixture
def page(folder: Path, chromium: Page) -> Iterator[Page]:
    """The report, open; it neither complains nor uses a network."""
    load(chromium, (folder / "report.html").as_uri())
    yield chromium
    assert chromium.said == []
    others = [
        each for each in chromium.requests if not each.startswith(("file:", "data:", "blob:", "about:"))
    ]
    assert others == []


def load(page: Page, address: str) -> None:
    """Open a new page at this address, whatever follows its #."""
    page.go("about:blank")
    page.go(address)


def await_true(page: Page, condition: str) -> None:
    look = f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look()"
    page.ask(f"new Promise((done) => {{ {look} }})")


def choose(page: Page, label: str, value: str, within: str) -> None:
    """Choose an option of the selection with this label."""
    labels = f"[...document.querySelectorAll('{within} label')]"
    page.ask(
        f"""(() => {{ const found = {labels}.find((each) => each.textContent.startsWith({json.dumps(label)}));
        const select = found.querySelector('select'); select.value = {json.dumps(value)};
        select.dispatchEvent(new Event('change')) }})()"""
    )


def tick(page: Page, column: str) -> None:
    """Click a column in the list of columns."""
    page.ask(LIST.format("label", json.dumps(column)))


def shown(page: Page) -> list[dict[str, str]]:
    """The table as it is on the screen."""
    heads = page.ask("[...document.querySelectorAll('#table thead button')].map((e) => e.dataset.column)")
    cells = page.ask(
        "[...document.querySelectorAll('#table tbody tr')]"
        ".map((row) => [...row.querySelectorAll('td:not(.mark)')].map((cell) => cell.textContent))"
    )
    return [dict(zip(heads, each, strict=True)) for each in cells]


def drawn(page: Page, title: str, within: str = "body") -> Any:
    """The traces of the chart with this title, once it is there."""
    plots = f"[...document.querySelectorAll('{within} .plot')]"
    plot = f"{plots}.find((each) => each.ariaLabel === {json.dumps(title)})"
    page.ask(f"{plot}.scrollIntoView()")
    await_true(page, f"{plot}.data !== undefined")
    return page.ask(f"{plot}.data.map(({{ x, y, marker }}) => ({{ x: [...x], y: [...y], marker }}))")


def saved(page: Page) -> list[dict[str, str]]:
    """Press the button and read what it offers."""
    page.ask("void (URL.createObjectURL = (blob) => { window.offered = blob; return 'blob:' })")
    page.ask("void (HTMLAnchorElement.prototype.click = () => {})")
    page.click("#csv")
    return [*csv.DictReader(io.StringIO(page.ask("window.offered.text()"), newline=""))]


def test_rows_are_grouped_by_any_columns_and_a_group_shows_its_rows(page: Page, rows: pd.DataFrame) -> None:
    for name in ("phase", "lr"):
        page.ask(LIST.replace("#columns", "#groups-choice").format("label", json.dumps(name)))
    lines = "[...document.querySelectorAll('#groups tbody tr')]"
    cells = f"{lines}.map((line) => [...line.cells].map((each) => each.innerText))"
    finished = rows[rows["stopped_at"].isna()].groupby(["phase", "lr"])["acc"].agg(["count", "mean"])
    found = {
        (phase, float(lr)): (int(n), float(acc.split(" ")[0])) for phase, lr, n, acc, *_ in page.ask(cells)
    }
    assert found == {
        key: (each["count"], pytest.approx(each["mean"], abs=0.01)) for key, each in finished.iterrows()
    }
    assert "Within a group these differ, too: data, width." in page.ask(
        "document.querySelector('#groups').innerText"
    )
    address = page.ask("location.href")
    load(page, address)
    assert page.ask(f"{cells}.length") == len(finished)
    page.ask("document.querySelector('#groups tbody button').click()")
    kept = shown(page)
    assert {(row["phase"], row["lr"]) for row in kept} == {("grid", "0.0005")}
    await_true(page, f"{cells}.length === 1")


def test_curves_are_averaged_for_each_value_of_a_column(page: Page, folder: Path, rows: pd.DataFrame) -> None:
    choose(page, "Tasks", "all", "#curves")
    choose(page, "Colour", "width", "#curves")
    labels = "[...document.querySelectorAll('#curves label')]"
    page.ask(f"{labels}.find((each) => each.textContent === 'mean of each colour').click()")
    lines = drawn(page, "Mean acc over steps by width", "#curves")[1::2]
    for line, width in zip(lines, (2, 4), strict=True):
        same = [load_metrics(row, workdir=folder) for _, row in rows[rows["width"] == width].iterrows()]
        steps = pd.concat(same).groupby("step")["acc"].mean()
        assert line["x"] == [*steps.index]
        assert line["y"] == pytest.approx([*steps], rel=1e-5)


def test_filters_order_columns_and_choices_are_in_the_address_and_survive_a_reload(page: Page) -> None:
    page.click("#table input[data-column=lr]")
    page.type("<=0.005")
    page.click("#table button[data-column=acc]")
    page.click("#table button[data-column=acc]")
    tick(page, "host")
    tick(page, "note")
    choose(page, "Colour", "width", ".controls")
    choose(page, "Right", "width", "#explore")
    before, address = shown(page), page.ask("location.href")
    assert {row["lr"] for row in before} == {"0.0005", "0.005"}
    assert "host" in before[0]
    assert "note" not in before[0]
    load(page, address)
    assert shown(page) == before
    assert page.ask("document.querySelector('[aria-sort=descending]').textContent") == "acc ▼"
    assert page.ask("document.getElementById('colour').value") == "width"
    assert page.ask("document.querySelector('#explore .chart h3').textContent") == "acc against width"
    page.click("#clear")
    assert len(shown(page)) == 16
    assert "f.lr" not in page.ask("location.href")


def test_an_address_that_names_what_is_not_there_shows_the_report(page: Page) -> None:
    words = "metric=f1&best=up&colour=no&sort=-no&f.gone=1&phase=9&x=gone&y=gone&curve=f1&which=no&show=no"
    load(page, f"{page.ask('location.href')}#{words}")
    assert len(shown(page)) == 16


def test_the_csv_holds_the_rows_as_they_are(page: Page, rows: pd.DataFrame) -> None:
    found = saved(page)
    assert [*found[0]][:6] == ["phase", "data", "lr", "width", "acc", "duration_s"]
    expected = {row["task_id"]: row for row in rows.to_dict("records")}
    assert {row["task_id"] for row in found} == {*expected}
    for row in found:
        there = expected[row["task_id"]]
        assert (float(row["acc"]), float(row["lr"])) == (there["acc"], there["lr"]), "every digit"
        assert row["note"] == ("" if pd.isna(there["note"]) else there["note"])


def test_the_csv_holds_what_is_filtered_in_the_order_and_columns_shown(page: Page) -> None:
    page.ask(LIST.format("button", "'none'"))
    tick(page, "task_id")
    tick(page, "acc")
    page.click("#table button[data-column=acc]")
    page.click("#table input[data-column=task_id]")
    page.type("grid_")
    found = saved(page)
    assert [*found[0]] == ["acc", "task_id"]
    values = [float(row["acc"]) for row in found]
    assert values == sorted(values)
    assert len(values) == 10


def test_every_control_is_reached_by_tab_and_has_a_name(page: Page) -> None:
    page.resize(1280, 9000)
    await_true(page, "[...document.querySelectorAll('.plot')].every((each) => each.childElementCount)")
    wanted = page.ask(
        f"{ALL_CONTROLS}.filter((each) => each.checkVisibility() && !each.disabled)"
        ".map((each, at) => each.dataset.number = at)"
    )
    seen, nameless = set[int](), list[str]()
    for _ in range(len(wanted) + 40):
        page.press("Tab")
        number, name, text = page.ask(
            """(() => { const each = document.activeElement; return [each.dataset.number ?? null,
            each.ariaLabel || each.labels?.[0]?.textContent || each.textContent, each.outerHTML] })()"""
        )
        if number is not None:
            seen.add(int(number))
            if not name.strip():
                nameless.append(text)
    assert ({*wanted} - seen, nameless) == (set(), [])


def test_keys_sort_and_open_and_close_the_list_of_columns(page: Page) -> None:
    page.ask("document.querySelector('#table button[data-column=acc]').focus()")
    page.press("Enter")
    assert page.ask("document.activeElement.dataset.column") == "acc", "the head keeps the focus"
    values = [float(row["acc"]) for row in shown(page)]
    assert values == sorted(values)
    page.ask("document.querySelector('.menu summary').focus()")
    page.press("Enter")
    page.press("Tab")
    assert page.ask("document.activeElement.closest('#columns') !== null")
    page.press("Escape")
    assert not page.ask("document.querySelector('.menu').open")


def test_a_second_axis_colours_the_chart_of_the_first(page: Page, rows: pd.DataFrame) -> None:
    choose(page, "Colour", "data", ".controls")
    digits, wine = drawn(page, "acc by width and data", "#phase-grid")
    there = rows[(rows["phase"] == "grid") & (rows["lr"] < 0.05)]  # what both have
    for name, trace in (("digits", digits), ("wine", wine)):
        means = there[there["data"] == name].groupby("width")["acc"].mean()
        assert (trace["x"], trace["y"]) == ([2, 4], pytest.approx([*means], rel=1e-5))
    assert digits["marker"]["color"] != wine["marker"]["color"]
    place = "document.querySelector('#phase-grid .legend').parentNode.textContent"
    assert "digits" in page.ask(place)
    assert "(2 missing)" in page.ask("document.querySelector('#phase-grid').textContent")


@pytest.mark.parametrize("values", [[0.1, 0.01], [1, 100, 10], [3]])
def test_an_axis_has_place_for_values_without_a_dot(page: Page, values: list[float]) -> None:
    low, high, kind = page.ask(
        f"""(() => {{ const plot = document.body.appendChild(document.createElement("div"));
        charts.dots({{ name: "lr", numeric: true, values: {values} }}, "acc", [[0, 0.5]])(plot);
        const {{ range, type }} = plot._fullLayout.xaxis;
        return [...range, type]; }})()"""
    )
    least, most = (math.log10(each) if kind == "log" else each for each in (min(values), max(values)))
    assert low < least <= most < high
    assert len(values) == 1 or high - low < 1.2 * (most - least)


def test_any_column_stands_against_any_other_and_stopped_rows_are_rings(
    page: Page, rows: pd.DataFrame
) -> None:
    choose(page, "Phase", "1", "#explore")
    choose(page, "Right", "width", "#explore")
    choose(page, "Up", "duration_s", "#explore")
    (trace,) = drawn(page, "duration_s against width")
    own = rows[rows["phase"] == "halved"]
    pairs = sorted(zip(trace["x"], trace["y"], strict=True))
    assert pairs == sorted(zip(own["width"], own["duration_s"], strict=True))
    rings = sum(symbol == "circle-open" for symbol in trace["marker"]["symbol"])
    assert rings == own["stopped_at"].notna().sum() > 0
    choose(page, "Up", "note", "#explore")
    (trace,) = drawn(page, "note against width")
    assert {*trace["y"]} == {*own["note"].dropna()}


def test_the_filter_of_the_table_holds_for_the_charts(page: Page) -> None:
    page.click("#table input[data-column=width]")
    page.type("=4")
    await_true(page, "document.querySelector('#explore').textContent.includes('that the filter')")
    (trace,) = drawn(page, "acc against lr")
    assert len(trace["x"]) == sum(row["phase"] == "grid" for row in shown(page))


def test_a_range_drawn_on_an_axis_of_the_coordinates_filters_the_table(page: Page) -> None:
    page.resize(1280, 9000)
    place = "document.querySelector('.parallel canvas')"
    await_true(page, f"{place} && {place}.width > 0")
    data = f"{place}.getContext('2d').getImageData(0, 0, {place}.width, {place}.height).data"
    assert page.ask(f"{data}.some((each) => each > 0)"), "something is drawn"
    box = f"(({{x, y, width, height}}) => [x, y, width, height])({place}.getBoundingClientRect())"
    x, y, width, height = page.ask(box)
    for away in range(20, 90, 8):  # the last axis stands where its texts leave room
        page.drag((x + width - away, y + 30), (x + width - away, y + height / 2))
        if "f.acc" in page.ask("location.href"):
            break
    low, _, high = page.ask("new URLSearchParams(location.hash.slice(1)).get('f.acc')").partition("..")
    values = [float(row["acc"]) for row in shown(page)]
    assert 0 < len(values) < 16
    assert all(float(low) - 1e-3 <= value <= float(high) + 1e-3 for value in values)


def test_ticked_rows_show_their_curves_and_those_are_what_the_tasks_reported(
    folder: Path, page: Page, rows: pd.DataFrame
) -> None:
    name = next(row["task_id"] for row in shown(page) if not row["stopped_at"])
    page.click(f"#table input[aria-label='Curve of {name}']")
    (trace,) = drawn(page, "acc over steps")
    (row,) = (row for _, row in rows.iterrows() if row["task_id"] == name)
    curve = load_metrics(row, workdir=folder)
    assert trace["x"] == [*curve["step"]]
    assert trace["y"] == pytest.approx([*curve["acc"]], rel=1e-5)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0.0005, "0.0005"),
        (5e-5, "5e-5"),
        (0.1, "0.1"),
        (1 / 3, "0.33333"),
        (123456.789, "123457"),
        (1e20, "1e20"),
        (-2.5e-7, "-2.5e-7"),
        (1000000, "1000000"),
        (0, "0"),
    ],
)
def test_numbers_are_written_as_people_write_them(page: Page, number: float, written: str) -> None:
    assert page.ask(f"text.shown({number!r})") == written


@pytest.mark.parametrize("width", [400, 1280, 2000])
def test_the_page_fits_any_window_with_every_chart_drawn(page: Page, width: int) -> None:
    page.resize(width, 9000)
    await_true(page, "[...document.querySelectorAll('.plot')].every((each) => each.childElementCount)")
    assert page.ask("document.documentElement.scrollWidth") == width
