"""The benchmarks' own machinery: a tiny measure end to end, figures and bars, rivals that are not there."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, report
from benchmarks.figures import Figure, at_least, at_most, from_json, table, times_at_least, times_at_most
from benchmarks.harness import folder, manager
from benchmarks.million import config
from benchmarks.peer import drive
from benchmarks.rivals import Rival
from distexp.errors import NoGpuError
from distexp.gpu.devices import list_gpus
from tests.pages import page, rows, section

ABSENT = Rival("Nowhere", "on_nowhere.py", package="there-is-no-such-package")


def tiny() -> list[Figure]:
    """Real tasks over two real connections, beside a rival that is not installed."""
    with folder(config(20, 20)) as workdir, manager(workdir):
        times = drive(workdir.root, 0, 2, 0.2)
    return [Figure("tasks", "", [len(times)] * 3, times_at_least(1), ABSENT.name(), ABSENT.run())]


def test_a_measure_ends_as_a_table_and_as_json_that_holds_every_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks.run({"tiny": tiny}, tmp_path / "out") == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("tasks ")]
    assert "Nowhere: not installed" in line
    assert line.endswith("not compared")
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    (figure,) = found["measures"]["tiny"]
    assert len(figure["ours"]) == 3
    assert min(figure["ours"]) > 0
    assert found["machine"].keys() == {"cpu", "cores", "memory_gib", "os", "python", "load_at_end"}


def test_figures_that_were_kept_give_the_same_table_again(tmp_path: Path) -> None:
    kept = [
        Figure("rate", "/s", [90.0, 100.0, 120.0], times_at_least(1), "rival 1.0", [80.0, 50.0, 60.0]),
        Figure("wait", "ms", [7.0], at_most(5)),
        Figure("size", "MB", [7.5, 7.5, 8.0]),
    ]
    results = report.save({"some": kept}, tmp_path)
    again = json.loads(results.read_text(encoding="utf-8"))["measures"]["some"]
    assert table([from_json(each) for each in again]) == table(kept)
    lines = rows(report.markdown(results))
    assert lines[0] == ["rate", "100/s", "60/s, rival 1.0", "1.67", "30 %", "at least 1 x", "holds"]
    assert lines[1] == ["wait", "7 ms", "-", "-", "-", "at most 5 ms", "MISSED"]
    assert lines[2] == ["size", "7.5 MB", "-", "-", "7 %", "-", "reported"]


def test_the_ratio_of_pairs_is_the_median_of_their_ratios_with_its_interval() -> None:
    bare = [10.0, 20.0, 30.0, 10.0, 20.0, 30.0, 10.0, 20.0, 30.0]
    ours = [each * ratio for each, ratio in zip(bare, range(1, 10), strict=True)]
    pairs = Figure("trainings", "s", ours, times_at_most(5), "bare", bare, is_paired=True)
    assert (pairs.ratio, pairs.interval, pairs.verdict) == (5, (2, 8), "holds")
    assert pairs.cells()[3] == "5 (2 to 8)"
    assert table([from_json(pairs.as_json())]) == table([pairs])
    assert Figure("trainings", "s", ours[:5], None, "bare", bare[:5], is_paired=True).interval is None


def test_the_table_replaces_what_stands_between_the_marks_of_a_page(tmp_path: Path) -> None:
    results = report.save({"some": [Figure("size", "MB", [7.5, 7.5, 8.0])]}, tmp_path)
    page_ = tmp_path / "page.md"
    page_.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        assert report.main([str(results), "--into", str(page_)]) == 0
        text = page_.read_text(encoding="utf-8")
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert text.count("| size |") == 1


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("cost", "s", [1, 2, 9], at_most(2)), "holds"),
        (Figure("cost", "s", [1, 2.1, 9], at_most(2)), "MISSED"),
        (Figure("rate", "/s", [1, 2, 9], at_least(2)), "holds"),
        (Figure("rate", "/s", [1, 1.9, 9], at_least(2)), "MISSED"),
        (Figure("cost", "s", [1, 3, 9], times_at_most(1.5), "other", [2]), "holds"),
        (Figure("cost", "s", [1, 3.1, 9], times_at_most(1.5), "other", [2]), "MISSED"),
        (Figure("rate", "/s", [1, 1.9, 9], times_at_least(1), "other", [2]), "MISSED"),
        (Figure("rate", "/s", [1, 2, 9], times_at_least(1), "other", []), "not compared"),
        (Figure("rate", "/s", [1, 2, 9]), "reported"),
    ],
)
def test_the_median_is_held_against_the_bar(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict
    assert figure.holds == (verdict != "MISSED")


def test_a_missed_bar_ends_with_exit_code_1_and_an_unknown_name_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks.run({"missed": lambda: [Figure("wait", "ms", [7.0], at_most(5))]}, tmp_path) == 1
    assert benchmarks.main(["nonsense"]) == 2
    assert "benchmarks: no benchmark is called nonsense; there are durable, " in capsys.readouterr().err


def test_the_page_of_the_benchmarks_lists_every_measure_check_and_rival() -> None:
    text = page("benchmarks/README.md")
    named = {cells[0].strip("`") for cells in rows(section(text, "Measures"))}
    assert named == set(benchmarks.MEASURES)
    assert {cells[0].strip("`") for cells in rows(section(text, "Checks"))} == set(benchmarks.CHECKS)
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+) +# .", page("benchmarks/requirements.txt"), re.M))
    listed = {cells[0].strip("`") for cells in rows(section(text, "Rivals"))}
    assert set(pinned) <= listed


def test_a_rival_that_fails_costs_its_own_figure_alone_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rival = Rival("Script", str(tmp_path / "script.py"))
    Path(tmp_path, "script.py").write_text("raise SystemExit('no room')", encoding="utf-8")
    assert rival.run() == []
    assert capsys.readouterr().err.endswith("script.py failed: no room\n")
    Path(tmp_path, "script.py").write_text("print('noise'); print('{\"value\": 7}')", encoding="utf-8")
    assert rival.run() == [7.0]


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_trainings_that_share_a_gpu_by_their_memory_get_more_done_than_one_at_a_time() -> None:
    try:
        list_gpus()
    except NoGpuError as error:
        pytest.skip(str(error))
    rates = {slots: gpu.rate(slots, 40) for slots in ("1", "4", "auto")}
    print(
        *(f"{60 * rate:.0f} trainings an hour with {slots} slots" for slots, rate in rates.items()), sep="; "
    )
    assert rates["auto"] > rates["1"]
