"""Config files to checked phases; every problem in them is found at once, with file and line."""

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distexp.errors import ConfigError
from distexp.sweep.axes import Item, read_items, read_seeds
from distexp.sweep.combinations import Combinations, Places, combine
from distexp.sweep.config_files import files_of, text_of_file
from distexp.sweep.defaults import Level, read_level
from distexp.sweep.description import axis_line
from distexp.sweep.options import OPTIONS, TOP_OPTIONS, Metric, Options, check_options, read_options
from distexp.sweep.sampling import Search, sample
from distexp.sweep.space import Space, make_space
from distexp.sweep.validation import (
    DEFAULT_OUTPUT_DIR,
    SETTINGS,
    check_cells,
    check_command,
    check_nested,
    check_output_dir,
    check_phase_name,
    check_size,
    shown,
)
from distexp.sweep.yaml_loader import Node, Problems, plain, read
from distexp.task import COMMAND_EXPERIMENT, DEFAULT_EXPERIMENT, DEFAULT_SEED, Halving, Process, Value

MAX_PARAMETERS = 200_000  # of all phases of a file, each with those of the file: a second of checking
PHASE_KEYS = ("defaults", "combinations", *OPTIONS)
INCLUDED_KEYS = ("defaults", "seeds", "include")  # of a file that another includes
FILE_KEYS = (*INCLUDED_KEYS, *OPTIONS, *TOP_OPTIONS)
NO_PHASES = {  # names at the top that no phase may have, and what for
    "defaults": "what all phases start from",
    "seeds": "the seeds of all phases",
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One named sweep of a config file, checked. `axes` and `defaults` have no name in common."""

    name: str
    where: str  # "configs/config_exp1.yaml:23"
    axes: Mapping[str, Sequence[Value]]  # in the file's order, the first varies slowest; without the seed
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
    gpu_model: tuple[str, ...] = ()
    python: str | None = None  # what `python` in its command is; None: the worker's own
    setup: str | None = None  # what runs on each host before the first task of its file there
    has_seeds: bool = False  # the file says which
    axis_lines: tuple[str, ...] = field(default=(), compare=False)  # its axes as understood, for people
    excluded: int = 0  # combinations that `exclude` took out
    search: Search | None = None  # how it is sampled; None: every combination is a task
    space: Space | None = None  # what an adaptive search chooses from, one configuration after the other
    metric: Metric | None = None  # what a report and a search look at first
    halving: Halving | None = None  # where tasks that are not among the best stop
    is_shuffled: bool = False  # its tasks come in an order of chance, the same at each start
    priority: int = 0  # tasks of phases with a higher one come first
    tags: tuple[str, ...] = ()  # of `defaults`: in rows and templates, but no part of a task's identity
    renamed_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # earlier names, newest first
    assume: Mapping[str, Value] = field(default_factory=dict)  # what rows without a value of these hold


def load_configs(
    patterns: Sequence[Path], root: Path = Path(), included: list[str] | None = None
) -> list[Phase]:
    """Return the phases of every file that a pattern names, config_exp10 after config_exp2.

    Args:
        patterns: Files or globs, below `root` unless absolute. Messages name files as the patterns do.
        root: The working folder.
        included: Takes the names of the files that these include.

    Raises:
        ConfigError: All problems of all files, or no file.
    """
    problems: list[str] = []
    phases: dict[str, Phase] = {}

    def text_of(name: str) -> str:
        if included is not None and name not in included:
            included.append(name)
        return text_of_file(root / name, name)

    for name in files_of(patterns, root, problems):
        try:
            parsed = parse_config(text_of_file(root / name, name), name, text_of)
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


def parse_config(text: str, name: str, text_of: Callable[[str], str] | None = None) -> list[Phase]:
    """Return the phases of one file's text in their order; `name` is how messages call the file.

    Args:
        text_of: Returns the text of a file that this one includes, by its name, or raises ConfigError.

    Raises:
        ConfigError: Every problem of the file, one line each, by line number.
    """
    problems = Problems(name)
    root = read(text, problems)
    phases = [] if root is None else _phases(root, problems, text_of)
    if not phases and not problems.lines:
        problems.add(1, "", "there is no phase: a mapping that holds `combinations`")
    if problems.lines:
        raise ConfigError(problems.lines)
    return phases


def _phases(root: Node, problems: Problems, text_of: Callable[[str], str] | None) -> list[Phase]:
    if not isinstance(root.value, dict):
        problems.at(root, f"must be a mapping of phases (it is {shown(root)})")
        return []
    top = dict(root.value)
    file = _file_level(top, problems, Includes(text_of, (problems.name,)))
    named = {key: top.pop(key) for key in FILE_KEYS if key in top and _is_of_file(key, top[key])}
    options = read_options(named, problems)
    phases: list[Phase] = []
    parameters = 0
    for name, node in top.items():
        if _is_phase(node):
            check_phase_name(name, node, problems)
            phases.append(_phase(node, file, options, problems))
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
                f"or one of {', '.join(FILE_KEYS)}",
            )
    if phases:
        known = {name for phase in phases for name in (*phase.axes, *phase.defaults)}
        check_options(options, "this file", known, problems)
    return phases


@dataclass(frozen=True)
class Includes:
    """How the text of an included file is found, and the files that led there."""

    text_of: Callable[[str], str] | None
    chain: tuple[str, ...]


def _file_level(top: Mapping[str, Node], problems: Problems, includes: Includes) -> Level:
    """Return what a file says for all its phases: its own `defaults` and `seeds` win over included."""
    level = Level()
    for key, meaning in NO_PHASES.items():
        if key in top and _is_crossed(top[key]):
            problems.at(top[key], f"is the name of {meaning}: give the phase another one")
            top = {name: node for name, node in top.items() if name != key}
    if "include" in top and not _is_phase(top["include"]):
        listed = top["include"].value if isinstance(top["include"].value, list) else [top["include"]]
        for entry in listed:
            level = _over(_included(entry, problems, includes), level)
    own = read_level(top.get("defaults"), problems)
    seeds = read_seeds(top["seeds"], problems) if "seeds" in top else own.seeds
    return _over(Level(own.settings, own.parameters, seeds), level)


def _over(own: Level, other: Level) -> Level:
    return Level(
        _combined(other.settings, own.settings), other.parameters | own.parameters, own.seeds or other.seeds
    )


def _included(entry: Node, problems: Problems, includes: Includes) -> Level:
    if not isinstance(entry.value, str) or includes.text_of is None:
        problems.at(entry, f"must name a file, such as include: [common.yaml] (it is {shown(entry)})")
        return Level()
    name = posixpath.normpath(posixpath.join(posixpath.dirname(includes.chain[-1]), entry.value))
    chain = (*includes.chain, name)
    if name in includes.chain:
        problems.at(entry, f"includes go in a circle: {' -> '.join(chain)}")
        return Level()
    inner = Problems(name)
    try:
        root = read(includes.text_of(name), inner)
    except ConfigError as error:
        problems.at(entry, "; ".join(error.problems))
        return Level()
    level = _file_level(_included_keys(root, inner), inner, Includes(includes.text_of, chain))
    if inner.lines:
        problems.at(entry, "; ".join(inner.lines))
    return Level(
        {key: _seen_from(entry, name, node) for key, node in level.settings.items()},
        {key: _seen_from(entry, name, node) for key, node in level.parameters.items()},
        level.seeds,
    )


def _included_keys(root: Node | None, problems: Problems) -> dict[str, Node]:
    """Return what an included file gives; whatever else it holds is noted."""
    if root is None or root.value is None:  # an empty file
        return {}
    may = f"an included file may hold {', '.join(INCLUDED_KEYS)}"
    if not isinstance(root.value, dict):
        problems.at(root, f"{may} (it is {shown(root)})")
        return {}
    for key, node in root.value.items():
        if key not in INCLUDED_KEYS:
            hint = "write it in the file that includes this one"
            if not _is_phase(node) and key not in FILE_KEYS:
                hint = "write parameters under `defaults`, all else in the file that includes this one"
            problems.at(node, f"{may} (this is {shown(node)}): {hint}")
    return {key: node for key, node in root.value.items() if key in INCLUDED_KEYS}


def _seen_from(entry: Node, name: str, node: Node) -> Node:
    """Return an included node so that messages about it name the line that includes it, and its own."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _seen_from(entry, name, item) for key, item in value.items()}
    elif isinstance(value, list):
        value = [_seen_from(entry, name, item) for item in value]
    return Node(value, entry.line, f"{name}:{node.line}: {node.path}")


def _is_phase(node: Node) -> bool:
    return isinstance(node.value, dict) and "combinations" in node.value


def _is_crossed(node: Node) -> bool:
    """Return whether it is meant as a phase: `combinations` in `defaults` may be a parameter."""
    listed = node.value["combinations"].value if _is_phase(node) else None
    return isinstance(listed, list) and any(isinstance(item.value, dict) for item in listed)


def _is_of_file(key: str, node: Node) -> bool:
    """Return whether a reserved name at the top is none of a phase."""
    return key in NO_PHASES or not _is_phase(node)


def _phase(node: Node, file: Level, file_options: Options, problems: Problems) -> Phase:
    _check_keys(node, problems)
    level = _over(read_level(node.value.get("defaults"), problems), file)
    items, seed_axis = read_items(node.value["combinations"], problems)
    places = {name: item.node.value.get(name, item.node) for item in items for name in item.columns}
    known = _values_of(items, level.parameters)
    options = _options(node, file_options, known, problems)
    space = _space(items, level.parameters, options, problems)
    combinations = space.none if space else _combinations(node, items, level.parameters, options, problems)
    _check_values(node, level, known, places, problems, absent=combinations.absent)
    seeds = seed_axis or level.seeds
    python = _python(level, places)
    fixed_axes = {tag for tag in options.tags if len(combinations.axes.get(tag, ())) == 1}
    defaults = {n: plain(item) for n, item in level.parameters.items() if n not in places and n != python}
    return Phase(
        name=node.path,
        where=f"{problems.name}:{node.line}",
        axes={axis: values for axis, values in combinations.axes.items() if axis not in fixed_axes},
        places=_without(combinations.places, fixed_axes),
        absent=combinations.absent,
        defaults=defaults | {tag: combinations.axes[tag][0] for tag in options.tags if tag in fixed_axes},
        seeds=seeds or (DEFAULT_SEED,),
        has_seeds=bool(seeds),
        **_fields_of({name: plain(item) for name, item in level.settings.items()}),
        python=None if python is None else plain(level.parameters[python]),
        axis_lines=tuple(map(axis_line, items)) if not problems.lines else (),
        excluded=combinations.excluded,
        search=options.search,
        space=space,
        metric=options.metric,
        halving=_halving(options),
        is_shuffled=options.order == "shuffled",
        priority=options.priority or 0,
        setup=options.setup,
        tags=tuple(options.tags),
        renamed_from=options.renamed_from,
        assume=options.assume,
    )


def _check_values(
    node: Node,
    level: Level,
    known: Mapping[str, Sequence[Node]],
    places: Mapping[str, Node],
    problems: Problems,
    *,
    absent: Collection[str],
) -> None:
    """Note what is wrong with the values that parameters have, and with the templates that they fill."""
    check_output_dir(level.settings, node, known, problems)
    check_command(level.settings, node.path, known, places, problems)
    check_cells(known, absent, problems)
    nested = {n: places.get(n, level.parameters.get(n, node)) for n in known if "." in n}
    check_nested(known, nested, problems)
    check_size(node, known, problems)


def _fields_of(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return the fields of a phase that settings fill."""
    return {
        "experiment": (
            COMMAND_EXPERIMENT if "command" in settings else settings.get("experiment", DEFAULT_EXPERIMENT)
        ),
        "command": settings.get("command"),
        "output_dir": settings.get("output_dir", DEFAULT_OUTPUT_DIR),
        "timeout_s": settings.get("timeout_s"),
        "process": settings.get("process", "forked"),
        "gpus": settings.get("gpus"),
        "min_free_gb": settings.get("min_free_gb"),
        "gpu_model": _models(settings.get("gpu_model")),
    }


def _check_keys(node: Node, problems: Problems) -> None:
    for key, item in node.value.items():
        if key == "seeds":
            problems.at(item, "write `seeds` at the top of the file, or an axis `- seed: [42, 101]`")
        elif key in TOP_OPTIONS:
            problems.at(item, f"write `{key}` at the top of the file: it is for all its phases")
        elif key not in PHASE_KEYS:
            problems.at(item, f"is no key of a phase. There are: {', '.join(PHASE_KEYS)}")


def _combinations(
    node: Node, items: Sequence[Item], parameters: Mapping[str, Node], options: Options, problems: Problems
) -> Combinations:
    if options.search is not None:
        return sample(items, parameters, options.search, problems, phase=node.path, excluded=options.exclude)
    if options.is_searched:
        return Combinations()
    for item in items:
        if item.draws is not None:
            place = item.node.value[next(iter(item.columns))]
            problems.at(place, "a distribution needs `search: {method: random, samples: 40}` beside it")
    return combine(items, parameters, options.exclude, problems)


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
        if len(known.get(tag, [place])) != 1:
            problems.at(place, f"a tag has one value in a phase, but {tag} is an axis of {node.path}")
    _check_early_terminate(options, node, known, problems)
    return options


def _space(
    items: Sequence[Item], parameters: Mapping[str, Node], options: Options, problems: Problems
) -> Space | None:
    search = options.search
    if search is None or search.method != "tpe":
        return None
    if options.metric is None:
        where = "beside it, or at the top of the file"
        problems.at(search.node, f"tpe needs `metric: {{name: val_acc, goal: maximize}}` {where}")
    return make_space(items, parameters, options.exclude, problems)


def _check_early_terminate(
    options: Options, node: Node, known: Mapping[str, Sequence[Node]], problems: Problems
) -> None:
    said = options.early_terminate
    if said is None:
        return
    if options.metric is None:
        where = f"beside it, or at the top of the file: {node.path} has none"
        problems.at(said.node, f"needs `metric: {{name: val_acc, goal: maximize}}` {where}")
    for name in said.for_each or ():
        if name not in known:
            text = f"there is no parameter {name} in {node.path}. There are: {', '.join(known)}"
            problems.at(said.node.value["for_each"], text)


def _models(said: Value) -> tuple[str, ...]:
    return () if said is None else tuple(said if isinstance(said, list) else [said])


def _halving(options: Options) -> Halving | None:
    said, metric, search = options.early_terminate, options.metric, options.search
    if said is None or metric is None:
        return None
    for_each = said.for_each if said.for_each is not None else search.for_each if search else ()
    return Halving(
        metric=metric.name,
        goal=metric.goal,
        min_iter=said.min_iter,
        eta=said.eta,
        max_iter=said.max_iter,
        for_each=for_each,
    )


def _python(level: Level, axes: Collection[str]) -> str | None:
    """Return `python` where that is a setting: a text beside a command that does not name it."""
    stated, command = level.parameters.get("python"), level.settings.get("command")
    if stated is None or "python" in axes or command is None or not isinstance(stated.value, str):
        return None
    return None if "{python" in str(command.value) else "python"


def _combined(file: dict[str, Node], own: dict[str, Node]) -> dict[str, Node]:
    """Return the settings of a phase: its own win, and its `command` displaces the file's `experiment`."""
    displaced = {"command": "experiment", "experiment": "command"}
    hidden = {displaced[name] for name in own if name in displaced}
    return {name: node for name, node in file.items() if name not in hidden} | own
