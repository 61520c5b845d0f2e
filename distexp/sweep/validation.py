"""Checks of a config file's parts: settings, parameters, axes, seeds, templates, names.

Pure. Each function returns what is sound and notes the rest in `Problems`, so that all errors of a file
show at once.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from distexp.sweep.templates import output_folder, placeholders, split_command
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value, canonical

DEFAULT_OUTPUT_DIR = "./results_{phase}"
# What a command may name beside parameters: the run's own.
COMMAND_NAMES = ("seed", "output_dir", "checkpoint_dir", "device", "gpus", "attempt")
RESERVED_LATER = ("zip", "exclude")
MAX_NAME_BYTES = 200  # of a phase or parameter: with seed and key, a folder's name stays below 255
COLUMNS = ("phase", "task_id")  # every row holds them, so no parameter may


@dataclass(frozen=True)
class Level:
    """What the `defaults` of a file, or of a phase, say; only what is sound."""

    settings: dict[str, Node] = field(default_factory=dict)  # reserved names other than the seeds
    parameters: dict[str, Node] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def read_level(node: Node | None, problems: Problems) -> Level:
    """Return what a mapping of parameters and settings holds; what is unsound is noted and left out."""
    if node is None or node.value is None:
        return Level()
    if not isinstance(node.value, dict):
        problems.at(node, f"found {shown(node)}, expected a mapping of parameters")
        return Level()
    items: dict[str, Node] = node.value
    for one, other in (("experiment", "command"), ("seed", "seeds")):
        if one in items and other in items:
            problems.at(items[other], f"found both {one} and {other}, expected one of them")
    settings = {n: item for n, item in items.items() if n in SETTINGS and _is_sound(n, item, problems)}
    seeds = read_seeds(items["seeds"], problems) if "seeds" in items else ()
    if "seed" in items:
        seeds = (items["seed"].value,)
        if type(items["seed"].value) is not int:
            expected = "expected a whole number; a list is called `seeds`"
            problems.at(items["seed"], f"found {shown(items['seed'])}, {expected}")
    names = [n for n in items if n not in SETTINGS and n not in ("seed", "seeds")]
    parameters = {n: items[n] for n in names if _is_parameter(n, items[n], problems)}
    return Level(settings, parameters, seeds)


def _is_sound(name: str, node: Node, problems: Problems) -> bool:
    is_right, expected = SETTINGS[name]
    if not is_right(plain(node)):
        problems.at(node, f"found {shown(node)}, expected {expected}")
        return False
    return True


def _is_parameter(name: str, node: Node, problems: Problems) -> bool:
    if name in RESERVED_LATER:
        found, expected = "found a reserved name, not supported by this version", "a parameter"
    elif name in COLUMNS:
        found, expected = "found a column that every row of results has", "another name for the parameter"
    else:
        return check_name(name, node, problems)
    problems.at(node, f"{found}, expected {expected}")
    return False


def check_name(name: str, node: Node, problems: Problems) -> bool:
    """Return whether a phase or parameter may be called so: names stand in logs, ids and CSV headers."""
    is_sound = bool(name) and name.isprintable() and name == name.strip()
    if not is_sound:
        problems.at(
            node, f"found the name {json.dumps(name)}, expected printable text without spaces around it"
        )
    elif len(name.encode()) > MAX_NAME_BYTES:
        is_sound = False
        problems.at(
            node, f"found a name of {len(name.encode())} bytes, expected one of at most {MAX_NAME_BYTES}"
        )
    return is_sound


def check_phase_name(name: str, node: Node, problems: Problems) -> bool:
    """Return whether a phase may be called so: its name is part of a folder's: `runs/<phase>_...`."""
    if "/" in name or "\\" in name:
        problems.at(node, f"found the name {json.dumps(name)}, expected a phase's name without / and \\")
        return False
    return check_name(name, node, problems)


def read_axes(node: Node, problems: Problems) -> dict[str, list[Node]]:
    """Return axis -> its values, among them the axis `seed`; what is unsound is reported."""
    axes: dict[str, list[Node]] = {}
    lines: dict[str, int] = {}
    if not isinstance(node.value, list) or not node.value:
        problems.at(node, f"found {shown(node)}, expected a list of axes such as `- width: [1, 2, 4]`")
        return axes
    for group in node.value:
        if not isinstance(group.value, dict) or not group.value:
            problems.at(group, f"found {shown(group)}, expected an axis such as `width: [1, 2, 4]`")
            continue
        for name, values in group.value.items():
            if name in lines:
                problems.at(values, f"found the axis again, expected it once (first at line {lines[name]})")
                continue
            lines[name] = values.line
            if name in SETTINGS or name == "seeds":
                expected = "`seed`" if name == "seeds" else "it under `defaults`"
                problems.at(values, f"found a reserved name as an axis, expected {expected}")
            elif name == "seed":
                axes[name] = _distinct(values, problems, "whole numbers", _is_whole)
            elif _is_parameter(name, values, problems):
                axes[name] = _distinct(values, problems, "values")
    return axes


def read_seeds(node: Node, problems: Problems) -> tuple[int, ...]:
    """Return the seeds of a list of distinct whole numbers; what is unsound is noted and left out."""
    return tuple(item.value for item in _distinct(node, problems, "whole numbers", _is_whole))


def _is_whole(value: Value) -> bool:
    return type(value) is int  # `true` is no seed


def _distinct(
    node: Node, problems: Problems, what: str, is_right: Callable[[Value], bool] = lambda value: True
) -> list[Node]:
    """Return the items of a list that must not be empty and not name a value twice."""
    if not isinstance(node.value, list) or not node.value:
        problems.at(node, f"found {shown(node)}, expected a list such as [1, 2, 4]")
        return []
    seen: set[str] = set()
    for item in node.value:
        text = canonical(plain(item))
        if not is_right(item.value):
            problems.at(item, f"found {shown(item)}, expected {what}")
        elif text in seen:
            problems.at(item, f"found {shown(item)} again, expected distinct {what}")
        seen.add(text)
    return list(node.value)


def check_output_dir(
    settings: Mapping[str, Node], phase: Node, known: Mapping[str, list[Node]], problems: Problems
) -> None:
    """Fill the template once with harmless values, and once with each value that a placeholder may take."""
    node = settings.get("output_dir", Node(DEFAULT_OUTPUT_DIR, phase.line, phase.path))
    sample = {**dict.fromkeys(known, "x"), "phase": phase.path, "seed": 0}
    try:
        names = placeholders(node.value)
        if _has_unknown(names, sample, node, phase.path, problems):
            return
        output_folder(node.value, sample)
    except ValueError as error:
        problems.at(node, str(error))
        return
    for name in names:
        for item in known.get(name, []):
            try:
                output_folder(node.value, {**sample, name: plain(item)})
            except ValueError as error:
                problems.at(item, str(error))


def check_command(settings: Mapping[str, Node], phase: str, known: list[str], problems: Problems) -> None:
    """Note a `command` that is no command line, or has a placeholder that nobody or two could fill."""
    if (node := settings.get("command")) is None:
        return
    try:
        names = placeholders(node.value)
        if not _has_unknown(names, dict.fromkeys([*known, *COMMAND_NAMES]), node, phase, problems):
            for name in (name for name in names if name in COMMAND_NAMES and name in known):
                expected = f"expected another name for the parameter {name} of {phase}"
                problems.at(node, f"found placeholder {{{name}}}, which the run itself fills; {expected}")
    except ValueError as error:
        problems.at(node, str(error))
    if not any(
        _splits(node.value, windows) for windows in (False, True)
    ):  # POSIX, Windows: workers may be either
        problems.at(
            node, f"found {shown(node)} with an open quote, expected a text that splits like a shell line"
        )


def _splits(command: str, windows: bool) -> bool:
    try:
        return bool(split_command(command, windows))
    except ValueError:
        return False


def _has_unknown(
    names: Sequence[str], known: Mapping[str, object], node: Node, phase: str, problems: Problems
) -> bool:
    unknown = [name for name in names if name not in known]
    if unknown:
        expected = f"expected one of the names of {phase}: {', '.join(known)}"
        problems.at(node, f"found placeholder {{{unknown[0]}}}, {expected}")
    return bool(unknown)


def shown(node: Node) -> str:
    """Return the value as it stands in a message, cut when it is long."""
    text = json.dumps(plain(node), ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_text(value: Value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_function_name(value: Value) -> bool:
    module, _, function = str(value).partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _is_positive(value: Value) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


SETTINGS: dict[str, tuple[Callable[[Value], bool], str]] = {
    "experiment": (_is_function_name, "module.path:function"),
    "command": (_is_text, "text such as 'python train.py --seed {seed}'"),
    "output_dir": (_is_text, "text such as './results_{phase}'"),
    "timeout_s": (_is_positive, "a number of seconds above 0"),
    "process": (lambda value: value in ("forked", "fresh"), "forked or fresh"),
    "gpus": (lambda value: _is_whole(value) and value > 0, "how many cards a task needs at once, 1 or more"),
    "min_free_gb": (_is_positive, "a number of GB above 0"),
}
