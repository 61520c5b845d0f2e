"""One row of results: the cells of a task, its metrics and where they came from. Pure."""

import re
from collections.abc import Mapping

from distexp.task import Provenance, RowRule, Scalar, Task
from distexp.text import cell_text, clean_text

IDENTITY = ("phase", "task_id", "seed")
CAPTURED = (
    "peak_gpu_mib",
    "torch_version",
    "python_version",
    "git_commit",
    "git_dirty",
    "code",
)
PROVENANCE = ("attempt", "worker", "host", "device", "started_utc", "run_dir", "stopped_at", "duration_s")
# what pandas calls the column of a frame's index that was written and read, perhaps again and again
_INDEX_OF_PANDAS = re.compile(r"(Unnamed: \d+(\.\d+)*(_level_\d+)?)?\s*")
_OUR_COLUMNS = frozenset((*IDENTITY, *CAPTURED, *PROVENANCE))
PREFIXES = ("", "config/", "config.")  # of a parameter's column, as W&B exports it
RENAMED = "_result"  # ends the name of a metric that is called like another column
STOPPED_AT = "stopped_at"  # a column that is there once a task was stopped early
RUNGS_FILE = "rungs.csv"  # in an output_dir: what its tasks reached at their rungs, and who was stopped
CODE = "code"  # the column that tells which code the task had imported
MAX_CELL_CHARS = 32_767  # of a text about the run: a spreadsheet cell holds no more


def is_ours(column: str) -> bool:
    """Return whether we write the column beside parameters and metrics, or it only numbers the rows."""
    return column in _OUR_COLUMNS or bool(_INDEX_OF_PANDAS.fullmatch(column))


def row_for(
    task: Task, result: Mapping[str, Scalar], run: Provenance, rule: RowRule | None = None
) -> dict[str, str]:
    """Return the cells of one row by column, in the order in which a new file gets its columns.

    Phase, task_id, every parameter, seed, the metrics, then the provenance. Where a parameter of the phase
    is named like a provenance column, also one that this task lacks, that provenance is left out.
    `duration_s` comes last because its digits may be lost in a torn write without harm.

    Args:
        result: As `convert` returns it.
        run: As it came over the wire: its texts may hold anything.
        rule: What the phase says of its rows besides.
    """
    row = {"phase": task.phase, "task_id": task.task_id}
    row |= {name: cell_text(value) for name, value in task.config.items()}
    row["seed"] = cell_text(task.seed)
    row |= {name: cell_text(value) for name, value in result.items()}
    taken = row.keys() | parameter_columns(task, rule)
    about = {name: getattr(run, name) for name in (*CAPTURED, *PROVENANCE) if name not in taken}
    if run.stopped_at is None:
        about.pop(STOPPED_AT, None)
    return row | {name: "" if value is None else _about_cell(value) for name, value in about.items()}


def _about_cell(value: Scalar) -> str:
    return clean_text(cell_text(value))[:MAX_CELL_CHARS]


def names_taken(task: Task, rule: RowRule | None = None) -> set[str]:
    """Return the columns that no metric of this task may have: its row would not be known as its own."""
    return parameter_columns(task, rule) | _OUR_COLUMNS


def parameter_columns(task: Task, rule: RowRule | None = None) -> set[str]:
    """Return the parameters of the task's phase, and other names of those whose cell is empty in its row."""
    own = {*task.config, *task.axes}
    earlier = {} if rule is None else rule.renamed_from
    empty = [name for name in own if not cell_text(task.config.get(name, "")).strip()]
    return own | {
        prefix + each for name in empty for each in (name, *earlier.get(name, ())) for prefix in PREFIXES
    }


def copied_row(
    done: Task, duplicate: Task, row: Mapping[str, str], rule: RowRule | None = None
) -> dict[str, str]:
    """Return the row of `done` as a row of `duplicate`, which asks for the same work in another phase.

    `rule` is what the duplicate's phase says of its rows besides.
    """
    copy = {"phase": duplicate.phase, "task_id": duplicate.task_id}
    copy |= {name: cell_text(value) for name, value in duplicate.config.items()}
    copy["seed"] = cell_text(duplicate.seed)
    rest = {name: cell for name, cell in row.items() if cell and name not in copy and name not in done.config}
    taken = parameter_columns(duplicate, rule)
    ours = {name: rest.pop(name) for name in (*CAPTURED, *PROVENANCE) if name in rest}
    last = {name: cell for name, cell in ours.items() if name not in taken}
    return copy | {name + RENAMED * (name in taken): cell for name, cell in rest.items()} | last
