"""What may stand beside `combinations`, or at a file's top for all its phases: `tags`, `search` and the like.

Pure. What is sound is returned, the rest is noted in `Problems`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from distexp.sweep.early_terminate import EarlyTerminate, read_early_terminate
from distexp.sweep.sampling import Search, read_search
from distexp.sweep.validation import check_plain_command, shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import MAX_PRIORITY, Value

Item = TypeVar("Item")

RULES = ("tags", "renamed_from", "assume")  # which rows count
OPTIONS = (*RULES, "metric", "search", "early_terminate", "exclude", "order", "priority")
TOP_OPTIONS = ("setup",)  # of a file alone
MAX_SETUP_CHARS = 10_000  # it travels with each task of the file
GOALS = ("maximize", "minimize")
ORDERS = ("file", "shuffled")


@dataclass(frozen=True)
class Metric:
    """What a report and a search look at first."""

    name: str
    goal: Literal["maximize", "minimize"] = "maximize"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a phase says, or a file for all its phases."""

    tags: Mapping[str, Node] = field(default_factory=dict)  # no part of a task's identity
    renamed_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # earlier names of each
    assume: Mapping[str, Value] = field(default_factory=dict)  # what rows without a value of it hold
    names: Mapping[str, Node] = field(default_factory=dict)  # all parameters that these name, and where
    metric: Metric | None = None
    search: Search | None = None
    is_searched: bool = False  # `search` is said, soundly or not
    early_terminate: EarlyTerminate | None = None
    exclude: Node | None = None
    order: Literal["file", "shuffled"] | None = None
    priority: int | None = None
    setup: str | None = None  # what runs on each host before the first task of the file there

    def over(self, file: "Options", known: Iterable[str]) -> "Options":
        """Return these options with those of the file's top, as far as they concern `known` parameters."""
        here = {*known, "phase", "seed"}
        return Options(
            tags={**_of(here, file.tags), **self.tags},
            renamed_from={**_of(here, file.renamed_from), **self.renamed_from},
            assume={**_of(here, file.assume), **self.assume},
            names=self.names,
            metric=self.metric or file.metric,
            search=self.search or file.search,
            is_searched=self.is_searched or file.is_searched,
            early_terminate=self.early_terminate or file.early_terminate,
            exclude=self.exclude or _concerning(file.exclude, here),
            order=self.order or file.order,
            priority=file.priority if self.priority is None else self.priority,
            setup=file.setup,
        )


def _of(names: set[str], items: Mapping[str, Item]) -> dict[str, Item]:
    return {name: item for name, item in items.items() if name in names}


def _concerning(exclude: Node | None, names: Collection[str]) -> Node | None:
    """Return the exclusions of a file that name parameters of a phase alone."""
    if exclude is None or not isinstance(exclude.value, list):
        return exclude
    those = [
        each for each in exclude.value if not isinstance(each.value, dict) or each.value.keys() <= {*names}
    ]
    return Node(those, exclude.line, exclude.path) if those else None


def read_options(items: Mapping[str, Node], problems: Problems) -> Options:
    """Return what the keys `OPTIONS` and `TOP_OPTIONS` of a mapping say."""
    found = {key: READERS[key](items[key], problems) for key in RULES if key in items}
    tags, renames, assumed = (found.get(key, {}) for key in RULES)
    return Options(
        tags=tags,
        renamed_from={name: _names_of(node) for name, node in renames.items()},
        assume={name: plain(node) for name, node in assumed.items()},
        names=tags | renames | assumed,
        metric=_metric(items["metric"], problems) if "metric" in items else None,
        search=read_search(items["search"], problems) if "search" in items else None,
        is_searched="search" in items,
        early_terminate=read_early_terminate(items["early_terminate"], problems)
        if "early_terminate" in items
        else None,
        exclude=items.get("exclude"),
        order=_order(items["order"], problems) if "order" in items else None,
        priority=_priority(items["priority"], problems) if "priority" in items else None,
        setup=_setup(items["setup"], problems) if "setup" in items else None,
    )


def _metric(node: Node, problems: Problems) -> Metric | None:
    said = {"name": plain(node)} if isinstance(node.value, str) else plain(node)
    if (
        not isinstance(said, dict)
        or not isinstance(said.get("name"), str)
        or not said.keys() <= {"name", "goal"}
        or said.get("goal", "maximize") not in GOALS
    ):
        example = "metric: {name: val_acc, goal: maximize}, or goal: minimize"
        problems.at(node, f"must be such as {example} (it is {shown(node)})")
        return None
    return Metric(**said)


def _order(node: Node, problems: Problems) -> Literal["file", "shuffled"] | None:
    if node.value not in ORDERS:
        problems.at(node, f"must be file or shuffled (it is {shown(node)})")
        return None
    return cast(Literal["file", "shuffled"], node.value)


def _priority(node: Node, problems: Problems) -> int | None:
    if type(node.value) is not int or abs(node.value) > MAX_PRIORITY:
        problems.at(node, f"must be a whole number, higher first, 0 without one (it is {shown(node)})")
        return None
    return int(node.value)


def _setup(node: Node, problems: Problems) -> str | None:
    text = node.value
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_SETUP_CHARS:
        problems.at(node, f"must be a command such as 'bash get_data.sh' (it is {shown(node)})")
        return None
    check_plain_command(node, problems)
    return text


def check_options(options: Options, place: str, known: Iterable[str], problems: Problems) -> None:
    """Note names that are no parameters of `place` (a phase, a file), and earlier names that still are."""
    here = dict.fromkeys((*known, "phase", "seed"))
    for name, node in options.names.items():
        if name not in here:
            problems.at(
                node,
                f"there is no parameter {name} in {place}. There are: {', '.join(here)}",
            )
    for name, earlier in options.renamed_from.items():
        for old in earlier:
            if name != "phase" and old in here and name in options.names:
                problems.at(options.names[name], f"{old} is a parameter of {place} too: rename one of them")


def _tags(node: Node, problems: Problems) -> dict[str, Node]:
    items = node.value if isinstance(node.value, list) else [node]
    found = {}
    for item in items:
        if not isinstance(item.value, str) or item.value in ("phase", "seed"):
            problems.at(
                item, f"tags must be names of parameters, such as [project_name] (it is {shown(item)})"
            )
        else:
            found[item.value] = item
    return found


def _renames(node: Node, problems: Problems) -> dict[str, Node]:
    found = _mapping(node, "{lr: [learning_rate]}", problems)
    for name, item in found.items():
        if not all(_names_of(item)) or not isinstance(item.value, str | list):
            problems.at(
                item, f"earlier names of {name} must be text, such as [old_name] (it is {shown(item)})"
            )
    return found


def _assumed(node: Node, problems: Problems) -> dict[str, Node]:
    found = _mapping(node, "{dropout: 0.0}", problems)
    for name, item in found.items():
        if name == "phase" or (name == "seed" and type(item.value) is not int):
            problems.at(item, f"assume needs a value that {name} can have (it is {shown(item)})")
    return found


def _mapping(node: Node, example: str, problems: Problems) -> dict[str, Node]:
    if isinstance(node.value, dict):
        return node.value
    problems.at(node, f"must be a mapping, such as {example} (it is {shown(node)})")
    return {}


def _names_of(node: Node) -> tuple[str, ...]:
    """Return the earlier names: one text, or a list of them; empty text for what is none."""
    items = node.value if isinstance(node.value, list) else [node]
    return tuple(item.value if isinstance(item.value, str) else "" for item in items) or ("",)


READERS: dict[str, Callable[[Node, Problems], dict[str, Node]]] = {
    "tags": _tags,
    "renamed_from": _renames,
    "assume": _assumed,
}
