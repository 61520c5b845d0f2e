"""Every combination of a phase from its items: crosses them, heeds conditions, takes out exclusions. Pure."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from distexp.sweep.axes import Item, texts_of
from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value, canonical

MAX_COMBINATIONS = 5_000_000  # of a phase, before any is taken out: a second or two
UNSET = -1  # a place of a parameter that no item has set (yet)

Places = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Combinations:
    """Every combination of a phase, the first axis slowest."""

    axes: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)  # the values that each takes
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
    if all(len(item.columns) == 1 and not item.when for item in items) and excluded is None:
        return Combinations(
            {n: tuple(map(_value, column)) for item in items for n, column in item.columns.items()}
        )
    return _Crossing(items, defaults, problems).result(excluded)


def _value(node: Node | None) -> Value:
    return None if node is None else plain(node)


class _Axis:
    """The distinct values of one parameter, and what it is where no item sets it."""

    def __init__(self, default: Node | None) -> None:
        self.values: list[Value] = []
        self.places: dict[str, int] = {}  # canonical text -> place in `values`
        self.default = default
        self.absent: int | None = None

    def place(self, node: Node | None) -> int:
        """Return the place of a value; of none, `UNSET`."""
        if node is None:
            return UNSET
        value = plain(node)
        at = self.places.setdefault(canonical(value), len(self.values))
        if at == len(self.values):
            self.values.append(value)
        return at

    def unset_text(self) -> str:
        """Return what it counts as where no item sets it: its default, or null."""
        return canonical(_value(self.default))

    def unset_place(self) -> int:
        """Return the place for combinations in which no item sets it; a new one without a default."""
        if self.default is not None:
            return self.place(self.default)
        if self.absent is None:
            self.absent = len(self.values)
            self.values.append(None)
        return self.absent


class _Crossing:
    """Crosses items one after the other; each combination is a place in each axis."""

    def __init__(self, items: Sequence[Item], defaults: Mapping[str, Node], problems: Problems) -> None:
        self._items, self._defaults, self._problems = items, defaults, problems
        self._axes: dict[str, _Axis] = {}
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
            if UNSET in self._columns[name]:
                self._fill(name, axis)
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
        seen: dict[tuple[str, ...], int] = {}
        for at, row in enumerate(zip(*chosen.values(), strict=True)):
            axes = [self._axes[name] for name in chosen]
            texts = tuple(
                canonical(axis.values[place]) if place != UNSET else axis.unset_text()
                for axis, place in zip(axes, row, strict=True)
            )
            if seen.setdefault(texts, at) != at:
                case = item.node.value["cases"].value[at]
                self._problems.at(case, f"case {at + 1} is the same as case {seen[texts] + 1}: keep one")

    def _cross(self, item: Item) -> None:
        holds = self._holding(item.when, item.node) if item.when else None
        for name in item.columns:
            if name not in self._axes:
                self._axes[name] = _Axis(self._defaults.get(name))
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

    def _holding(self, when: Mapping[str, frozenset[str]], node: Node) -> bytearray:
        """Return 1 for each combination that meets the condition, else 0."""
        holds = bytearray([1]) * self._count
        for name, texts in when.items():
            if name in self._axes:
                axis = self._axes[name]
                known = {*axis.places, axis.unset_text()}
                allowed = {axis.places[text] for text in texts & axis.places.keys()}
                if axis.unset_text() in texts:
                    allowed.add(UNSET)
                holds = bytearray(a and b in allowed for a, b in zip(holds, self._columns[name], strict=True))
            elif name in self._defaults:
                known = {canonical(plain(self._defaults[name]))}
                holds = holds if texts & known else bytearray(self._count)
                known |= texts
            else:
                later = any(name in item.columns for item in self._items)
                why = "its item comes later: move it up" if later else "there is no such parameter"
                self._problems.at(node.value["when"], f"when: {name}: {why}")
                continue
            if unknown := texts - known:
                self._problems.at(node.value["when"], f"when: {name} is never {', '.join(sorted(unknown))}")
        return holds

    def _fill(self, name: str, axis: _Axis) -> None:
        place = axis.unset_place()
        if axis.absent is not None and canonical(None) in axis.places:
            item = next(item for item in self._items if name in item.columns)
            self._problems.at(
                item.node,
                f"{name} is null in some combinations and missing in others, which no row can tell apart",
            )
        self._columns[name] = array("i", [place if at == UNSET else at for at in self._columns[name]])

    def _exclude(self, excluded: Node) -> None:
        if not isinstance(excluded.value, list) or not excluded.value:
            example = "exclude: [{optimizer: sgd, width: 4}]"
            self._problems.at(excluded, f"must be a list of combinations, such as {example}")
            return
        keep = bytearray([1]) * self._count
        for each in excluded.value:
            if not isinstance(each.value, dict) or not each.value:
                self._problems.at(each, f"must be a combination, such as {{width: 4}} (it is {shown(each)})")
                continue
            hit = self._matching(each)
            if hit is not None and not any(hit):
                self._problems.at(each, f"no combination is {shown(each)}: nothing to exclude")
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
            texts = texts_of(node)
            if name in self._axes:
                axis = self._axes[name]
                allowed = {axis.places[text] for text in texts & axis.places.keys()}
                if axis.absent is not None and canonical(None) in texts:
                    allowed.add(axis.absent)
                found = bytearray(
                    a and at in allowed for a, at in zip(found, self._columns[name], strict=True)
                )
            elif name in self._defaults:
                found = found if canonical(plain(self._defaults[name])) in texts else bytearray(self._count)
            else:
                self._problems.at(node, f"there is no parameter {name} in this phase")
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
