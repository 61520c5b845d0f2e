"""Which summary of W&B counts: the newest of this attempt, and only its metrics."""

import json
import os
from pathlib import Path

import pytest

from distexp.experiments.wandb_summary import summary_since


def put(run_dir: Path, name: str, text: str, written_s: float) -> None:
    path = run_dir / "wandb" / name / "files" / "wandb-summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, (written_s, written_s))


def test_the_newest_summary_since_the_attempt_began_counts(tmp_path: Path) -> None:
    for name, loss, written_s in (
        ("run-1-k", 1, 100.0),
        ("run-2-k", 2, 300.0),
        ("offline-run-3-k", 3, 200.0),
    ):
        put(tmp_path, name, json.dumps({"loss": loss, "_step": 9}), written_s)
    assert summary_since(tmp_path, 150.0) == {"loss": 2}
    assert summary_since(tmp_path, 301.0) is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"_wandb": {"runtime": 0}}', "[" * 100_000])
def test_a_summary_without_metrics_is_none(tmp_path: Path, text: str) -> None:
    put(tmp_path, "run-1-k", text, 100.0)
    assert summary_since(tmp_path, 0.0) is None


def test_a_folder_without_wandb_has_none(tmp_path: Path) -> None:
    assert summary_since(tmp_path, 0.0) is None
