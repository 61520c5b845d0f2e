"""All rows of a working folder as one pandas DataFrame, and the curve of a row: for notebooks and scripts."""

import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from distexp.errors import ConfigError, UserError
from distexp.results.compare import NOWHERE, NULLS, AxisReader
from distexp.results.csv_format import Header, read_header, whole_file
from distexp.results.matching import first_places
from distexp.results.results_file import READING, RESULTS_FILE
from distexp.results.row import CAPTURED, PREFIXES, PROVENANCE
from distexp.results.store import folders_of, folders_with_results
from distexp.run_folder import METRICS_FILE
from distexp.sweep.config import Phase, load_configs
from distexp.system.files import read_bytes
from distexp.system.long_work import LongWork
from distexp.task import Value, canonical
from distexp.text import count_text
from distexp.workdir import Workdir

TEXTS = (  # columns of ours that no reader is to take for numbers
    *("phase", "task_id", "torch_version", "python_version", "git_commit", "code"),
    *("worker", "host", "device", "started_utc", "run_dir"),
)
MEASURES = ("peak_gpu_mib", "attempt", "stopped_at", "duration_s")  # columns of ours that are numbers
CURVE = ("attempt", "step", "total", "elapsed_s")  # of `metrics.csv`, before the metrics
FIRST_INEXACT = 2**53  # whole numbers from here on are not all floats
# Bit for bit, which needs no word from pandas 3 on.
EXACT: dict[str, Any] = {} if int(pd.__version__.split(".")[0]) > 2 else {"float_precision": "round_trip"}

Kind = Literal["whole", "number", "truth", "values", "text", "measure", "guess"]
ABSENT: Mapping[Kind, list[str]] = {  # cells that are missing, where the parser may say so
    "whole": [*NULLS],
    "number": [*NULLS],
    "measure": [*NULLS],
    "text": [""],
    "guess": ["", "nan", "NaN"],
}
NUMBERS = ("whole", "number", "measure")  # said to be numbers
GUESSED = (*NUMBERS, "guess")  # what the parser finds out by itself
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Parameter:
    """What the configs say of a parameter, or of the seed."""

    values: Mapping[str, Sequence[Value]]  # by phase
    kind: Kind

    @classmethod
    def of(cls, values: Mapping[str, Sequence[Value]]) -> "Parameter":
        """Find what its values have in common."""
        kinds = {kind for each in values.values() for kind in map(type, each)} - {type(None)}
        if kinds == {bool}:
            return cls(values, "truth")
        if kinds and kinds <= {int, float}:
            largest = max((abs(v) for each in values.values() for v in each if v is not None), default=0)
            is_exact = float in kinds or largest < FIRST_INEXACT
            return cls(values, ("whole" if kinds == {int} else "number") if is_exact else "values")
        return cls(values, "values")


@dataclass(frozen=True)
class Columns:
    """How the columns of results files are read."""

    parameters: Mapping[str, Parameter]
    names: Mapping[str, str]  # of a parameter, by earlier and foreign ones (`config/lr`)
    phases: Mapping[str, str]  # the same of phases
    metrics: Set[str] = frozenset()  # that are optimised or looked at first: numbers

    @classmethod
    def of(cls, phases: Sequence[Phase]) -> "Columns":
        """Take what the configs say."""
        found: dict[str, dict[str, Sequence[Value]]] = {}
        for phase in phases:
            every = {**{name: [value] for name, value in phase.defaults.items()}, **phase.axes}
            if phase.space is not None:
                every |= {name: phase.space.examples(name) for name in phase.space.names}
            for name, values in {**every, "seed": phase.seeds}.items():
                assumed = [phase.assume[name]] if name in phase.assume else []
                found.setdefault(name, {})[phase.name] = [*values, *assumed] if assumed else values
        names = {
            prefix + each: name
            for phase in phases
            for name in found
            for each in (name, *phase.renamed_from.get(name, ()))
            for prefix in PREFIXES
        }
        earlier = {old: phase.name for phase in phases for old in phase.renamed_from.get("phase", ())}
        return cls(
            {name: Parameter.of(values) for name, values in found.items()},
            {column: name for column, name in names.items() if column not in found or column == name},
            earlier,
            {phase.metric.name for phase in phases if phase.metric},
        )

    def kind(self, name: str) -> Kind:
        """Return how the cells of a column are read."""
        if name in self.parameters:
            return self.parameters[name].kind
        if name in self.metrics or name in MEASURES:
            return "measure"
        return "text" if name in TEXTS else "guess"


def load_results(workdir: str | os.PathLike[str] = ".", *, configs: str | None = None) -> pd.DataFrame:
    """Return every row of every results file of a working folder, one line each.

    Parameters have the type that the configs give them: whole numbers, numbers, booleans (`boolean` where
    some are missing), texts, lists and mappings. null is missing, a text "" is not. A cell that is no number
    in a column of numbers, the `metric` of a phase included, is missing, and a warning names its line. Other
    columns are numbers or booleans where every cell is one; where most are, the rest stay texts between them;
    else all are texts. An empty cell is missing. Bad lines are left out.

    Args:
        workdir: The working folder.
        configs: Pattern of its config files; by default what its last manager has read. Where they have a
            mistake, or are gone, a warning says so, and parameters are read like other columns.
    """
    root = Path(workdir)
    try:
        phases = load_configs([Path(configs or Workdir(root).configs)], root)
    except ConfigError as error:
        warnings.warn(f"types of parameters are guessed: {error}", stacklevel=2)
        phases = []
    columns = Columns.of(phases)
    own = dict.fromkeys(folder for phase in phases for folder in folders_of(root, phase))
    paths = [root / folder / RESULTS_FILE for folder in dict.fromkeys([*own, *_with_results(root)])]
    sizes = {path: path.stat().st_size for path in paths if os.path.isfile(path)}
    frames = []
    with LongWork() as work:
        work.begin(READING, sum(sizes.values()))
        for path, size in sizes.items():
            frames.append(_rows_of(path, columns))
            work.advance(size)
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    _fill_assumed(frame, phases)
    for name in {*columns.parameters} & {*frame.columns}:
        frame[name] = _settled(frame[name], columns.kind(name))
    last = [name for name in (*CAPTURED, *PROVENANCE) if name in frame and name not in columns.parameters]
    frame = frame[[*[name for name in frame if name not in last], *last]]
    frame.attrs["workdir"] = str(root)
    return frame


def _fill_assumed(frame: pd.DataFrame, phases: Sequence[Phase]) -> None:
    """Give the rows of each phase that lack a value the one that its `assume` names."""
    for phase in phases:
        for name, value in phase.assume.items():
            column = frame[name] if name in frame else pd.Series(None, index=frame.index, dtype=object)
            frame[name] = column.mask(column.isna() & (frame.get("phase") == phase.name), value)


def load_metrics(row: Any, *, workdir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return what the task of a row has reported over time: attempt, step, total, elapsed_s, the metrics.

    Empty for a task that has reported nothing.

    Args:
        row: Of `load_results`, or any mapping with a `run_dir`, or the path of a run folder.
        workdir: What `run_dir` is relative to; by default the folder that the row was loaded from, else `.`.

    Raises:
        UserError: The row has no column `run_dir`.
    """
    folder = row
    if not isinstance(row, str | os.PathLike):
        if "run_dir" not in row:
            raise UserError("load_metrics: the row has no run_dir: give a whole row of load_results()")
        folder, known = row["run_dir"], getattr(row, "attrs", {}).get("workdir")
        workdir = known if workdir is None else workdir
    path = Path(workdir or ".", folder, METRICS_FILE) if isinstance(folder, str | os.PathLike) else None
    if path is None or not os.path.exists(path):
        return pd.DataFrame(columns=[*CURVE])
    return _rows_of(path, Columns({}, {}, {}))


def _with_results(root: Path) -> list[str]:
    try:
        return folders_with_results(root)
    except OSError as error:
        raise UserError(f"load_results: {root} cannot be read ({error.strerror})") from None


# -- one file ----------------------------------------------------------------------------------------------


def _rows_of(path: Path, columns: Columns) -> pd.DataFrame:
    """Return the good lines of a file."""
    data = read_bytes(path)
    header = read_header(io.BytesIO(data))
    if header is None or header.problem:
        if header:
            warnings.warn(f"{path} {header.problem}: its rows are left out", stacklevel=3)
        return pd.DataFrame()
    names = {at: columns.names.get(name, name) for name, at in first_places(header.columns).items() if name}
    kinds = {at: columns.kind(name) for at, name in names.items()}
    cells, lines = _parsed(data, header, kinds)
    phase_at = next((at for at, name in names.items() if name == "phase"), None)
    phases = pd.Series(None, index=cells.index, dtype=object) if phase_at is None else cells[phase_at]
    if columns.phases:
        phases = phases.replace(dict(columns.phases))
    found: dict[str, Any] = {}
    for at, name in names.items():
        column = phases if at == phase_at else _valued(cells[at], columns.parameters.get(name), phases)
        if at != phase_at and kinds[at] in (*GUESSED, "truth"):
            column, foreign = _typed(column, kinds[at])
            if foreign:
                _warn_of_foreign(path, name, cells[at], lines, foreign)
        found[name] = found[name].combine_first(column) if name in found else column
    return pd.DataFrame(found, index=cells.index)


def _warn_of_foreign(path: Path, name: str, cells: Any, lines: Sequence[int], foreign: Sequence[int]) -> None:
    line = f":{lines[foreign[0]]}" if len(lines) == len(cells) else ""
    more = f", like {count_text(len(foreign) - 1, 'cell')} below" if len(foreign) > 1 else ""
    warnings.warn(
        f"{path}{line}: column {name} holds {cells.iloc[foreign[0]]!r}, which is no value of that column: "
        f"it is missing in this frame{more}; correct the file",
        stacklevel=4,
    )


def _parsed(data: bytes, header: Header, kinds: Mapping[int, Kind]) -> tuple[pd.DataFrame, Sequence[int]]:
    """Return the cells by place, as pandas reads them, and on which line of the file each row begins.

    Of a file with bad lines, after those were cut out.
    """
    body, end = data[header.stop :], header.dialect.end
    line = data.count(end, 0, header.stop) + 1
    if body.endswith(b"\n") and b"\0" not in body:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                cells = _read(body, header, kinds, "error")
            if len(cells) == body.count(b"\n") and not _has_short_line(cells):
                return cells, range(line, line + len(cells))
        except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError):
            pass
    whole, lines = list[bytes](), list[int]()
    for raw, fields in whole_file(io.BytesIO(data), header):
        if fields is not None:
            whole.append(raw.rstrip(b"\r\n"))
            lines.append(line)
        line += raw.count(end)
    return _read(b"\n".join([*whole, b""]), header, kinds, "skip"), lines


def _has_short_line(cells: pd.DataFrame) -> bool:
    """Return whether a last cell is empty: pandas fills up lines that are too short."""
    last = cells.iloc[:, -1]
    return bool(last.isna().any() or (last == "").any())


def _read(
    body: bytes, header: Header, kinds: Mapping[int, Kind], bad: Literal["error", "skip"]
) -> pd.DataFrame:
    width = range(len(header.columns))
    if not body.strip():
        return pd.DataFrame(columns=[*width])
    types = {at: str for at, kind in kinds.items() if kind not in GUESSED}
    return pd.read_csv(
        io.BytesIO(body),
        sep=header.dialect.separator,
        header=None,
        names=[*width],
        index_col=False,
        dtype=types,
        keep_default_na=False,
        na_values={at: ABSENT[kind] for at, kind in kinds.items() if kind in ABSENT},
        low_memory=False,
        on_bad_lines=bad,
        **EXACT,
    )


# -- cells to values ---------------------------------------------------------------------------------------


def _valued(column: Any, parameter: Parameter | None, phases: Any) -> Any:
    """Return a column with its values; those of a parameter as the row's phase spells them."""
    if parameter is None:
        is_truth = column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "boolean"
        return column.astype("boolean") if is_truth else column
    if parameter.kind not in ("truth", "values"):
        return column
    places, cells = pd.factorize(column)
    every = {canonical(value): value for each in parameter.values.values() for value in each}
    anywhere = AxisReader([*every.values()])
    truth = AxisReader([False, True, None])
    readers = {phase: AxisReader(values) for phase, values in parameter.values.items()}
    found = np.empty(len(places), dtype=object)
    for phase in phases.unique():
        reader = truth if parameter.kind == "truth" else readers.get(phase, anywhere)
        known = np.empty(len(cells), dtype=object)
        known[:] = [_value(cell, reader) for cell in cells]
        rows = np.flatnonzero(phases.isna() if pd.isna(phase) else phases == phase)
        found[rows] = known[places[rows]]
    return pd.Series(found, index=column.index)


def _value(cell: str, reader: AxisReader) -> Value:
    at = reader.position(cell)
    if at != NOWHERE:
        return reader.values[at]
    return None if cell.strip() in NULLS else cell


def _typed(column: Any, kind: Kind) -> tuple[Any, list[int]]:
    """Return a column of which the parser, or the configs, made texts, and where cells of another kind stood.

    Those are missing where the configs, or we, say what the column holds. In other columns they stay, if
    most cells are numbers or booleans; else the column is one of texts.
    """
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column) or not len(column):
        return column, []
    places, cells = pd.factorize(column)
    values = [_plain(cell) for cell in cells]
    is_own = np.array([_is_of(value, kind) for value in values], dtype=bool)
    is_said = np.array([value is not None for value in values], dtype=bool)
    counts = np.bincount(places[places >= 0], minlength=len(cells))
    foreign: list[int] = []
    if kind != "guess":
        foreign = np.flatnonzero(np.isin(places, np.flatnonzero(is_said & ~is_own))).tolist()
        values = [value if own else None for value, own in zip(values, is_own, strict=True)]
    elif 2 * counts[is_own].sum() <= counts[is_said].sum():
        return column, []
    table = np.empty(len(values) + 1, dtype=object)  # its last is for cells that are missing already
    table[:] = [*[np.nan if value is None else value for value in values], np.nan]
    found = pd.Series(table[places], index=column.index).infer_objects()
    is_truth = found.dtype == object and pd.api.types.infer_dtype(found, skipna=True) == "boolean"
    return found.astype("boolean") if is_truth else found, foreign


def _is_of(value: object, kind: Kind) -> bool:
    if isinstance(value, bool):
        return kind not in NUMBERS
    return kind != "truth" and isinstance(value, int | float)


def _plain(cell: object) -> object:
    """Return the boolean or the number that a cell holds; None where it says that there is none."""
    text = cell.strip() if isinstance(cell, str) else None
    if text is None:
        return cell
    if text in NULLS:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else cell


def _settled(column: Any, kind: Kind) -> Any:
    """Return the column of all files in the type of its parameter, where every cell is of that."""
    has_missing = column.isna().any()
    if kind == "whole" and column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        return column.astype("Int64" if has_missing else "int64")
    if kind == "number" and column.dtype.kind in "iu":
        return column.astype("float64")
    if kind == "truth" and all(isinstance(value, bool | np.bool_) for value in column.dropna().unique()):
        return column.astype("boolean" if has_missing else "bool")
    return column
