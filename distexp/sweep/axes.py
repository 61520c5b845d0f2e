"""The items of `combinations`: lists, `zip`, `cases`, ranges and conditions, read and checked. Pure."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from distexp.sweep.distributions import Distribution, is_distribution, read_distribution
from distexp.sweep.validation import SETTINGS, is_parameter, shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value, canonical

ITEM_NAMES = ("zip", "cases", "when")  # reserved in an item of `combinations`
MAX_AXIS_VALUES = 1_000_000  # that a range may make
HINT_PAIR = "write `zip:` to pair them, or two items to cross them"

Column = Sequence[Node | None]  # the value of each choice; None: this choice says nothing about it


@dataclass(frozen=True)
class Item:
    """One item of `combinations`: choices that each set some parameters."""

    node: Node
    columns: Mapping[str, Column]
    when: Mapping[str, frozenset[object]] = field(default_factory=dict)  # by name, identities: any of them
    draws: Distribution | None = None  # of its one parameter, in place of choices

    def __len__(self) -> int:
        """Return the number of its choices."""
        return len(next(iter(self.columns.values()), ()))

    @property
    def is_list(self) -> bool:
        """Whether it is the list of one axis, not `zip` or `cases`."""
        return not any(name in self.node.value for name in ("zip", "cases"))

    def may_give(self, name: str, wanted: object) -> bool:
        """Return whether a choice gives a parameter the value of this identity; True for an unsound item."""
        if self.draws is None:
            column = self.columns[name]
            return not column or any(node and identity(plain(node)) == wanted for node in column)
        if self.draws.values is not None:
            return wanted in map(identity, self.draws.values)
        locate = self.draws.locate
        return locate is None or (isinstance(wanted, int | float) and locate(wanted) is not None)

    def excludes(self, other: "Item") -> bool:
        """Return whether the conditions of both can never hold together."""
        return any(not self.when[name] & other.when[name] for name in self.when.keys() & other.when.keys())


def read_items(node: Node, problems: Problems) -> tuple[list[Item], tuple[int, ...]]:
    """Return the items of `combinations`, and the seeds of an axis `seed`; what is unsound is noted."""
    if not isinstance(node.value, list) or not node.value:
        problems.at(node, f"must be a list of axes, such as `- width: [1, 2, 4]` (it is {shown(node)})")
        return [], ()
    items: list[Item] = []
    seeds: tuple[int, ...] = ()
    seed_line = 0
    for entry in node.value:
        if not isinstance(entry.value, dict) or not entry.value:
            problems.at(entry, f"must be an axis, such as `width: [1, 2, 4]` (it is {shown(entry)})")
            continue
        if list(entry.value) == ["seed"]:
            found = entry.value["seed"]
            if seed_line:
                problems.at(found, f"seed is an axis already, at line {seed_line}: keep one")
            seeds, seed_line = read_seeds(found, problems), found.line
        elif (item := _read_item(entry, problems)) is not None:
            _check_again(item, items, problems)
            items.append(item)
    return items, seeds


def read_seeds(node: Node, problems: Problems) -> tuple[int, ...]:
    """Return the seeds of a list or range of distinct whole numbers; what is unsound is noted."""
    return tuple(item.value for item in read_values(node, problems, "whole numbers", _is_whole))


def _is_whole(value: Value) -> bool:
    return type(value) is int  # `true` is no seed


def _read_item(entry: Node, problems: Problems) -> Item | None:
    parts: dict[str, Node] = dict(entry.value)
    when = _read_when(parts.pop("when"), problems) if "when" in parts else {}
    names = list(parts)
    if len(names) != 1:
        found = ", ".join(names)
        if names and set(names).isdisjoint(ITEM_NAMES):
            problems.at(entry, f"{found} stand in one item: {HINT_PAIR}")
        else:
            problems.at(entry, f"an item holds one list, `zip` or `cases` (here: {found or 'only `when`'})")
        return None
    (name,) = names
    columns: Mapping[str, Column]
    if name == "zip":
        columns = _read_zip(parts[name], problems)
    elif name == "cases":
        columns = _read_cases(parts[name], problems)
    elif not _is_axis(name, parts[name], problems):
        return None
    elif is_distribution(parts[name]):
        draws = read_distribution(parts[name], problems)
        return Item(entry, {name: []}, when, draws)
    else:
        columns = {name: read_values(parts[name], problems)}
    return Item(entry, columns, when) if columns else None  # without choices when those are unsound


def _is_axis(name: str, node: Node, problems: Problems) -> bool:
    """Return whether an axis may be called so."""
    if name == "seed":
        problems.at(node, "seeds are crossed with every combination: write an item `- seed: [42, 101]`")
    elif name == "seeds":
        problems.at(node, "an axis of seeds is called `seed`")
    elif name in SETTINGS:
        other = f"call the axis otherwise, such as my_{name}, and write {{my_{name}}} in the command"
        problems.at(node, f"{name} is a setting, one for all tasks, under `defaults`: {other}")
    elif name in ITEM_NAMES:
        problems.at(node, f"{name} is reserved in an item of `combinations`: rename the parameter")
    else:
        return is_parameter(name, node, problems)
    return False


def _read_zip(node: Node, problems: Problems) -> dict[str, Column]:
    if not isinstance(node.value, dict) or not node.value:
        problems.at(node, f"must pair lists, such as zip: {{a: [1, 2], b: [3, 4]}} (it is {shown(node)})")
        return {}
    columns: dict[str, Column] = {
        name: read_values(values, problems, is_repeated=True)
        for name, values in node.value.items()
        if _is_axis(name, values, problems)
    }
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(column)}" for name, column in columns.items())
        if all(columns.values()):  # else a list is noted already
            problems.at(node, f"zip pairs lists of one length ({lengths})")
        return {}
    _check_distinct(columns, node.value, problems, "pair")
    return columns


def _read_cases(node: Node, problems: Problems) -> dict[str, Column]:
    if not isinstance(node.value, list) or not node.value:
        example = "cases: [{}, {optimizer: sgd}]"
        problems.at(node, f"must be a list of combinations, such as {example} (it is {shown(node)})")
        return {}
    names: dict[str, Node] = {}
    for case in node.value:
        if not isinstance(case.value, dict):
            problems.at(case, f"must be a combination, such as {{optimizer: sgd}} (it is {shown(case)})")
            return {}
        for name, value in case.value.items():
            names.setdefault(name, value)
    if not all([_is_axis(name, value, problems) for name, value in names.items()]):
        return {}
    if not names:
        problems.at(node, "no case sets a parameter")
    return {name: [case.value.get(name) for case in node.value] for name in names}


def _check_distinct(
    columns: Mapping[str, Column], places: Mapping[str, Node], problems: Problems, what: str
) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for at, row in enumerate(zip(*columns.values(), strict=True)):
        texts = tuple(canonical(plain(cell)) if cell else "" for cell in row)
        if texts in seen:
            place = next((cell for cell in row if cell is not None), next(iter(places.values())))
            problems.at(place, f"the {what} {at + 1} is the same as {what} {seen[texts] + 1}")
        seen.setdefault(texts, at)


def _read_when(node: Node, problems: Problems) -> dict[str, frozenset[object]]:
    if not isinstance(node.value, dict) or not node.value:
        problems.at(node, f"must be a condition, such as when: {{model: cnn}} (it is {shown(node)})")
        return {}
    return {name: identities_of(value) for name, value in node.value.items()}


def identity(value: Value) -> object:
    """Return what is equal for equal values alone: a number itself, else the canonical text."""
    return value if type(value) in (int, float) else canonical(value)


def identities_of(node: Node) -> frozenset[object]:
    """Return the identities of the values that a condition names: of a list, any of its items."""
    items = node.value if isinstance(node.value, list) else [node]
    return frozenset(identity(plain(item)) for item in items)


def _check_again(item: Item, earlier: Sequence[Item], problems: Problems) -> None:
    """Note an axis that stands in an earlier item too, unless their conditions exclude each other."""
    for other in earlier:
        for name in item.columns:
            if name in other.columns and not item.excludes(other):
                place = item.node.value.get(name, item.node)
                first = other.node.value.get(name, other.node).line
                how = (
                    "give both a `when`, and conditions that exclude each other" if item.when else "keep one"
                )
                problems.at(place, f"{name} is an axis already, at line {first}: {how}")


def read_values(
    node: Node,
    problems: Problems,
    what: str = "values",
    is_right: Callable[[Value], bool] = lambda value: True,
    *,
    is_repeated: bool = False,
) -> list[Node]:
    """Return the items of a list, or of a range, which must not be empty and, as a rule, be distinct."""
    items = _range(node, problems) if isinstance(node.value, dict) else node.value
    if not isinstance(items, list) or not items:
        if items != []:
            problems.at(node, f"must be a list, such as [1, 2, 4] (it is {shown(node)})")
        elif not isinstance(node.value, dict):
            problems.at(node, "must be a list that is not empty, such as [1, 2, 4]")
        return []
    seen: set[str] = set()
    for item in items:
        text = canonical(plain(item))
        if not is_right(item.value):
            problems.at(item, f"must hold {what} (this is {shown(item)})")
        elif text in seen and not is_repeated:
            problems.at(item, f"{shown(item)} stands in the list twice: keep one")
        seen.add(text)
    return list(items)


def _range(node: Node, problems: Problems) -> list[Node]:
    """Return the numbers that `{range: ...}` and the like stand for; none, and a note, for what is none."""
    forms: dict[str, Callable[[Sequence[float]], Iterable[float]]] = {
        "range": _arange,
        "linspace": _linspace,
        "geomspace": _geomspace,
    }
    if len(node.value) != 1 or (name := next(iter(node.value))) not in forms:
        if "logspace" in node.value:
            problems.at(
                node, "logspace takes exponents: write geomspace: [first, last, count] with the values"
            )
        else:
            problems.at(node, f"must be a list, {{range: ...}}, {{linspace: ...}} or {{geomspace: ...}} "
                              f"(it is {shown(node)})")  # fmt: skip
        return []
    arguments = plain(node.value[name])
    try:
        if not isinstance(arguments, list) or not all(type(each) in (int, float) for each in arguments):
            raise ValueError("must be a list of numbers")
        return [Node(value, node.line, node.path) for value in forms[name](arguments)]
    except ValueError as error:
        problems.at(node.value[name], f"{error} (it is {shown(node.value[name])})")
        return []


def _arange(arguments: Sequence[float]) -> list[float]:
    if not 1 <= len(arguments) <= 3:
        raise ValueError("range takes its end, or start and end, or start, end and step: [0, 10, 2]")
    start, stop = (0, arguments[0]) if len(arguments) == 1 else arguments[:2]
    step = arguments[2] if len(arguments) == 3 else 1
    if step == 0:
        raise ValueError("the step of a range must not be 0")
    count = _checked_count(max(0, math.ceil(_rounded((stop - start) / step))))
    return [_rounded(start + at * step) for at in range(count)]


def _linspace(arguments: Sequence[float]) -> list[float]:
    first, last, count = _ends_and_count(arguments, "linspace: [0, 1, 5]")
    if count == 1:
        return [float(first)]
    steps = [_rounded(first + (last - first) * at / (count - 1)) for at in range(count)]
    return [float(value) for value in (*steps[:-1], last)]


def _geomspace(arguments: Sequence[float]) -> list[float]:
    first, last, count = _ends_and_count(arguments, "geomspace: [1e-4, 1, 5]")
    if first * last <= 0:
        raise ValueError("both ends of a geomspace must be above 0, or both below")
    if count == 1:
        return [float(first)]
    ratio = last / first
    steps = [_rounded(first * ratio ** (at / (count - 1))) for at in range(count)]
    return [float(value) for value in (*steps[:-1], last)]


def _ends_and_count(arguments: Sequence[float], example: str) -> tuple[float, float, int]:
    if len(arguments) != 3 or type(arguments[2]) is not int:
        raise ValueError(f"write first, last and count, such as {example}")
    return arguments[0], arguments[1], _checked_count(arguments[2])


def _checked_count(count: int) -> int:
    if not 1 <= count <= MAX_AXIS_VALUES:
        raise ValueError(f"must give 1 to {MAX_AXIS_VALUES:,} values, not {count:,}")
    return count


def _rounded(number: float) -> float:
    """Return a number without the last digits, which only show that tenths are not binary: 0.3."""
    return number if isinstance(number, int) else float(f"{number:.12g}")
