"""Every combination of a phase from its items: crosses them, heeds conditions, takes out exclusions. Pure."""

import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distexp.sweep.axes import Item, identities_of, identity
from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value

MAX_COMBINATIONS = 5_000_000  # of a phase, before any is taken out: a second or two
UNSET = -1  # a place of a parameter that no item has set (yet)

Places = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Combinations:
    """Every combination of a phase, the first axis slowest."""

    axes: Mapping[str, Sequence[Value]] = field(default_factory=dict)  # the values that each takes
    places: Places | None = (
        None  # of each combination: where its value of each axis stands; None: all crossed
    )
    absent: Mapping[str, int] = field(
        default_factory=dict
    )  # of an axis: the place for not being there at all
    excluded: int = 0  # were taken out


def combine(
    items: Sequence[Item], defaults: Mapping[str, Node], excluded: Node | None, problems: Problems
) -> Combinations:
    """Return the combinations of the items; what cannot be is noted.

    Args:
        defaults: What a parameter is where no item sets it.
        excluded: Combinations to take out; each a mapping of names to a value, or to a list: any of them.
    """
    items = [item for item in items if len(item)]
    if all(item.is_list and not item.when for item in items) and excluded is None:
        return Combinations(
            {n: tuple(map(_value, column)) for item in items for n, column in item.columns.items()}
        )
    return _Crossing(items, defaults, problems).result(excluded)


def _value(node: Node | None) -> Value:
    return None if node is None else plain(node)


class Axis:
    """The distinct values of one parameter, and what it is where no item sets it."""

    def __init__(self, default: Node | None) -> None:
        self.values: list[Any] = []
        self.places: defaultdict[object, int] = defaultdict()  # identity -> place in `values`
        self.default = default
        self.absent: int | None = None

    def place(self, node: Node | None) -> int:
        """Return the place of a value; of none, `UNSET`."""
        if node is None:
            return UNSET
        return self.place_of(plain(node))

    def place_of(self, value: Value) -> int:
        """Return the place of a value, a new one if need be."""
        at = self.places.setdefault(identity(value), len(self.values))
        if at == len(self.values):
            self.values.append(value)
        return at

    def places_of(self, values: Sequence[Value]) -> list[int]:
        """Return the places of many values, new ones if need be."""
        keys = list(map(identity, values))
        for key, value in zip(keys, values, strict=True):
            if self.places.setdefault(key, len(self.values)) == len(self.values):
                self.values.append(value)
        return list(map(self.places.__getitem__, keys))

    def places_of_numbers(self, numbers: Sequence[float]) -> "array[int]":
        """Return the places of many numbers, as `places_of` does, but faster."""
        known = len(self.places)
        self.places.default_factory = itertools.count(len(self.values)).__next__
        found = array("i", map(self.places.__getitem__, numbers))
        self.places.default_factory = None
        new = list(itertools.islice(reversed(self.places), len(self.places) - known))
        self.values.extend(reversed(new))
        return found

    def unset_identity(self) -> object:
        """Return what it counts as where no item sets it: its default, or null."""
        return identity(_value(self.default))

    def unset_place(self) -> int:
        """Return the place for combinations in which no item sets it; a new one without a default."""
        if self.default is not None:
            return self.place(self.default)
        if self.absent is None:
            self.absent = len(self.values)
            self.values.append(None)
        return self.absent

    def filled(self, column: "array[int]") -> "array[int]":
        """Return the column with a place wherever no item has set one."""
        if UNSET not in column:
            return column
        place = self.unset_place()
        return array("i", [place if at == UNSET else at for at in column])


def packed(values: Sequence[Value]) -> Sequence[Value]:
    """Return the values in little memory: a million drawn numbers are 8 MB."""
    return array("d", values) if all(type(value) is float for value in values) else tuple(values)


class _Crossing:
    """Crosses items one after the other; each combination is a place in each axis."""

    def __init__(self, items: Sequence[Item], defaults: Mapping[str, Node], problems: Problems) -> None:
        self._items, self._defaults, self._problems = items, defaults, problems
        self._axes: dict[str, Axis] = {}
        self._columns: dict[str, array[int]] = {}
        self._count = 1

    def result(self, excluded: Node | None) -> Combinations:
        """Return all combinations but those that are excluded."""
        for item in self._items:
            if self._count * len(item) > MAX_COMBINATIONS:
                more = f"{self._count * len(item):,} combinations up to here"
                self._problems.at(item.node, f"{more}: {MAX_COMBINATIONS:,} is the most in a phase")
                return Combinations()
            self._cross(item)
        for name, axis in self._axes.items():
            self._columns[name] = axis.filled(self._columns[name])
        check_absent(self._axes, self._items, self._problems)
        before = self._count
        if excluded is not None:
            self._exclude(excluded)
        return Combinations(
            {name: tuple(axis.values) for name, axis in self._axes.items()},
            self._columns,
            {name: axis.absent for name, axis in self._axes.items() if axis.absent is not None},
            before - self._count,
        )

    def _check_cases(self, item: Item, chosen: Mapping[str, Sequence[int]]) -> None:
        """Note a case that says the same as another, once defaults are filled in."""
        seen: dict[tuple[object, ...], int] = {}
        for at, row in enumerate(zip(*chosen.values(), strict=True)):
            axes = [self._axes[name] for name in chosen]
            texts = tuple(
                identity(axis.values[place]) if place != UNSET else axis.unset_identity()
                for axis, place in zip(axes, row, strict=True)
            )
            if seen.setdefault(texts, at) != at:
                case = item.node.value["cases"].value[at]
                self._problems.at(case, f"case {at + 1} is the same as case {seen[texts] + 1}: keep one")

    def _cross(self, item: Item) -> None:
        holds = self._holding(item.when, item.node) if item.when else None
        for name in item.columns:
            if name not in self._axes:
                self._axes[name] = Axis(self._defaults.get(name))
                self._columns[name] = array("i", [UNSET]) * self._count
        size = len(item)
        chosen = {n: array("i", map(self._axes[n].place, column)) for n, column in item.columns.items()}
        if "cases" in item.node.value:
            self._check_cases(item, chosen)
        if holds is None:
            for name, column in self._columns.items():
                self._columns[name] = (
                    chosen[name] * self._count if name in chosen else _repeated(column, size)
                )
            self._count *= size
            return
        for name, column in self._columns.items():
            self._columns[name] = _branched(column, holds, chosen.get(name), size)
        self._count += (size - 1) * sum(holds)

    def _holding(self, when: Mapping[str, frozenset[object]], node: Node) -> bytearray:
        """Return 1 for each combination that meets the condition, else 0."""
        holds = bytearray([1]) * self._count
        for name, wanted in when.items():
            if name in self._axes:
                axis = self._axes[name]
                known = {*axis.places, axis.unset_identity()}
                allowed = {axis.places[each] for each in wanted & axis.places.keys()}
                if axis.unset_identity() in wanted:
                    allowed.add(UNSET)
                holds = bytearray(a and b in allowed for a, b in zip(holds, self._columns[name], strict=True))
            elif name in self._defaults:
                known = {*wanted}
                default = identity(plain(self._defaults[name]))
                holds = holds if default in wanted else bytearray(self._count)
            else:
                later = any(name in item.columns for item in self._items)
                self._problems.at(node.value["when"], unknown_text(name, later))
                continue
            if unknown := wanted - known:
                self._problems.at(node.value["when"], _never_text(name, unknown))
        return holds

    def _exclude(self, excluded: Node) -> None:
        keep = bytearray([1]) * self._count
        for each in exclusions_of(excluded, self._problems):
            hit = self._matching(each)
            if hit is not None and not any(hit) and excluded.path != "exclude":  # of the file: for all phases
                self._problems.at(each, _nothing_text(each))
            keep = bytearray(a and not b for a, b in zip(keep, hit or bytes(self._count), strict=True))
        if not any(keep):
            self._problems.at(excluded, "exclude leaves no combination")
        for name, column in self._columns.items():
            self._columns[name] = array("i", [at for at, kept in zip(column, keep, strict=True) if kept])
        self._count = sum(keep)

    def _matching(self, each: Node) -> bytearray | None:
        """Return 1 for each combination that has all these values, else 0; None for unknown names."""
        found = bytearray([1]) * self._count
        for name, node in each.value.items():
            wanted = identities_of(node)
            if name in self._axes:
                axis = self._axes[name]
                allowed = {axis.places[each] for each in wanted & axis.places.keys()}
                if axis.absent is not None and identity(None) in wanted:
                    allowed.add(axis.absent)
                found = bytearray(
                    a and at in allowed for a, at in zip(found, self._columns[name], strict=True)
                )
            elif name in self._defaults:
                found = found if identity(plain(self._defaults[name])) in wanted else bytearray(self._count)
            else:
                self._problems.at(node, _no_parameter_text(name))
                return None
        return found


def _repeated(column: Iterable[int], times: int) -> "array[int]":
    return array("i", [at for at in column for _ in range(times)])


def _branched(
    column: Sequence[int], holds: bytearray, chosen: "array[int] | None", size: int
) -> "array[int]":
    """Return the column after an item that only some combinations take, and branch there."""
    branched = array("i")
    for at, taken in zip(column, holds, strict=True):
        if not taken:
            branched.append(at)
        elif chosen is None:
            branched.extend([at] * size)
        else:
            branched.extend(chosen)
    return branched


def check_absent(axes: Mapping[str, Axis], items: Sequence[Item], problems: Problems) -> None:
    """Note an axis that is null in some combinations and not there in others."""
    for name, axis in axes.items():
        if axis.absent is not None and identity(None) in axis.places:
            item = next(item for item in items if name in item.columns)
            problems.at(item.node, null_text(name))


def null_text(name: str) -> str:
    """Return what is wrong with a parameter that is null here and missing there."""
    return f"{name} is null in some combinations and missing in others, which no row can tell apart"


def unknown_text(name: str, is_later: bool) -> str:
    """Return what is wrong with a condition on a parameter that no earlier item or default sets."""
    return f"the item of {name} comes later: move it up" if is_later else f"there is no parameter {name}"


def _never_text(name: str, values: Iterable[object]) -> str:
    return f"{name} is never {', '.join(sorted(map(str, values)))}"


def _nothing_text(exclusion: Node) -> str:
    return f"no combination is {shown(exclusion)}: nothing to exclude"


def _no_parameter_text(name: str) -> str:
    return f"there is no parameter {name} in this phase"


def check_conditions(items: Sequence[Item], defaults: Mapping[str, Node], problems: Problems) -> bool:
    """Note conditions that can never hold, or name what is set later, where combinations are drawn."""
    is_sound = True
    for at, item in enumerate(items):
        for name, wanted in item.when.items():
            earlier = [other for other in items[:at] if name in other.columns]
            text = ""
            if not earlier and name not in defaults:
                text = unknown_text(name, any(name in other.columns for other in items))
            elif earlier and (never := _impossible(wanted, name, earlier, defaults)):
                text = _never_text(name, never)
            if text:
                problems.at(item.node.value["when"], text)
                is_sound = False
    return is_sound


def _impossible(
    wanted: Iterable[object], name: str, items: Sequence[Item], defaults: Mapping[str, Node]
) -> list[object]:
    """Return which of these values a parameter never has; without a default it may be null."""
    unset = identity(_value(defaults.get(name)))
    setting = [item for item in items if name in item.columns]
    return [each for each in wanted if each != unset and not any(i.may_give(name, each) for i in setting)]


def read_exclusions(
    excluded: Node | None, items: Sequence[Item], defaults: Mapping[str, Node], problems: Problems
) -> list[Mapping[str, frozenset[object]]]:
    """Return what `exclude` says where combinations are drawn: by name, the identities that it names."""
    found: list[Mapping[str, frozenset[object]]] = []
    is_of_file = excluded is not None and excluded.path == "exclude"  # for all phases
    for each in exclusions_of(excluded, problems):
        wanted = {name: identities_of(node) for name, node in each.value.items()}
        found.append(wanted)
        named = {*defaults, *(name for item in items for name in item.columns)}
        if unknown := [name for name in wanted if name not in named]:
            problems.at(each.value[unknown[0]], _no_parameter_text(unknown[0]))
        elif not is_of_file and any(
            len(_impossible(values, name, items, defaults)) == len(values) for name, values in wanted.items()
        ):
            problems.at(each, _nothing_text(each))
    return found


def exclusions_of(excluded: Node | None, problems: Problems) -> list[Node]:
    """Return the combinations that `exclude` lists; what is none is noted."""
    if excluded is None:
        return []
    if not isinstance(excluded.value, list) or not excluded.value:
        problems.at(excluded, "must be a list of combinations, such as exclude: [{optimizer: sgd, width: 4}]")
        return []
    for each in excluded.value:
        if not isinstance(each.value, dict) or not each.value:
            problems.at(each, f"must be a combination, such as {{width: 4}} (it is {shown(each)})")
    return [each for each in excluded.value if isinstance(each.value, dict) and each.value]
