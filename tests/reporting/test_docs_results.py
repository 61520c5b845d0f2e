"""docs/results.md: its sweep is run as a user runs it, and every recipe is followed."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import PROJECT, blocks, page, section

RESULTS = page("docs/results.md")
EXPERIMENT = """
def run(params, context):
    if params["dataset"] == "wine" and params["lr"] == 0.3:
        raise FloatingPointError("loss is not finite")
    for step in range(1, 4):
        context.report(step, 3, loss=params["lr"] ** 2 / step + context.seed / 1000)
    print("done")
    return {"loss": params["lr"] ** 2 + context.seed / 1000}
"""


def sweep(root: Path) -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "config_exp1.yaml").write_text(blocks(RESULTS, "yaml")[0])
    (root / "curves.py").write_text(EXPERIMENT)
    words = [sys.executable, PROJECT / "experiment_manager.py", "run", "--workers", "1", "--device", "cpu"]
    done = subprocess.run(
        [*words, "--plain", "--port", "0"], cwd=root, check=False, capture_output=True, text=True, timeout=120
    )
    assert "45/54 (83.3%)" in done.stdout + done.stderr, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = sweep(tmp_path_factory.mktemp("docs_results") / "lab")
    (root / "datasets.csv").write_text("dataset,classes\ndigits,10\nwine,3\n")
    before = root.parent / "before"
    (before / "results_curves").mkdir(parents=True)
    rows = (root / "results_curves" / "final_results.csv").read_text()
    (before / "results_curves" / "final_results.csv").write_text(rows)
    (before / "configs").symlink_to(root / "configs")
    return root


def follow(lab: Path, monkeypatch: pytest.MonkeyPatch, *headings: str) -> tuple[dict[str, Any], str]:
    """Return the names that the page's first lines and these sections define, and what they print."""
    monkeypatch.chdir(lab)
    monkeypatch.setenv("PYTHONPATH", os.fspath(PROJECT))
    texts = blocks(RESULTS.split("\n## ")[0], "python")
    for heading in headings:
        texts += blocks(section(RESULTS, heading), "python")
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for text in texts:
            exec(text, names)
    return names, printed.getvalue()


BEST = "The best configuration, with its interval over seeds"
CURVES = "The curves of a phase"


def test_a_row_leads_to_its_curve_and_log(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = follow(lab, monkeypatch)
    assert len(names["rows"]) == 45
    assert list(names["curve"]["step"]) == [1, 2, 3]
    assert names["log"].endswith("done\n")


def test_the_best_configuration_has_its_interval(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, printed = follow(lab, monkeypatch, BEST)
    assert "0.0029 +- 0.0025" in printed
    assert len(names["table"]) == 15, "null is a group of its own"


def test_a_table_is_latex(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, printed = follow(lab, monkeypatch, BEST, "A table for a paper")
    assert r"0.030000 & 0.003 $\pm$ 0.002 & 0.003 $\pm$ 0.002 \\" in printed


def test_curves_become_a_chart(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = follow(lab, monkeypatch, CURVES)
    assert len(names["curves"]) == 135
    assert "plotly" in (lab / "curves.html").read_text(encoding="utf-8")


def test_two_sweeps_are_compared_pair_by_pair(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, printed = follow(lab, monkeypatch, "Compare two sweeps")
    assert "45 pairs, +0.0000 +- 0.0000" in printed


def test_failures_are_grouped_by_cause_and_parameter(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, printed = follow(lab, monkeypatch, CURVES, "Failures")
    assert "loss is not finite  0.3" in printed


def test_another_file_is_joined(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = follow(lab, monkeypatch, CURVES, "Join with another file")
    assert set(names["wide"]["classes"]) == {3, 10}
