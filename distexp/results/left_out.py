"""Keeps the metrics for which a results file has no column: in `result.json` of the row's run folder."""

import json
import logging
import os
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from distexp.run_folder import RESULT_FILE, run_folder
from distexp.task import Task

_log = logging.getLogger(__name__)


def keep_left_out(
    root: Path, task: Task, row: Mapping[str, str], columns: Collection[str]
) -> Mapping[str, str]:
    """Write the cells of `row` that are in none of `columns`, unless its attempt has left its whole result.

    Return the row, which names the run folder then. One that lies outside of `root` keeps nothing, and a disk
    that refuses costs a warning.
    """
    left = {name: _plain(cell) for name, cell in row.items() if cell and name not in columns}
    place = row.get("run_dir") or run_folder(task.output_dir, task.phase, task.seed, task.key).as_posix()
    folder = (root / place).resolve()
    if not left or not folder.is_relative_to(root.resolve()):
        return row
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_of_attempt(folder / RESULT_FILE, row):
            half = folder / f".{RESULT_FILE}.{os.getpid()}.tmp"
            half.write_text(json.dumps(left, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(half, folder / RESULT_FILE)
    except OSError as error:
        _log.warning("%s: cannot be written (%s)", folder / RESULT_FILE, error.strerror)
        return row
    return {**row, "run_dir": place}


def _is_of_attempt(path: Path, row: Mapping[str, str]) -> bool:
    """Return whether the file was written since the row's attempt began, not by an earlier one."""
    try:
        began = datetime.fromisoformat(row.get("started_utc", ""))
        return path.stat().st_mtime >= began.timestamp()
    except FileNotFoundError:
        return False
    except ValueError:  # a row without a time
        return os.path.exists(path)


def _plain(cell: str) -> object:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, int | float) else cell
