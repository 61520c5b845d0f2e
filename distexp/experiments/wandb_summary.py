"""Reads the metrics that W&B leaves in a run folder: the summary of its newest run there."""

import json
from pathlib import Path
from typing import Any

from distexp.system.files import read_bytes

SUMMARY = "wandb/*/files/wandb-summary.json"  # below a run folder, which is W&B's WANDB_DIR


def summary_since(run_dir: Path, since_s: float) -> dict[str, Any] | None:
    """Return the metrics of the newest summary that was written after `since_s`; None where there is none.

    What W&B counts itself, such as `_step` and `_runtime`, is left out.
    """
    found: list[tuple[float, Path]] = []
    for path in run_dir.glob(SUMMARY):
        written_s = path.stat().st_mtime
        if written_s >= since_s and not path.parents[1].is_symlink():  # `latest-run` is one to another
            found.append((written_s, path))
    if not found:
        return None
    try:
        summary = json.loads(read_bytes(max(found)[1]))
    except (OSError, ValueError, RecursionError):
        return None
    named = summary.items() if isinstance(summary, dict) else ()
    metrics = {name: value for name, value in named if not name.startswith("_")}
    return metrics or None
