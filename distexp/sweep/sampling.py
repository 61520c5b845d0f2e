"""Random search: the combinations of a phase with `search: {method: random, samples: 40, seed: 1}`. Pure.

Sample n of axis x depends on the search's seed, the phase's name, n and x alone: more samples keep the first
ones, and another axis leaves the draws of the others as they are.
"""

import importlib.util
import itertools
import math
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distexp.sweep.axes import Item, identity
from distexp.sweep.combinations import (
    UNSET,
    Axis,
    Combinations,
    check_absent,
    check_conditions,
    packed,
    read_exclusions,
)
from distexp.sweep.distributions import Distribution, choice, uniform_again, uniforms
from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import canonical

SEARCH_KEYS = ("method", "samples", "seed", "for_each")
METHODS = ("random", "tpe")
MAX_SAMPLES = 5_000_000
FEW_TRIES = 20  # of a sample that is there already; then the next free one of a small space is taken
MAX_TRIES = 1_000  # where the space is too large to list
MAX_SPACE = 10_000_000  # combinations of a small space

Row = tuple[int, ...]  # the place of a value in each axis


@dataclass(frozen=True)
class Search:
    """How a phase is sampled."""

    node: Node
    samples: int
    seed: int
    method: Literal["random", "tpe"] = "random"
    for_each: tuple[str, ...] = ()  # axes for each value of which the same draws are repeated


def read_search(node: Node, problems: Problems) -> Search | None:
    """Return what `search` says; what is unsound is noted."""
    if not isinstance(node.value, dict):
        example = "search: {method: random, samples: 40, seed: 1}"
        problems.at(node, f"must be such as {example} (it is {shown(node)})")
        return None
    items: Mapping[str, Node] = node.value
    wrong = [*_unsound(node, items)]
    for place, text in wrong:
        problems.at(place, text)
    if wrong:
        return None
    return Search(
        node,
        items["samples"].value,
        items["seed"].value if "seed" in items else 1,
        items["method"].value if "method" in items else "random",
        tuple(name.value for name in _listed(items.get("for_each"))),
    )


def _unsound(node: Node, items: Mapping[str, Node]) -> Iterator[tuple[Node, str]]:
    """Yield what is wrong in a mapping `search`, and where."""
    for name, item in items.items():
        if name not in SEARCH_KEYS:
            yield item, f"is no key of `search`. There are: {', '.join(SEARCH_KEYS)}"
    method, samples, seed, names = (items.get(key) for key in SEARCH_KEYS)
    is_adaptive = method is not None and method.value == "tpe"
    if method is not None and method.value not in METHODS:
        yield method, f"must be random or tpe (it is {shown(method)})"
    if is_adaptive and importlib.util.find_spec("optuna") is None:
        yield method or node, "tpe needs Optuna: pip install optuna (the extra `search`)"
    if samples is None:
        yield node, "search needs samples, such as samples: 40"
    elif type(samples.value) is not int or not 1 <= samples.value <= MAX_SAMPLES:
        yield samples, f"must be a number from 1 to {MAX_SAMPLES:,} (it is {shown(samples)})"
    if seed is not None and type(seed.value) is not int:
        yield seed, f"must be a whole number (it is {shown(seed)})"
    if names is not None and not all(isinstance(name.value, str) for name in _listed(names)):
        yield names, f"must be names of axes, such as [dataset] (it is {shown(names)})"
    elif names is not None and is_adaptive:
        yield names, "is for method: random; with tpe write a phase for each value"


def _listed(node: Node | None) -> list[Node]:
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def sample(
    items: Sequence[Item],
    defaults: Mapping[str, Node],
    search: Search,
    problems: Problems,
    *,
    phase: str,
    excluded: Node | None = None,
) -> Combinations:
    """Return the sampled combinations of the items; those of one sample stand together.

    Args:
        defaults: What a parameter is where no item sets it.
        phase: Its name.
        excluded: Combinations that are not to be drawn, as in `combine`.
    """
    is_sound = all(item.draws or len(item) for item in items)  # else a problem is noted already
    if not _check_for_each(items, search, problems) or not is_sound:
        return Combinations()
    return _Sampler(items, defaults, search, phase).result(excluded, problems)


def _check_for_each(items: Sequence[Item], search: Search, problems: Problems) -> bool:
    lists = {name for item in items if not item.when and not item.draws for name in item.columns}
    unknown = [name for name in search.for_each if name not in lists]
    for name in unknown:
        problems.at(search.node.value["for_each"], f"{name} is no list of this phase without `when`")
    return not unknown


class _Drawn:
    """An item of which each sample takes one choice, known by a number."""

    def __init__(self, item: Item, axes: Mapping[str, Axis]) -> None:
        self.item = item
        self.label = ",".join(sorted(item.columns))
        self.names = list(item.columns)
        self._axis = axes[self.names[0]] if item.draws else None
        self.rows: list[Row] = []
        if item.draws:
            self.distribution: Distribution = item.draws
        else:
            self.rows = list(
                zip(*[map(axes[n].place, column) for n, column in item.columns.items()], strict=True)
            )
            self.distribution = choice(range(len(self.rows)))

    def numbers(self, uniform: Sequence[float]) -> "array[int]":
        """Return the choice for each of these numbers between 0 and 1."""
        drawn = self.distribution.draw(uniform)
        if self._axis is None:
            return array("i", drawn)
        if self.distribution.name == "categorical":
            return array("i", self._axis.places_of(drawn))
        return self._axis.places_of_numbers(drawn)

    def places(self, number: int) -> Row:
        """Return the places of the values of one choice, in the order of `names`."""
        return (number,) if self._axis else self.rows[number]

    def columns(self, numbers: Sequence[int]) -> "Iterator[tuple[str, array[int]]]":
        """Yield for each parameter the places of its values in these choices."""
        for place, name in enumerate(self.names):
            yield (
                name,
                array("i", numbers if self._axis else [self.rows[number][place] for number in numbers]),
            )

    def listed(self, axes: Mapping[str, Axis]) -> list[int]:
        """Return all choices in an order that depends on their values alone."""
        values = self.distribution.values or ()
        if self._axis:
            return sorted(
                map(self._axis.place_of, values), key=lambda at: canonical(axes[self.names[0]].values[at])
            )
        texts = {
            at: canonical(
                [None if p == UNSET else axes[n].values[p] for n, p in zip(self.names, row, strict=True)]
            )
            for at, row in enumerate(self.rows)
        }
        return sorted(texts, key=lambda at: texts[at])


def _are_distinct(columns: "Sequence[array[int]]") -> bool:
    """Return whether no two samples make the same choices; each column holds those of one item."""
    if not columns:
        return False
    by_size = sorted(columns, key=max, reverse=True)  # the first ones mostly tell all samples apart
    codes: Sequence[int] = by_size[0]
    for column in by_size[1:]:
        size = max(column) + 1
        codes = [code * size + at for code, at in zip(codes, column, strict=True)]
        if len(set(codes)) == len(codes):
            return True
    return len(set(codes)) == len(codes)


def _too_many(there_are: int) -> str:
    if not there_are:
        return "exclude leaves no combination"
    return f"there are only {there_are:,} different combinations: write samples: {there_are}"


class _Sampler:
    """Draws samples one after the other, each different from those before."""

    def __init__(
        self, items: Sequence[Item], defaults: Mapping[str, Node], search: Search, phase: str
    ) -> None:
        names = list(dict.fromkeys(name for item in items for name in item.columns))
        self._axes = {name: Axis(defaults.get(name)) for name in names}
        self._at = {name: at for at, name in enumerate(names)}
        self._items, self._defaults, self._search, self._phase = items, defaults, search, phase
        self._repeated = [item for item in items if set(item.columns) & set(search.for_each)]
        self._drawn = [_Drawn(item, self._axes) for item in items if item not in self._repeated]
        repeated = [
            list(zip(*[map(self._axes[n].place, column) for n, column in item.columns.items()], strict=True))
            for item in self._repeated
        ]
        self._repeats = list(itertools.product(*repeated))
        self._exclusions: list[Mapping[str, frozenset[object]]] = []
        self._is_conditional = any(item.when for item in items)  # or has exclusions

    def result(self, excluded: Node | None, problems: Problems) -> Combinations:
        """Return the combinations of all samples."""
        self._exclusions = read_exclusions(excluded, self._items, self._defaults, problems)
        self._is_conditional = self._is_conditional or bool(self._exclusions)
        if not check_conditions(self._items, self._defaults, problems):
            return Combinations()
        columns = self._columns(self._samples(problems))
        filled = {
            name: axis.filled(column)
            for (name, axis), column in zip(self._axes.items(), columns, strict=True)
        }
        check_absent(self._axes, self._items, problems)
        return Combinations(
            {name: packed(axis.values) for name, axis in self._axes.items()},
            filled,
            {name: axis.absent for name, axis in self._axes.items() if axis.absent is not None},
        )

    def _samples(self, problems: Problems) -> "list[array[int]]":
        """Return for each drawn item what each sample takes; fewer when there are no more."""
        search = self._search
        first = [
            drawn.numbers(uniforms(search.seed, self._phase, drawn.label, search.samples))
            for drawn in self._drawn
        ]
        if not first:
            problems.at(search.node, "nothing is drawn: all axes are in for_each. Take `search` out")
        if not self._is_conditional and _are_distinct(first):
            return first
        taken, seen = list[Row](), set[Row]()
        for number, tried in enumerate(zip(*first, strict=True)):
            for chosen in itertools.chain([tried], self._redrawn(number)):
                if new := self._new(chosen, seen):
                    taken.append(chosen)
                    seen.update(new)
                    break
            else:
                problems.at(search.node.value["samples"], _too_many(number))
                break
        return [array("i", column) for column in zip(*taken, strict=True)]

    def _redrawn(self, number: int) -> Iterator[Row]:
        """Yield other choices for a sample that is there already, at last each of a small space."""
        listed = [drawn.distribution.values for drawn in self._drawn]
        size = math.prod(len(values) for values in listed if values is not None)
        is_small = None not in listed and size <= MAX_SPACE
        for attempt in range(1, FEW_TRIES if is_small else MAX_TRIES):
            yield tuple(
                drawn.numbers([uniform_again(self._search.seed, self._phase, drawn.label, number, attempt)])[
                    0
                ]
                for drawn in self._drawn
            )
        if is_small:
            start = uniform_again(self._search.seed, self._phase, "", number, 0)
            by_label = sorted(range(len(self._drawn)), key=lambda at: self._drawn[at].label)
            choices = self._listed_choices()
            for step in range(size):
                at, chosen = (int(start * size) + step) % size, [0] * len(self._drawn)
                for place in by_label:
                    at, one = divmod(at, len(choices[place]))
                    chosen[place] = choices[place][one]
                yield tuple(chosen)

    def _listed_choices(self) -> list[list[int]]:
        if not hasattr(self, "_choices"):
            self._choices = [drawn.listed(self._axes) for drawn in self._drawn]
        return self._choices

    def _new(self, chosen: Row, seen: Container[Row]) -> list[Row]:
        """Return what of a sample is not there yet: its combinations, or itself."""
        rows = self._rows(chosen) if self._is_conditional else [chosen]
        return [row for row in rows if row not in seen]

    def _rows(self, chosen: Row) -> list[Row]:
        """Return the combinations of a sample, one for each repeat."""
        found = [self._row(chosen, repeat) for repeat in self._repeats]
        return [each for each in found if not self._is_excluded(each)]

    def _columns(self, samples: "Sequence[array[int]]") -> "list[array[int]]":
        """Return for each axis where the value of each combination stands."""
        if self._is_conditional:
            rows = dict.fromkeys(row for chosen in zip(*samples, strict=True) for row in self._rows(chosen))
            return [array("i", column) for column in zip(*rows, strict=True)] or [
                array("i") for _ in self._axes
            ]
        times = len(self._repeats)
        columns = {name: array("i") for name in self._axes}
        count = len(samples[0]) if samples else 1
        for drawn, numbers in zip(self._drawn, samples, strict=True):
            for name, places in drawn.columns(numbers):
                columns[name] = (
                    places if times == 1 else array("i", [at for at in places for _ in range(times)])
                )
        for at, item in enumerate(self._repeated):
            for place, name in enumerate(item.columns):
                columns[name] = array("i", [repeat[at][place] for repeat in self._repeats]) * count
        return list(columns.values())

    def _row(self, chosen: Row, repeat: Sequence[Row]) -> Row:
        row = [UNSET] * len(self._at)
        numbers, repeats = iter(zip(self._drawn, chosen, strict=True)), iter(repeat)
        for item in self._items:
            if item in self._repeated:
                places = next(repeats)
            else:
                drawn, number = next(numbers)
                places = drawn.places(number)
            if all(self._identity(name, row) in wanted for name, wanted in item.when.items()):
                for name, at in zip(item.columns, places, strict=True):
                    row[self._at[name]] = at
        return tuple(row)

    def _is_excluded(self, row: Sequence[int]) -> bool:
        return any(
            all(self._identity(name, row) in wanted for name, wanted in exclusion.items())
            for exclusion in self._exclusions
        )

    def _identity(self, name: str, row: Sequence[int]) -> object:
        axis = self._axes.get(name)
        if axis is None:
            return identity(plain(self._defaults[name])) if name in self._defaults else identity(None)
        at = row[self._at[name]]
        return axis.unset_identity() if at == UNSET else identity(axis.values[at])
