"""The tasks of a phase held in a few words each, spelled out when asked for; finds duplicates among them.

Pure.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from distexp.task import Halving, Need, Process, Task, Value, canonical, need_of

MAX_GROWN = 2**40  # values of an axis of a grid that grows: as many as anybody waits for


class Grid(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the tasks of one phase have in common. Each is known by its number, seeds varying fastest."""

    phase: str
    axes: dict[str, Sequence[Value]]  # the first varies slowest; no name in common with `defaults`
    seeds: tuple[int, ...]
    defaults: dict[str, Value]
    experiment: str
    command: str | None
    timeout_s: float | None
    process: Process
    gpus: int | None = None
    min_free_gb: float | None = None
    gpu_model: tuple[str, ...] = ()
    places: dict[str, Sequence[int]] | None = None  # of each combination, in each axis; None: all are crossed
    absent: dict[str, int] = {}  # of an axis: the place at which a combination lacks the parameter
    python: str | None = None
    setup: str | None = None
    has_seeds: bool = False
    tags: tuple[str, ...] = ()  # of `defaults`: no part of a task's identity
    priority: int = 0  # tasks of phases with a higher one come first
    renamed_from: dict[str, tuple[str, ...]] = {}  # earlier names of phase, seed and parameters
    assume: dict[str, Value] = {}  # what rows without a value of these parameters hold
    halving: Halving | None = None  # where tasks that are not among the best stop
    is_growing: bool = False  # an adaptive search adds combinations: see `growing`

    @property
    def need(self) -> Need:
        """What the device of each task must have."""
        return need_of(self.gpus, self.min_free_gb, self.gpu_model)

    def __len__(self) -> int:
        """Return the number of its tasks."""
        return combination_count(self.axes, self.places) * len(self.seeds)

    def positions(self, number: int) -> list[int]:
        """Return where this task's values stand in each axis; the seed's place comes last."""
        number, at = divmod(number, len(self.seeds))
        if self.places is not None:
            return [*[column[number] for column in self.places.values()], at]
        found = [at]
        for values in reversed(self.axes.values()):
            number, at = divmod(number, len(values))
            found.append(at)
        found.reverse()
        return found

    def code(self, number: int) -> int:
        """Return one number for this task's places in all axes and the seeds; the last varies fastest."""
        if self.places is None:
            return number
        code = 0
        for size, at in zip(self._sizes(), self.positions(number), strict=True):
            code = code * size + at
        return code

    def codes(self) -> list[int]:
        """Return `code` of every task."""
        if self.places is None:
            return list(range(len(self)))
        codes = [0] * combination_count(self.axes, self.places)
        for size, column in zip(self._sizes(), self.places.values(), strict=False):
            codes = [code * size + at for code, at in zip(codes, column, strict=True)]
        count = len(self.seeds)
        return codes if count == 1 else [code * count + at for code in codes for at in range(count)]

    def _sizes(self) -> list[int]:
        sizes = [MAX_GROWN if self.is_growing else len(values) for values in self.axes.values()]
        return [*sizes, len(self.seeds)]


def combination_count(axes: Mapping[str, Sequence[Value]], places: Mapping[str, Sequence[int]] | None) -> int:
    """Return how many combinations a phase has, without the seeds."""
    if places is None:
        return math.prod(len(values) for values in axes.values())
    return len(next(iter(places.values())))


class GridPoint(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One task of a grid; with a million of them, each byte and each microsecond counts."""

    grid: Grid
    number: int
    output_dir: str
    key: str

    @property
    def phase(self) -> str:
        """Its phase."""
        return self.grid.phase

    @property
    def need(self) -> Need:
        """What its device must have."""
        return self.grid.need

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.grid.seeds[self.number % len(self.grid.seeds)]

    @property
    def task_id(self) -> str:
        """Its label."""
        return f"{self.grid.phase}_{self.number // len(self.grid.seeds)}_{self.seed}"

    @property
    def task(self) -> Task:
        """The task, spelled out."""
        grid = self.grid
        chosen = zip(grid.axes.items(), grid.positions(self.number)[:-1], strict=True)
        return Task(
            task_id=self.task_id,
            phase=grid.phase,
            config={name: values[at] for (name, values), at in chosen if grid.absent.get(name) != at}
            | grid.defaults,
            seed=self.seed,
            output_dir=self.output_dir,
            axes=tuple(grid.axes),
            experiment=grid.experiment,
            command=grid.command,
            timeout_s=grid.timeout_s,
            process=grid.process,
            gpus=grid.gpus,
            min_free_gb=grid.min_free_gb,
            gpu_model=grid.gpu_model,
            tags=grid.tags,
            python=grid.python,
            setup=grid.setup,
            has_seeds=grid.has_seeds,
            key=self.key,
        )


Planned = (
    Task | GridPoint
)  # a task of the sweep: either has `key`, `task_id`, `phase`, `need`, `output_dir`, `task`


def duplicates_among(tasks: Sequence[Planned]) -> dict[str, list[str]]:
    """Return key -> the keys of all tasks that ask for the same work, for tasks that have such duplicates."""
    by_work: dict[str, list[str]] = {}
    for each in _candidates(tasks):
        by_work.setdefault(each.task.work, []).append(each.key)
    return {key: keys for keys in by_work.values() if len(keys) > 1 for key in keys}


def _candidates(tasks: Sequence[Planned]) -> Iterator[Planned]:
    """Yield all that may have a duplicate: points whose every value another grid of their kind has, too."""
    grids = {id(each.grid): each.grid for each in tasks if isinstance(each, GridPoint)}
    varied = {(grid.experiment, grid.command) for grid in grids.values() if grid.absent}
    kinds: dict[tuple[object, ...], list[Grid]] = {}
    for grid in grids.values():
        kinds.setdefault((grid.experiment, grid.command, *sorted(_values_of(grid))), []).append(grid)
    shared = {
        id(grid): found for kind in kinds.values() for grid, found in zip(kind, _shared(kind), strict=True)
    }
    for each in tasks:
        if not isinstance(each, GridPoint) or (each.grid.experiment, each.grid.command) in varied:
            yield each  # one that lacks a parameter may equal one of a grid that knows of none such
        elif allowed := shared[id(each.grid)]:
            at = each.grid.positions(each.number)
            if all(place in places for place, places in zip(at, allowed, strict=True)):
                yield each


def _shared(kind: Sequence[Grid]) -> Iterator[list[set[int]]]:
    """Yield for each grid the positions in its axes (the seeds last) of values that others have, too.

    The list is empty for a grid that has a default, or a whole axis, of its own.
    """
    if len(kind) == 1:  # the tasks of one grid differ from each other
        yield []
        return
    counts = {name: Counter[str]() for name in (*_values_of(kind[0]), "seed")}
    for grid in kind:
        for name, values in (_values_of(grid) | {"seed": grid.seeds}).items():
            counts[name].update({canonical(value) for value in values})
    for grid in kind:
        found = {
            name: {at for at, value in enumerate(values) if counts[name][canonical(value)] > 1}
            for name, values in (_values_of(grid) | {"seed": grid.seeds}).items()
        }
        yield [found[name] for name in (*grid.axes, "seed")] if all(found.values()) else []


def _values_of(grid: Grid) -> dict[str, Sequence[Value]]:
    fixed = {name: [value] for name, value in grid.defaults.items() if name not in grid.tags}
    return grid.axes | fixed
