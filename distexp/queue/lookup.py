"""Tasks by their label or by their values, without spelling out a million. Pure."""

import math
from collections.abc import Mapping, Sequence

from distexp.sweep.grid import Grid, GridPoint, Planned
from distexp.task import Task, canonical, key_of

Rank = tuple[int, float, str]
_ABSENT = object()


class Labels:
    """The tasks of a sweep by label, `{phase}_{index}_{seed}`."""

    def __init__(self, tasks: Sequence[Planned]) -> None:
        grids = {each.grid for each in tasks if isinstance(each, GridPoint)}
        self._grids = {grid.phase: grid for grid in grids if not grid.is_growing}
        self._flat = {  # of a grid that grows, some numbers have no task
            each.task_id: each.key for each in tasks if isinstance(each, Task) or each.grid.is_growing
        }

    def key_of(self, label: str) -> str | None:
        """Return the key of the task with this label, None when there is none."""
        head, _, seed = label.rpartition("_")
        phase, _, index = head.rpartition("_")
        grid = self._grids.get(phase)
        if grid is None:
            return self._flat.get(label)
        try:
            at = [str(each) for each in grid.seeds].index(seed)
            point = GridPoint(grid, int(index) * len(grid.seeds) + at, "", "")
        except ValueError:
            return None
        if not 0 <= point.number < len(grid) or point.task_id != label:
            return None
        task = point.task
        return key_of(task.phase, task.experiment, task.command, task.config, task.seed, tags=task.tags)


class Parameter:
    """The values of one parameter, or of `seed`, as something to sort tasks by."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ranks: dict[Grid, tuple[int, list[Rank]]] = {}  # place of the axis, and of each of its values

    def rank(self, task: Planned) -> Rank:
        """Return where the task's value stands: numbers first, then texts; tasks without it are last."""
        if isinstance(task, Task):
            return _rank({**task.config, "seed": task.seed}.get(self._name, _ABSENT))
        if task.grid not in self._ranks:
            self._ranks[task.grid] = self._ranks_in(task.grid)
        place, ranks = self._ranks[task.grid]
        return ranks[0] if len(ranks) == 1 else ranks[task.grid.positions(task.number)[place]]

    def _ranks_in(self, grid: Grid) -> tuple[int, list[Rank]]:
        axes = grid.axes | {"seed": grid.seeds}
        if self._name not in axes:
            return 0, [_rank(grid.defaults.get(self._name, _ABSENT))]
        absent = grid.absent.get(self._name)
        ranks = [_rank(_ABSENT if at == absent else value) for at, value in enumerate(axes[self._name])]
        return list(axes).index(self._name), ranks


def _rank(value: object) -> Rank:
    if value is _ABSENT:
        return (2, 0.0, "")
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return (0, float(value), "")
    return (1, 0.0, value if isinstance(value, str) else canonical(value))


class Where:
    """Which tasks have these values: canonical text by parameter, or by `seed`."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        self._places: dict[Grid, list[set[int]]] = {}  # in each axis; empty for a grid that has none of them

    def holds(self, task: Planned) -> bool:
        """Return whether the task has all of them."""
        if not self._wanted:
            return True
        if isinstance(task, Task):
            held = {"seed": task.seed, **task.config}
            return all(name in held and canonical(held[name]) == text for name, text in self._wanted.items())
        if task.grid not in self._places:
            self._places[task.grid] = self._places_in(task.grid)
        places = self._places[task.grid]
        return bool(places) and all(
            at in allowed for at, allowed in zip(task.grid.positions(task.number), places, strict=True)
        )

    def _places_in(self, grid: Grid) -> list[set[int]]:
        axes = grid.axes | {"seed": grid.seeds}
        for name, text in self._wanted.items():
            if name not in axes and (name not in grid.defaults or canonical(grid.defaults[name]) != text):
                return []
        return [
            {at for at, value in enumerate(values) if self._wanted.get(name) in (None, canonical(value))}
            for name, values in axes.items()
        ]
