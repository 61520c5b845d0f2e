"""Keeps the metrics for which a results file has no column: in `result.json` of the row's run folder."""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from distexp.run_folder import RESULT_FILE, run_folder
from distexp.task import Task

_log = logging.getLogger(__name__)


def keep_left_out(
    root: Path, task: Task, row: Mapping[str, str], columns: Collection[str]
) -> Mapping[str, str]:
    """Write the cells of `row` that are in none of `columns`; a result that is there whole already stays.

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
        with (folder / RESULT_FILE).open("x", encoding="utf-8") as file:
            json.dump(left, file, ensure_ascii=False, indent=1)
    except FileExistsError:
        pass
    except OSError as error:
        _log.warning("%s: cannot be written (%s)", folder / RESULT_FILE, error.strerror)
        return row
    return {**row, "run_dir": place}


def _plain(cell: str) -> object:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, int | float) else cell
