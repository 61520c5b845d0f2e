"""Tasks by their label or by their values, without spelling out a million. Pure."""

from collections.abc import Mapping, Sequence

from distexp.sweep.grid import Grid, GridPoint, Planned
from distexp.task import Task, canonical, key_of


class Labels:
    """The tasks of a sweep by label, `{phase}_{index}_{seed}`."""

    def __init__(self, tasks: Sequence[Planned]) -> None:
        self._grids = {
            grid.phase: grid for grid in {each.grid for each in tasks if isinstance(each, GridPoint)}
        }
        self._flat = {each.task_id: each.key for each in tasks if isinstance(each, Task)}

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
