"""What a phase asks for in lines that people read: its axes as understood, and some of its tasks. Pure."""

from collections.abc import Mapping, Sequence
from itertools import islice

from distexp.sweep.axes import Item
from distexp.sweep.grid import GridPoint
from distexp.sweep.templates import render
from distexp.sweep.yaml_loader import Node, plain
from distexp.task import Value
from distexp.text import cut

FEW = 6  # values of an axis that are all shown; of more, the first ones and the last
MAX_CHARS = 120  # of a line


def axis_line(item: Item) -> str:
    """Return an item of `combinations` as it was understood: `lr: 0.1, 0.3 when optimizer is sgd`."""
    names = ", ".join(item.columns)
    if item.draws is not None:
        said = plain(item.node.value[names])
        about = [f"{key} {render(value)}" for key, value in said.items() if key != "distribution"]
        text = f"{names}: {', '.join(['drawn', item.draws.name, *about])}"
    elif item.is_list:
        text = f"{names}: {_few([render(_value(node)) for node in item.columns[names]])}"
    else:
        rows = zip(*item.columns.values(), strict=True)
        pairs = (dict(zip(item.columns, row, strict=True)) for row in rows)
        kind = "in pairs" if "zip" in item.node.value else "by case"
        shown = [
            _assigned({name: _value(node) for name, node in row.items() if node}) or "-" for row in pairs
        ]
        text = f"{names} {kind}: {_few(shown, '; ')}"
    return cut(text, MAX_CHARS) + _condition(item)


def task_lines(points: Sequence[GridPoint]) -> list[str]:
    """Return the first three tasks and the last, each with its parameters that vary."""
    shown = list(islice(points, 3))
    if len(points) > len(shown):
        shown.append(points[-1])
    return [f"{point.task_id}: {_varied(point)}" for point in shown]


def _varied(point: GridPoint) -> str:
    config = point.task.config
    return cut(_assigned({name: config[name] for name in point.grid.axes if name in config}), MAX_CHARS)


def _assigned(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {render(value)}" for name, value in values.items())


def _few(texts: Sequence[str], comma: str = ", ") -> str:
    if len(texts) <= FEW:
        return comma.join(texts)
    return f"{comma.join(texts[:3])}, ..., {texts[-1]} ({len(texts)} values)"


def _condition(item: Item) -> str:
    if not item.when:
        return ""
    said: dict[str, Value] = plain(item.node.value["when"])
    parts = [
        f"{name} is {' or '.join(map(render, value)) if isinstance(value, list) else render(value)}"
        for name, value in said.items()
    ]
    return f" when {' and '.join(parts)}"


def _value(node: Node | None) -> Value:
    return None if node is None else plain(node)
