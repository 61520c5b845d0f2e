"""The space that an adaptive search chooses from: choices to parameters and back. Pure.

A configuration takes one choice per item of `combinations`: the place of one of the item's choices, or for a
distribution of numbers a number between 0 and 1. Where the condition of an item does not hold, it has none.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from distexp.sweep.axes import Item, identity
from distexp.sweep.combinations import Combinations, check_conditions, null_text, read_exclusions
from distexp.sweep.distributions import Distribution
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value, canonical

LEAST, MOST = 2**-54, 1 - 2**-53  # the ends of what a distribution draws from
MAX_WALKED = 100_000  # configurations of a space that is looked through for one that is new: half a second

Config = dict[str, Value]  # the parameters that a space sets; one that is not there is missing
Choice = float | int | None  # None: the condition does not hold


@dataclass(frozen=True, eq=False)
class Part:
    """What an item of `combinations` chooses."""

    names: tuple[str, ...]
    when: Mapping[str, frozenset[object]]
    listed: Sequence[Config] = ()  # its choices
    numbers: Distribution | None = None  # in place of choices
    _places: dict[tuple[object, ...], int] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """How many values it has; None for numbers that are not counted."""
        if self.numbers is None:
            return len(self.listed)
        return None if self.numbers.values is None else len(self.numbers.values)

    def values(self, choice: float) -> Config:
        """Return the parameters that a choice sets."""
        if self.numbers is None:
            return self.listed[int(choice)]
        return {self.names[0]: self.numbers.draw([min(max(choice, LEAST), MOST)])[0]}

    def choice_at(self, place: int) -> Choice:
        """Return the choice of one of its values, by its place among them."""
        return place if self.numbers is None else (place + 0.5) / (self.count or 1)

    def choice_of(self, config: Config, defaults: Config) -> Choice:
        """Return the choice that sets the parameters of a configuration; None where none does."""
        if self.numbers is not None:
            number, locate = config.get(self.names[0]), self.numbers.locate
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            return locate(number) if is_number and locate and number is not None else None
        if not self._places:
            for at, each in enumerate(self.listed):
                self._places.setdefault(self._identity(defaults | each), at)
        return self._places.get(self._identity(config))

    def _identity(self, config: Config) -> tuple[object, ...]:
        return tuple([(name in config, identity(config.get(name))) for name in self.names])


@dataclass(frozen=True, eq=False)
class Space:
    """All configurations of a phase."""

    parts: tuple[Part, ...]
    defaults: Config  # of parameters that a part sets: where none does
    fixed: Config  # other parameters
    excluded: Sequence[Mapping[str, frozenset[object]]] = ()

    @property
    def names(self) -> list[str]:
        """The parameters that it sets, in the order of the file."""
        return list(dict.fromkeys(name for part in self.parts for name in part.names))

    @property
    def absent(self) -> list[str]:
        """The parameters that some configurations lack."""
        always = {*self.defaults}
        for part in self.parts:
            if not part.when:
                always |= {n for n in part.names if part.numbers or all(n in each for each in part.listed)}
        return [name for name in self.names if name not in always]

    @property
    def none(self) -> Combinations:
        """No configuration; null is the first value of each parameter that some lack."""
        absent = self.absent
        fixed = {  # a tag, perhaps
            part.names[0]: (part.listed[0][part.names[0]],)
            for part in self.parts
            if len(part.names) == part.count == 1 and not part.when and not part.numbers
        }
        axes = {name: fixed.get(name, (None,) if name in absent else ()) for name in self.names}
        return Combinations(axes, {name: () for name in axes}, dict.fromkeys(absent, 0))

    def examples(self, name: str) -> list[Value]:
        """Return what a parameter may be; of numbers that are not listed, the ends."""
        found = [self.defaults[name]] if name in self.defaults else []
        for part in self.parts:
            if name in part.names and part.numbers:
                found += part.numbers.draw([LEAST, MOST])
            elif name in part.names:
                found += [each[name] for each in part.listed if name in each]
        return found

    @property
    def size(self) -> int | None:
        """How many ways to choose there are, some of them perhaps the same; None where none can count."""
        counts = [part.count for part in self.parts]
        return None if None in counts else math.prod(count or 0 for count in counts)

    @functools.cached_property
    def most(self) -> int | None:
        """How many configurations there are, at most; exact where all can be walked through."""
        is_plain = not self.excluded and not any(part.when for part in self.parts)
        if self.size is None or is_plain or self.size > MAX_WALKED:
            return self.size
        return len({canonical(each) for each in self.walk(0.0)})

    def configuration(self, choices: Sequence[Choice]) -> Config | None:
        """Return the configuration of these choices; None for one that is excluded."""
        config: Config = {}
        for part, choice in zip(self.parts, choices, strict=True):
            if choice is not None and self.holds(part, config):
                config |= part.values(choice)
        config |= {name: value for name, value in self.defaults.items() if name not in config}
        return None if self._is_excluded(config) else config

    def choices_of(self, config: Config) -> list[Choice] | None:
        """Return the choices that make this configuration; None for one that is not in the space."""
        found: list[Choice] = []
        unset = {*self.names}
        for part in self.parts:
            choice = None
            if self.holds(part, config):
                choice = part.choice_of(config, self.defaults)
                unset -= {*part.names}
                if choice is None:
                    return None
            found.append(choice)
        is_default = all(
            name in config and identity(config[name]) == identity(self.defaults[name])
            if name in self.defaults
            else name not in config
            for name in unset
        )
        return found if is_default and not self._is_excluded(config) else None

    def holds(self, part: Part, config: Config) -> bool:
        """Return whether the condition of a part holds in a configuration, as far as that is known."""
        return all(self._identity(name, config) in wanted for name, wanted in part.when.items())

    def _is_excluded(self, config: Config) -> bool:
        return any(
            all(self._identity(name, config) in wanted for name, wanted in each.items())
            for each in self.excluded
        )

    def _identity(self, name: str, config: Config) -> object:
        return identity(config.get(name, self.defaults.get(name, self.fixed.get(name))))

    def walk(self, start: float) -> Iterator[Config]:
        """Yield all configurations of a space with a size, from a place between 0 and 1 on."""
        size = self.size or 0
        for step in range(size):
            at, choices = (int(start * size) + step) % size, list[Choice]()
            for part in self.parts:
                at, place = divmod(at, part.count or 1)
                choices.append(part.choice_at(place))
            if (found := self.configuration(choices)) is not None:
                yield found


def make_space(
    items: Sequence[Item], defaults: Mapping[str, Node], excluded: Node | None, problems: Problems
) -> Space:
    """Return the space of the items; what cannot be is noted.

    Args:
        items: Of `combinations`.
        defaults: What a parameter is where no item sets it.
        excluded: Configurations that are not in it.
    """
    names = {name for item in items for name in item.columns}
    check_conditions(items, defaults, problems)
    exclusions = read_exclusions(excluded, items, defaults, problems)
    known = {name: plain(node) for name, node in defaults.items()}
    space = Space(
        tuple(_part(item) for item in items if len(item) or item.draws),
        {name: value for name, value in known.items() if name in names},
        {name: value for name, value in known.items() if name not in names},
        exclusions,
    )
    for name in space.absent:
        for item in items:
            if any(node is not None and node.value is None for node in item.columns.get(name, ())):
                problems.at(item.node, null_text(name))
    return space


def _part(item: Item) -> Part:
    names = tuple(item.columns)
    if item.draws is None:
        rows = zip(*item.columns.values(), strict=True)
        listed = [{n: plain(node) for n, node in zip(names, row, strict=True) if node} for row in rows]
        return Part(names, item.when, listed)
    if item.draws.locate is not None:
        return Part(names, item.when, numbers=item.draws)
    return Part(names, item.when, [{names[0]: value} for value in item.draws.values or ()])
