"""The configurations that an adaptive search has tried: its rows, whoever wrote them, and what it has chosen.

Reads results files; writes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from distexp.queue.records import SuggestionRecord
from distexp.results.compare import holds
from distexp.results.csv_format import read_header, whole_file
from distexp.results.matching import TaskIndex, first_places, keys_of
from distexp.results.results_file import RESULTS_FILE
from distexp.results.row import PREFIXES
from distexp.results.store import folders_of, folders_with_results
from distexp.sweep.config import Phase
from distexp.sweep.expand import expand
from distexp.sweep.grid import Grid, GridPoint
from distexp.sweep.growing import GrowingPhase
from distexp.sweep.space import Config, Part, Space
from distexp.system.files import regular
from distexp.text import cell_text

MAX_DIGITS = (
    6  # of a number in a row's `task_id`: each lower one costs some bytes, and some file may say 9999999999
)

Cells = Callable[[str], str | None]  # of a row, by parameter; None: it has no such column


class KnownTasks(NamedTuple):
    """The tasks of a sweep, those of adaptive searches as far as they are known."""

    tasks: list[GridPoint]
    to_come: dict[Grid, int]  # how many an adaptive search has yet to choose


def known_tasks(
    phases: Sequence[Phase], root: Path, suggestions: Iterable[SuggestionRecord] = ()
) -> KnownTasks:
    """Return the tasks of the phases, in their order.

    Args:
        phases: Of the config files.
        root: The working folder.
        suggestions: What the journal holds of adaptive searches.
    """
    known = KnownTasks([], {})
    for phase in phases:
        if phase.space is None:
            known.tasks.extend(expand([phase]))
        else:
            grown = grow_phase(phase, root, suggestions)
            known.tasks.extend(grown.tasks())
            known.to_come[grown.grid] = grown.to_come
    return known


def grow_phase(phase: Phase, root: Path, suggestions: Iterable[SuggestionRecord]) -> GrowingPhase:
    """Return the configurations that an adaptive search has tried, or chosen to try.

    A row of ours has the number that its `task_id` tells, a choice the one that it was made for; rows of
    other programs get numbers that are free. Those without a row come last, up to `samples` in all.
    """
    assert phase.space is not None and phase.search is not None
    candidates = GrowingPhase(phase)
    folders = dict.fromkeys([*folders_of(root, phase), *folders_with_results(root)])
    files = [_candidate_rows(root, folder, phase, phase.space) for folder in folders]
    rows = [row for file in files for row in file.rows]
    own = [(row.config, row.number) for row in rows if row.number is not None]
    chosen = [
        (each.config, each.number)
        for each in sorted(suggestions, key=lambda each: each.number)
        if each.phase == phase.name and phase.space.choices_of(each.config)
    ]
    foreign = [(row.config, None) for row in rows if row.number is None]
    for config, number in (*own, *chosen, *foreign):
        if not candidates.knows(config):
            candidates.add(config, number)
    index = TaskIndex(candidates.tasks())
    counted = {key for file in files for key in file.keys(index)}
    grown = GrowingPhase(phase)
    for number, known in sorted(candidates.known.items()):
        if any(point.key in counted for point in known.points):
            grown.add(known.config, number)
    for config, _ in chosen:
        if len(grown.known) < phase.search.samples and not grown.knows(config):
            grown.add(config, candidates.number_of(config))
    return grown


@dataclass(frozen=True)
class _Row:
    fields: Sequence[str]
    config: Config
    number: int | None  # of the configuration; None: it does not say


@dataclass(frozen=True)
class _Rows:
    """Those rows of a file whose parameters are in the space."""

    folder: str
    columns: tuple[str, ...] = ()
    rows: list[_Row] = field(default_factory=list)

    def keys(self, index: TaskIndex) -> Iterator[str]:
        """Yield the keys of the tasks that they complete."""
        matcher = index.matcher(self.columns, self.folder)
        for found in matcher.found(list(zip(*[row.fields for row in self.rows], strict=True))):
            yield from keys_of(found)


def _candidate_rows(root: Path, folder: str, phase: Phase, space: Space) -> _Rows:
    try:
        with open(root / folder / RESULTS_FILE, "rb", opener=regular) as file:
            header = read_header(file)
            if header is None or header.problem or not header.closed:
                return _Rows(folder)
            found, reader = _Rows(folder, header.columns), _RowReader(phase, space, header.columns)
            for _, fields in whole_file(file, header):
                if fields is not None and (config := reader.config(fields)) is not None:
                    found.rows.append(_Row(fields, config, reader.number(fields)))
    except OSError:
        return _Rows(folder)
    return found


class _RowReader:
    """Reads the configuration off the rows of one file."""

    def __init__(self, phase: Phase, space: Space, columns: Sequence[str]) -> None:
        self._phase, self._space = phase, space
        self._phases = (phase.name, *phase.renamed_from.get("phase", ()))
        places = first_places(columns)
        self._at = {
            name: [
                places[prefix + each]
                for each in (name, *(phase.renamed_from.get(name, ()) if name != "phase" else ()))
                for prefix in PREFIXES
                if prefix + each in places
            ]
            for name in ("phase", *space.names)
        }
        self._id_at = places.get("task_id")
        self._known: dict[tuple[Part, tuple[str | None, ...]], Config | None] = {}

    def config(self, fields: Sequence[str]) -> Config | None:
        """Return the configuration of a row; None for one that is not in the space, or of another phase."""
        phase = self._cell("phase", fields)
        if phase and not any(holds(name, phase) for name in self._phases):
            return None
        config: Config = {}
        for part in self._space.parts:
            if self._space.holds(part, config):
                cells = tuple([self._cell(name, fields) for name in part.names])
                if (part, cells) not in self._known:
                    assumed = map(self._or_assumed, part.names, cells)
                    self._known[part, cells] = self._choice(part, cells) or self._choice(part, [*assumed])
                chosen = self._known[part, cells]
                if chosen is None:
                    return None
                config |= chosen
        defaults = self._space.defaults
        config |= {name: value for name, value in defaults.items() if name not in config}
        return config if self._space.choices_of(config) is not None else None

    def number(self, fields: Sequence[str]) -> int | None:
        """Return the number that stands in the `task_id` of a row of ours."""
        head = "" if self._id_at is None else fields[self._id_at].rpartition("_")[0]
        phase, _, number = head.rpartition("_")
        is_ours = phase in self._phases and number.isdecimal() and len(number) <= MAX_DIGITS
        return int(number) if is_ours else None

    def _cell(self, name: str, fields: Sequence[str]) -> str | None:
        cells = [fields[at] for at in self._at[name]]
        cell = next((cell for cell in cells if cell.strip()), cells[0] if cells else None)
        return "" if cell is None and name in self._phase.absent else cell

    def _or_assumed(self, name: str, cell: str | None) -> str | None:
        is_empty = not (cell or "").strip() and name in self._phase.assume
        return cell_text(self._phase.assume[name]) if is_empty else cell

    def _choice(self, part: Part, cells: Sequence[str | None]) -> Config | None:
        """Return the parameters that a part has in a row with these cells; None where it has none such."""
        texts = [cell for cell in cells if cell is not None]
        if len(texts) < len(cells):
            return None
        if part.numbers is not None:
            return _number(part, texts[0])
        fitting = []
        for each in part.listed:
            values = [each.get(name, self._space.defaults.get(name)) for name in part.names]
            if all(map(holds, values, texts)):
                fitting.append((each, [cell_text(value) for value in values]))
        exact = [each for each, spelling in fitting if spelling == texts]
        found = exact or [each for each, _ in fitting]
        return found[0] if len(found) == 1 else None


def _number(part: Part, text: str) -> Config | None:
    """Return the parameter of a part that draws numbers."""
    (name,) = part.names
    try:
        number = float(text)
        is_whole = isinstance(part.values(0.5)[name], int)
        return {name: int(number) if is_whole and number.is_integer() else number}
    except (ValueError, OverflowError):
        return None
