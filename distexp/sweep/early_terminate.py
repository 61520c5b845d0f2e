"""`early_terminate`: tasks whose metric is not among the best at a rung are stopped there. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems

EXAMPLE = "early_terminate: {type: asha, min_iter: 1, eta: 3, max_iter: 27}"
KEYS = ("type", "min_iter", "eta", "max_iter", "for_each")
WANDB_KEYS = ("s", "strict")  # of W&B's `hyperband`
TYPES = ("asha", "hyperband")  # the second is W&B's word for the same
LEAST = {"min_iter": 1, "eta": 2, "max_iter": 1, "s": 1}
MOST = 2**31


@dataclass(frozen=True)
class EarlyTerminate:
    """What a phase says, or a file for all its phases."""

    node: Node
    min_iter: int
    eta: int
    max_iter: int | None
    for_each: tuple[str, ...] | None  # None: as in `search`


def read_early_terminate(node: Node, problems: Problems) -> EarlyTerminate | None:
    """Return what `early_terminate` says; what is unsound is noted."""
    if not isinstance(node.value, dict):
        problems.at(node, f"must be such as {EXAMPLE} (it is {shown(node)})")
        return None
    items: Mapping[str, Node] = node.value
    wrong = _wrong(node, items)
    numbers = {key: items[key].value for key in LEAST if key in items}
    for place, text in wrong:
        problems.at(place, text)
    if wrong:
        return None
    eta, max_iter = numbers.get("eta", 3), numbers.get("max_iter")
    min_iter = numbers.get("min_iter", 1)
    if max_iter is not None and "min_iter" not in numbers and "s" in numbers:
        min_iter = max(1, max_iter // eta ** numbers["s"])  # as W&B counts from the end
    if max_iter is not None and min_iter > max_iter:
        problems.at(items["min_iter"], f"is more than max_iter: {max_iter}, so nothing would be stopped")
        return None
    names = items.get("for_each")
    return EarlyTerminate(node, min_iter, eta, max_iter, None if names is None else _names(names))


def _wrong(node: Node, items: Mapping[str, Node]) -> list[tuple[Node, str]]:
    kind = items.get("type")
    known = (*KEYS, *WANDB_KEYS) if kind is not None and kind.value == "hyperband" else KEYS
    wrong = [
        (item, f"is no key of `early_terminate`. There are: {', '.join(KEYS)}")
        for name, item in items.items()
        if name not in known
    ]
    if kind is None:
        wrong.append((node, f"needs a type, such as {EXAMPLE}"))
    elif kind.value not in TYPES:
        wrong.append((kind, f"must be asha, or hyperband as W&B calls it (it is {shown(kind)})"))
    for key, least in LEAST.items():
        item = items.get(key)
        if key in known and item is not None and not _is_number(item, least):
            wrong.append((item, f"must be a whole number from {least} on (it is {shown(item)})"))
    names = items.get("for_each")
    if names is not None and not all(isinstance(item.value, str) for item in _listed(names)):
        wrong.append((names, f"must be names of parameters, such as [dataset] (it is {shown(names)})"))
    return wrong


def _is_number(node: Node, least: int) -> bool:
    return type(node.value) is int and least <= node.value <= MOST


def _listed(node: Node) -> Sequence[Node]:
    return node.value if isinstance(node.value, list) else [node]


def _names(node: Node) -> tuple[str, ...]:
    return tuple(item.value for item in _listed(node))
