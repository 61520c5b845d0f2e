"""Config files to checked phases; finds the files, and every problem in them at once, with file and line."""

import glob
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distexp.errors import ConfigError
from distexp.sweep.axes import Item, read_items, read_seeds
from distexp.sweep.combinations import Places, combine
from distexp.sweep.defaults import Level, read_level
from distexp.sweep.options import OPTIONS, Options, check_options, read_options
from distexp.sweep.validation import (
    DEFAULT_OUTPUT_DIR,
    SETTINGS,
    check_command,
    check_nested,
    check_output_dir,
    check_phase_name,
    check_size,
    shown,
)
from distexp.sweep.yaml_loader import Node, Problems, plain, read
from distexp.task import COMMAND_EXPERIMENT, DEFAULT_EXPERIMENT, DEFAULT_SEED, Process, Value

MAX_BYTES = 1024 * 1024  # a sweep is a page of YAML; a megabyte is some other file, and takes up to a minute
MAX_PARAMETERS = 200_000  # of all phases of a file, each with those of the file: a second of checking
PHASE_KEYS = ("defaults", "combinations", *OPTIONS)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One named sweep of a config file, checked. `axes` and `defaults` have no name in common."""

    name: str
    where: str  # "configs/config_exp1.yaml:23"
    axes: Mapping[str, tuple[Value, ...]]  # in the file's order, the first varies slowest; without the seed
    places: Places | None = None  # of each combination, where its values stand in `axes`; None: all crossed
    absent: Mapping[str, int] = field(default_factory=dict)  # of an axis: the place for not being there
    defaults: Mapping[str, Value]  # the parameters that do not vary
    seeds: tuple[int, ...]
    experiment: str
    command: str | None
    output_dir: str  # a template; `output_folder` fills it
    timeout_s: float | None
    process: Process
    gpus: int | None = None
    min_free_gb: float | None = None
    python: str | None = None  # what `python` in its command is; None: the worker's own
    has_seeds: bool = False  # the file says which
    tags: tuple[str, ...] = ()  # of `defaults`: in rows and templates, but no part of a task's identity
    renamed_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # earlier names, newest first
    assume: Mapping[str, Value] = field(default_factory=dict)  # what rows without a value of these hold


def load_configs(patterns: Sequence[Path], root: Path = Path()) -> list[Phase]:
    """Return the phases of every file that a pattern names, config_exp10 after config_exp2.

    Args:
        patterns: Files or globs, below `root` unless absolute. Messages name files as the patterns do.
        root: The working folder.

    Raises:
        ConfigError: All problems of all files, or no file.
    """
    problems: list[str] = []
    names: list[str] = []
    for pattern in patterns:
        found = find_configs(pattern, root)
        names += [name for name in found if name not in names]
        if not found:
            problems.append(f"{pattern.as_posix()}: there is no such config file; `init` makes one")
    phases: dict[str, Phase] = {}
    for name in sorted(names, key=_natural_order):
        try:
            parsed = parse_config(_text_of(root / name, name), name)
        except ConfigError as error:
            problems += error.problems
            continue
        for phase in parsed:
            first = phases.setdefault(phase.name, phase)
            if first is not phase:
                problems.append(
                    f"{phase.where}: there is a phase {phase.name} already, at {first.where}: rename one"
                )
    if problems:
        raise ConfigError(problems)
    return list(phases.values())


def find_configs(pattern: Path, root: Path = Path()) -> list[str]:
    """Return the files that a pattern names, as it names them: below `root` unless absolute."""
    if (root / pattern).is_file():  # a name with [brackets] may be meant as it stands
        return [pattern.as_posix()]
    found = glob.glob(str(pattern), root_dir=root)
    return sorted((Path(name).as_posix() for name in found), key=_natural_order)


def _natural_order(name: str) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _text_of(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read ({error.strerror})"]) from error
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{name}: is larger than {MAX_BYTES} bytes: no config file needs that"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{error.object[error.start]:02x}"
        raise ConfigError([f"{name}:{line}: the byte {byte} is not UTF-8: save the file as that"]) from error


def parse_config(text: str, name: str) -> list[Phase]:
    """Return the phases of one file's text in their order; `name` is how messages call the file.

    Raises:
        ConfigError: Every problem of the file, one line each, by line number.
    """
    problems = Problems(name)
    root = read(text, problems)
    phases = [] if root is None else _phases(root, problems)
    if not phases and not problems.lines:
        problems.add(1, "", "there is no phase: a mapping that holds `combinations`")
    if problems.lines:
        raise ConfigError(problems.lines)
    return phases


def _phases(root: Node, problems: Problems) -> list[Phase]:
    if not isinstance(root.value, dict):
        problems.at(root, f"must be a mapping of phases (it is {shown(root)})")
        return []
    top = dict(root.value)
    file = read_level(top.pop("defaults", None), problems)
    seeds = read_seeds(top.pop("seeds"), problems) if "seeds" in top else file.seeds
    named = {key: top.pop(key) for key in OPTIONS if key in top and not _is_phase(top[key])}
    options = read_options(named, problems)
    phases: list[Phase] = []
    parameters = 0
    for name, node in top.items():
        if _is_phase(node):
            check_phase_name(name, node, problems)
            phases.append(_phase(node, file, seeds, options, problems))
            parameters += len(phases[-1].axes) + len(phases[-1].defaults)
            if parameters > MAX_PARAMETERS:
                problems.at(
                    node, f"{parameters} parameters in the phases up to here: {MAX_PARAMETERS} is the most"
                )
                break
        elif name in SETTINGS or name == "seed":
            hint = "write `seeds: [42, 101]`" if name == "seed" else "write it under `defaults`"
            problems.at(node, f"has no place at the top of a file: {hint}")
        else:
            problems.at(
                node,
                f"must be a phase, a mapping that holds `combinations` (it is {shown(node)}), "
                f"or one of {', '.join(('defaults', 'seeds', *OPTIONS))}",
            )
    if phases:
        known = {name for phase in phases for name in (*phase.axes, *phase.defaults)}
        check_options(options, "this file", known, problems)
    return phases


def _is_phase(node: Node) -> bool:
    return isinstance(node.value, dict) and "combinations" in node.value


def _phase(
    node: Node, file: Level, seeds: tuple[int, ...], file_options: Options, problems: Problems
) -> Phase:
    name = node.path
    for key, item in node.value.items():
        if key == "seeds":
            problems.at(item, "write `seeds` at the top of the file, or an axis `- seed: [42, 101]`")
        elif key not in PHASE_KEYS:
            problems.at(item, f"is no key of a phase. There are: {', '.join(PHASE_KEYS)}")
    own = read_level(node.value.get("defaults"), problems)
    items, seed_axis = read_items(node.value["combinations"], problems)
    parameters = file.parameters | own.parameters
    combinations = combine(items, parameters, None, problems)
    places = {name: item.node.value.get(name, item.node) for item in items for name in item.columns}
    known = _values_of(items, parameters)
    options = _options(node, file_options, known, problems)
    settings = _combined(file.settings, own.settings)
    python = _python(settings, parameters.keys() - places.keys(), parameters)
    check_output_dir(settings, node, known, problems)
    check_command(settings, name, known, places, problems)
    check_nested(known, {n: places.get(n, parameters.get(n, node)) for n in known if "." in n}, problems)
    check_size(node, known, problems)
    said = {key: plain(item) for key, item in settings.items()}
    stated_seeds = seed_axis or own.seeds or seeds
    fixed_axes = {tag for tag in options.tags if len(combinations.axes.get(tag, ())) == 1}
    defaults = {n: plain(item) for n, item in parameters.items() if n not in places and n != python}
    return Phase(
        name=name,
        where=f"{problems.name}:{node.line}",
        axes={axis: values for axis, values in combinations.axes.items() if axis not in fixed_axes},
        places=_without(combinations.places, fixed_axes),
        absent=combinations.absent,
        defaults=defaults | {tag: combinations.axes[tag][0] for tag in options.tags if tag in fixed_axes},
        seeds=stated_seeds or (DEFAULT_SEED,),
        has_seeds=bool(stated_seeds),
        experiment=COMMAND_EXPERIMENT if "command" in said else said.get("experiment", DEFAULT_EXPERIMENT),
        command=said.get("command"),
        python=None if python is None else plain(parameters[python]),
        output_dir=said.get("output_dir", DEFAULT_OUTPUT_DIR),
        timeout_s=said.get("timeout_s"),
        process=said.get("process", "forked"),
        gpus=said.get("gpus"),
        min_free_gb=said.get("min_free_gb"),
        tags=tuple(options.tags),
        renamed_from=options.renamed_from,
        assume=options.assume,
    )


def _without(places: Places | None, names: Collection[str]) -> Places | None:
    return {name: column for name, column in (places or {}).items() if name not in names} or None


def _values_of(items: Sequence[Item], parameters: Mapping[str, Node]) -> dict[str, list[Node]]:
    """Return every value that each parameter of a phase may take."""
    known: dict[str, list[Node]] = {}
    is_sometimes_unset = set()
    for item in items:
        for name, column in item.columns.items():
            known.setdefault(name, []).extend(value for value in column if value is not None)
            if item.when or None in column:
                is_sometimes_unset.add(name)
    for name, node in parameters.items():
        if name not in known or name in is_sometimes_unset:
            known.setdefault(name, []).append(node)
    return known


def _options(
    node: Node, file_options: Options, known: Mapping[str, Sequence[Node]], problems: Problems
) -> Options:
    options = read_options(node.value, problems)
    check_options(options, node.path, known, problems)
    options = options.over(file_options, known)
    for tag, place in options.tags.items():
        if len(known.get(tag, ())) > 1:
            problems.at(place, f"a tag has one value in a phase, but {tag} is an axis of {node.path}")
    return options


def _python(
    settings: Mapping[str, Node], fixed: Collection[str], parameters: Mapping[str, Node]
) -> str | None:
    """Return `python` where that is a setting: a text beside a command that does not name it."""
    if "python" not in fixed or "command" not in settings or not isinstance(parameters["python"].value, str):
        return None
    return None if "{python" in str(settings["command"].value) else "python"


def _combined(file: dict[str, Node], own: dict[str, Node]) -> dict[str, Node]:
    """Return the settings of a phase: its own win, and its `command` displaces the file's `experiment`."""
    displaced = {"command": "experiment", "experiment": "command"}
    hidden = {displaced[name] for name in own if name in displaced}
    return {name: node for name, node in file.items() if name not in hidden} | own
