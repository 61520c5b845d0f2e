"""Config files to checked phases; finds the files, and every problem in them at once, with file and line."""

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distexp.errors import ConfigError
from distexp.sweep.options import OPTIONS, Options, check_options, read_options
from distexp.sweep.validation import (
    DEFAULT_OUTPUT_DIR,
    RESERVED_LATER,
    SETTINGS,
    Level,
    check_command,
    check_output_dir,
    check_phase_name,
    read_axes,
    read_level,
    read_seeds,
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
    defaults: Mapping[str, Value]  # the parameters that do not vary
    seeds: tuple[int, ...]
    experiment: str
    command: str | None
    output_dir: str  # a template; `output_folder` fills it
    timeout_s: float | None
    process: Process
    gpus: int | None = None
    min_free_gb: float | None = None
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
                expected = f"expected another name than that of {first.where}"
                problems.append(f"{phase.where}: {phase.name}: found a second phase of this name, {expected}")
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
        raise ConfigError([f"{name}: found {error.strerror}, expected a readable file"]) from error
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{name}: found more than {MAX_BYTES} bytes, expected at most that"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found the byte 0x{error.object[error.start]:02x}"
        raise ConfigError([f"{name}:{line}: {found}, expected text in UTF-8"]) from error


def parse_config(text: str, name: str) -> list[Phase]:
    """Return the phases of one file's text in their order; `name` is how messages call the file.

    Raises:
        ConfigError: Every problem of the file, one line each, by line number.
    """
    problems = Problems(name)
    root = read(text, problems)
    phases = [] if root is None else _phases(root, problems)
    if not phases and not problems.lines:
        problems.add(1, "", "found no phase, expected a mapping that holds `combinations`")
    if problems.lines:
        raise ConfigError(problems.lines)
    return phases


def _phases(root: Node, problems: Problems) -> list[Phase]:
    if not isinstance(root.value, dict):
        problems.at(root, f"found {shown(root)}, expected a mapping of phases")
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
                found = f"found {parameters} parameters in the phases up to here"
                problems.at(node, f"{found}, expected at most {MAX_PARAMETERS} in a file")
                break
        elif name in SETTINGS or name in RESERVED_LATER or name == "seed":
            hint = "`seeds: [42, 101]`" if name == "seed" else "it under `defaults`"
            problems.at(node, f"found {shown(node)} at the top level, expected {hint}")
        else:
            expected = "`defaults`, `seeds` or a phase: a mapping that holds `combinations`"
            problems.at(node, f"found {shown(node)}, expected {expected}")
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
            expected = "expected it at the top level of the file, or an axis `- seed: [42, 101]`"
            problems.at(item, f"found seeds inside a phase, {expected}")
        elif key not in PHASE_KEYS:
            problems.at(item, f"found an unknown key, expected one of: {', '.join(PHASE_KEYS)}")
    own = read_level(node.value.get("defaults"), problems)
    axes = read_axes(node.value["combinations"], problems)
    seed_axis = tuple(item.value for item in axes.pop("seed", ()))
    defaults = {n: item for n, item in (file.parameters | own.parameters).items() if n not in axes}
    options = read_options(node.value, problems)
    check_options(options, name, [*axes, *defaults], problems)
    options = options.over(file_options, [*axes, *defaults])
    for tag in [tag for tag in options.tags if tag in axes]:
        if len(axes[tag]) > 1:
            problems.at(options.tags[tag], f"a tag has one value in a phase, but {tag} is an axis of {name}")
        else:
            (defaults[tag],) = axes.pop(tag) or [options.tags[tag]]
    settings = _combined(file.settings, own.settings)
    check_output_dir(settings, node, axes | {n: [item] for n, item in defaults.items()}, problems)
    check_command(settings, name, [*axes, *defaults], problems)
    said = {key: plain(item) for key, item in settings.items()}
    return Phase(
        name=name,
        where=f"{problems.name}:{node.line}",
        axes={axis: tuple(plain(item) for item in items) for axis, items in axes.items()},
        defaults={n: plain(item) for n, item in defaults.items()},
        seeds=seed_axis or own.seeds or seeds or (DEFAULT_SEED,),
        experiment=COMMAND_EXPERIMENT if "command" in said else said.get("experiment", DEFAULT_EXPERIMENT),
        command=said.get("command"),
        output_dir=said.get("output_dir", DEFAULT_OUTPUT_DIR),
        timeout_s=said.get("timeout_s"),
        process=said.get("process", "forked"),
        gpus=said.get("gpus"),
        min_free_gb=said.get("min_free_gb"),
        tags=tuple(options.tags),
        renamed_from=options.renamed_from,
        assume=options.assume,
    )


def _combined(file: dict[str, Node], own: dict[str, Node]) -> dict[str, Node]:
    """Return the settings of a phase: its own win, and its `command` displaces the file's `experiment`."""
    displaced = {"command": "experiment", "experiment": "command"}
    hidden = {displaced[name] for name in own if name in displaced}
    return {name: node for name, node in file.items() if name not in hidden} | own
