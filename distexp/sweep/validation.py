"""Checks of a config file's parts: names, settings, templates, nested parameters, the size of a task.

Pure. Each function returns what is sound and notes the rest in `Problems`, so that all errors of a file
show at once.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from distexp.sweep.command_line import (
    REST_NAMES,
    RUN_NAMES,
    Command,
    parse_command,
    second_command,
    shell_operator,
    shell_syntax,
)
from distexp.sweep.templates import has_value, output_folder, placeholders, short, split_command
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value
from distexp.text import cell_text

DEFAULT_OUTPUT_DIR = "./results_{phase}"
MAX_TASK_BYTES = 900_000  # of parameters, as JSON: a message to a worker has 1 MiB
MAX_NAME_BYTES = 200  # of a phase or parameter: with seed and key, a folder's name stays below 255
COLUMNS = ("phase", "task_id")  # every row holds them, so no parameter may


def is_parameter(name: str, node: Node, problems: Problems) -> bool:
    """Return whether a parameter may be called so."""
    if name in COLUMNS:
        problems.at(node, f"every row of results has a column {name}: give the parameter another name")
        return False
    return check_name(name, node, problems)


def check_name(name: str, node: Node, problems: Problems) -> bool:
    """Return whether a phase or parameter may be called so: names stand in logs, ids and CSV headers."""
    is_sound = bool(name) and name.isprintable() and name == name.strip()
    if not is_sound:
        problems.at(node, f"a name is printable text without blanks around it (it is {json.dumps(name)})")
    elif len(name.encode()) > MAX_NAME_BYTES:
        is_sound = False
        problems.at(node, f"a name has at most {MAX_NAME_BYTES} bytes (this one has {len(name.encode())})")
    return is_sound


def check_phase_name(name: str, node: Node, problems: Problems) -> bool:
    """Return whether a phase may be called so: its name is part of a folder's: `runs/<phase>_...`."""
    if "/" in name or "\\" in name:
        problems.at(node, f"a phase's name has no / and \\ (it is {json.dumps(name)})")
        return False
    return check_name(name, node, problems)


def check_output_dir(
    settings: Mapping[str, Node], phase: Node, known: Mapping[str, Sequence[Node]], problems: Problems
) -> None:
    """Fill the template once with harmless values, and once with each value that a placeholder may take."""
    node = settings.get("output_dir", Node(DEFAULT_OUTPUT_DIR, phase.line, phase.path))
    sample = {name: "x" if _is_flat(items) else plain(items[0]) for name, items in known.items()}
    sample |= {"phase": phase.path, "seed": 0}
    try:
        names = placeholders(node.value)
        if _has_unknown(names, sample, node, phase.path, problems):
            return
        if all(name in sample for name in names):
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


def _is_flat(items: Sequence[Node]) -> bool:
    return not (items and isinstance(items[0].value, dict))


def check_command(
    settings: Mapping[str, Node],
    phase: str,
    known: Mapping[str, Sequence[Node]],
    axes: Mapping[str, Node],
    problems: Problems,
) -> None:
    """Note a `command` that is no command line, names what nobody or two could fill, or misses an axis.

    Args:
        known: The values of every parameter.
        axes: Where each axis stands.
    """
    if (node := settings.get("command")) is None:
        return
    try:
        command = _parsed(node.value, list(known))
    except ValueError as error:
        problems.at(node, str(error))
        return
    if _needs_shell(node, problems):
        return
    sample = {name: plain(items[0]) if items else None for name, items in known.items()}
    fillable = sample | dict.fromkeys(name for name in RUN_NAMES if name not in sample)
    if _has_unknown([n for n in command.names if n not in REST_NAMES], fillable, node, phase, problems):
        return
    for name in command.names:
        if name in RUN_NAMES and name in known and name != "run_dir":
            problems.at(node, f"the run itself fills {{{name}}}: rename the parameter {name} of {phase}")
    reached = {*command.names, *_names_in_folder(settings)}
    if command.takes_rest or ("run_dir" in reached and "run_dir" not in known):
        return
    for name, place in axes.items():
        if not any(
            name == one or one.startswith(f"{name}.") or name.startswith(f"{one}.") for one in reached
        ):
            problems.at(
                place,
                f"{name} reaches neither the command nor output_dir: write {{{name}}} or {{args}} there",
            )


def check_plain_command(node: Node, problems: Problems) -> None:
    """Note a text that is no command line, though it is filled with nothing."""
    for is_windows in (False, True):  # workers may be either
        with suppress(ValueError):
            split_command(node.value, is_windows)
            break
    else:
        problems.at(node, f"{node.value!r} has an open quote")
        return
    _needs_shell(node, problems)


def _needs_shell(node: Node, problems: Problems) -> bool:
    operator, second = shell_operator(node.value), second_command(node.value)
    syntax = shell_syntax(node.value)
    if operator:
        problems.at(
            node,
            f"{operator} is a shell's, and no shell runs: write bash -c '...', or quote it to pass it on",
        )
    elif second:
        problems.at(
            node,
            f"the line {short(second)!r} would be a command of its own, and one command runs: "
            "end the line before it with \\ if it goes on, or write bash -c '...' to run both",
        )
    elif syntax:
        problems.at(node, syntax)
    return bool(operator or second or syntax)


def _names_in_folder(settings: Mapping[str, Node]) -> tuple[str, ...]:
    with suppress(ValueError):  # noted elsewhere
        return placeholders(settings["output_dir"].value) if "output_dir" in settings else ()
    return ()


def _parsed(text: str, known: Sequence[str]) -> Command:
    """Return the command as a worker on POSIX, or else on Windows, reads it: they may be either."""
    try:
        return parse_command(text, windows=False, known=known)
    except ValueError:
        with suppress(ValueError):
            return parse_command(text, windows=True, known=known)
        raise


def check_nested(known: Mapping[str, Sequence[Node]], places: Mapping[str, Node], problems: Problems) -> None:
    """Note each dotted parameter that would set a place in something else than a mapping."""
    for name, place in places.items():
        heads = [name[:at] for at, character in enumerate(name) if character == "." and name[:at] in known]
        for item in known[heads[0]] if heads else ():
            if not _leads_through_mappings(plain(item), name[len(heads[0]) + 1 :].split(".")):
                found = f"{shown(item)} (line {item.line})"
                other = (
                    f"rename one, such as my_{heads[0]} (Hydra: {heads[0]}={{my_{heads[0]}}} in the command)"
                )
                problems.at(place, f"{name} sets a place in a mapping, but {heads[0]} is {found}: {other}")
                break


def _leads_through_mappings(value: Value, place: Sequence[str]) -> bool:
    for part in place:
        if not isinstance(value, dict):
            return False
        value = value.get(part, {})
    return True


def check_size(phase: Node, known: Mapping[str, Sequence[Node]], problems: Problems) -> None:
    """Note a phase whose largest task does not fit into a message to a worker."""
    sizes = {name: max((_size(item) for item in items), default=0) for name, items in known.items()}
    if sum(sizes.values()) > MAX_TASK_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        problems.at(
            phase,
            f"a task of {phase.path} would hold {sum(sizes.values()):,} bytes of parameters, and "
            f"{MAX_TASK_BYTES:,} is the most: write {largest} to a file, and its name here",
        )


def check_cells(known: Mapping[str, Sequence[Node]], unset: Collection[str], problems: Problems) -> None:
    """Note values of one parameter that look alike in a row, such as 1 and "1"; `unset` may be missing."""
    for name, items in known.items():
        texts = {item.value: item for item in items if isinstance(item.value, str)}
        for item in items if texts else ():
            if not isinstance(item.value, str) and (alike := texts.get(cell_text(plain(item)))):
                problems.at(alike, f"{shown(alike)} and {shown(item)} look alike in a row: change one")
        if name in unset and "" in texts:
            why = f'"" and no {name} at all look alike in a row: change one'
            problems.at(texts[""], why)


def _size(node: Node) -> int:
    """Return the bytes of a value as JSON."""
    if isinstance(node.value, dict):
        return 2 + sum(len(json.dumps(name)) + 2 + _size(item) for name, item in node.value.items())
    if isinstance(node.value, list):
        return 2 + sum(1 + _size(item) for item in node.value)
    return len(json.dumps(node.value))


def _has_unknown(
    names: Sequence[str], known: Mapping[str, object], node: Node, phase: str, problems: Problems
) -> bool:
    unknown = [name for name in names if not has_value(name, known)]
    if unknown:
        problems.at(node, f"{{{unknown[0]}}} names nothing in {phase}. There are: {', '.join(known)}")
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


def _is_models(value: Value) -> bool:
    models = value if isinstance(value, list) else [value]
    return bool(models) and all(map(_is_text, models))


SETTINGS: dict[str, tuple[Callable[[Value], bool], str]] = {
    "experiment": (_is_function_name, "module.path:function, such as src.train:main for src/train.py"),
    "command": (_is_text, "text such as 'python train.py --seed {seed}'"),
    "output_dir": (_is_text, "text such as './results_{phase}'"),
    "timeout_s": (_is_positive, "a number of seconds above 0"),
    "process": (lambda value: value in ("forked", "fresh"), "forked or fresh"),
    "gpus": (lambda value: type(value) is int and value > 0, "a number of GPUs, 1 or more"),
    "min_free_gb": (_is_positive, "a number of GB above 0"),
    "gpu_model": (_is_models, "names of GPUs, such as [A100, H100]"),
}
