"""Keeps the metrics for which a results file has no column: in `result.json` of the row's run folder."""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

RESULT_FILE = "result.json"  # in the run folder: what the row of a task does not hold

_log = logging.getLogger(__name__)


def keep_left_out(root: Path, row: Mapping[str, str], columns: Collection[str]) -> None:
    """Write the cells of `row` that are in none of `columns`; a result that is there whole already stays.

    A row without a run folder below `root` keeps none, and a disk that refuses costs a warning.
    """
    left = {name: _plain(cell) for name, cell in row.items() if cell and name not in columns}
    folder = (root / row.get("run_dir", "")).resolve()
    if not left or folder == root.resolve() or not folder.is_relative_to(root.resolve()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / RESULT_FILE).open("x", encoding="utf-8") as file:
            json.dump(left, file, ensure_ascii=False, indent=1)
    except FileExistsError:
        return
    except OSError as error:
        _log.warning("%s: cannot be written (%s)", folder / RESULT_FILE, error.strerror)


def _plain(cell: str) -> object:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, int | float) else cell
