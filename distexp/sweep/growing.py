"""The tasks of an adaptive search: one configuration after the other joins the grid of its phase. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distexp.sweep.axes import identity
from distexp.sweep.config import Phase
from distexp.sweep.expand import grid_of
from distexp.sweep.grid import Grid, GridPoint
from distexp.sweep.space import Config
from distexp.sweep.templates import output_folder
from distexp.task import Value, canonical, joined, key_head, short_hash


@dataclass(frozen=True)
class Configuration:
    """One that has joined."""

    config: Config
    points: Sequence[GridPoint]  # its tasks, one per seed


class GrowingPhase:
    """The configurations of a phase that there are.  Caller holds a lock.

    The lists of its grid only grow, so that tasks made earlier stay what they are.
    """

    def __init__(self, phase: Phase) -> None:
        """Begin without a configuration."""
        self.phase = phase
        self.known: dict[int, Configuration] = {}  # by number, which stands in the ids of its tasks
        self._next = 0  # no number below it is free
        self._numbers: dict[str, int] = {}  # by key of a task
        self._values: dict[str, list[Value]] = {name: [*values] for name, values in phase.axes.items()}
        self._at: dict[str, dict[object, int]] = {
            name: {identity(each): at for at, each in enumerate(values) if phase.absent.get(name) != at}
            for name, values in self._values.items()
        }
        self._places: dict[str, list[int]] = {name: [] for name in phase.axes}
        self.grid: Grid = grid_of(phase)
        self.grid.axes.update(self._values)
        if self.grid.places is not None:
            self.grid.places.update(self._places)

    @property
    def to_come(self) -> int:
        """How many tasks are yet to be chosen, unless the space ends before."""
        search, space = self.phase.search, self.phase.space
        if search is None or space is None:
            return 0
        most = search.samples if space.most is None else min(search.samples, space.most)
        return max(0, most - len(self.known)) * len(self.phase.seeds)

    def knows(self, config: Config) -> bool:
        """Return whether this configuration has joined."""
        return self.number_of(config) is not None

    def number_of(self, config: Config) -> int | None:
        """Return the number of this configuration; None where it has not joined."""
        return self._numbers.get(next(self._keys_of(config)))

    def next_number(self) -> int:
        """Return the lowest number that no configuration has."""
        while self._next in self.known:
            self._next += 1
        return self._next

    def add(self, config: Config, number: int | None = None) -> Sequence[GridPoint]:
        """Let a configuration join, under this number if nobody has it; return its tasks."""
        if number is None or number in self.known:
            number = self.next_number()
        for name, column in self._places.items():
            column.extend([0] * (number + 1 - len(column)))  # of numbers that nobody has: never looked at
            column[number] = self._place(name, config)
        values = joined({**self.phase.defaults, **config}) | {"phase": self.phase.name}
        seeds = self.phase.seeds
        points = [
            GridPoint(
                self.grid,
                number * len(seeds) + at,
                output_folder(self.phase.output_dir, values | {"seed": seed}),
                key,
            )
            for at, (seed, key) in enumerate(zip(seeds, self._keys_of(config), strict=True))
        ]
        self.known[number] = Configuration(config, points)
        self._numbers.update((point.key, number) for point in points)
        return points

    def tasks(self) -> list[GridPoint]:
        """Return all tasks, by number."""
        return [point for _, each in sorted(self.known.items()) for point in each.points]

    def _keys_of(self, config: Config) -> Iterator[str]:
        """Yield the key of each seed's task, as `key_of` makes it."""
        phase = self.phase
        whole = {**phase.defaults, **config}
        parameters = canonical({name: value for name, value in whole.items() if name not in phase.tags})
        head = key_head(phase.name, phase.experiment, phase.command)
        return (short_hash(f"{head}{parameters},{seed}]") for seed in phase.seeds)

    def _place(self, name: str, config: Config) -> int:
        if name not in config:
            return self.phase.absent[name]
        at = self._at[name].setdefault(identity(config[name]), len(self._values[name]))
        if at == len(self._values[name]):
            self._values[name].append(config[name])
        return at
