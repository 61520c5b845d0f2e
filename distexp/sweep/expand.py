"""Checked phases to tasks: every combination of every phase, with its folder and its key. Pure."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from distexp.errors import ConfigError
from distexp.sweep.config import Phase
from distexp.sweep.grid import Grid, GridPoint
from distexp.sweep.templates import output_folder, placeholders, render
from distexp.task import Value, canonical, key_head, short_hash

MAX_VALUES = 50_000_000  # parameters of all combinations, each of which goes into a key: some seconds
MAX_TASKS = 5_000_000  # a task is less than half a kilobyte in the manager: 2.5 GB


def expand(phases: Sequence[Phase]) -> list[GridPoint]:
    """Return every task: phases in order, the first axis slowest, the seed fastest.

    A task's id is `{phase}_{index}_{seed}`, where the index counts the combinations of the phase without the
    seed.

    Raises:
        ConfigError: More than `MAX_TASKS` or `MAX_VALUES`, found before any is made; or a folder that leaves
            the working folder by several values together.
    """
    total = held = 0
    for phase in phases:
        combinations = math.prod(len(values) for values in phase.axes.values())
        count = combinations * len(phase.seeds)
        total += count
        held += combinations * (len(phase.axes) + len(phase.defaults))
        if total > MAX_TASKS:
            found = f"found {count} tasks here and {total} up to here"
            raise ConfigError(
                [f"{phase.where}: {phase.name}: {found}, expected at most {MAX_TASKS} in a sweep"]
            )
        if held > MAX_VALUES:
            found = f"found {held} values of parameters in the combinations up to here"
            raise ConfigError(
                [f"{phase.where}: {phase.name}: {found}, expected at most {MAX_VALUES} in a sweep"]
            )
    return list(itertools.chain.from_iterable(_points(phase) for phase in phases))


def _points(phase: Phase) -> Iterator[GridPoint]:
    grid = Grid(
        phase=phase.name,
        axes=dict(phase.axes),
        seeds=phase.seeds,
        defaults=dict(phase.defaults),
        experiment=phase.experiment,
        command=phase.command,
        timeout_s=phase.timeout_s,
        process=phase.process,
        gpus=phase.gpus,
        min_free_gb=phase.min_free_gb,
        tags=phase.tags,
        renamed_from=dict(phase.renamed_from),
        assume=dict(phase.assume),
    )
    head = key_head(phase.name, phase.experiment, phase.command)
    texts = [f",{seed}]" for seed in phase.seeds]
    keys = (short_hash(head + config_text + text) for config_text in _config_texts(phase) for text in texts)
    return map(GridPoint, itertools.repeat(grid), itertools.count(), _folders(phase), keys)


def _config_texts(phase: Phase) -> Iterator[str]:
    """Yield the canonical text of each combination's parameters, joined from few pieces made beforehand."""
    pieces: dict[str, list[str]] = {}
    text = "{"
    for name in sorted({*phase.axes, *phase.defaults}.difference(phase.tags)):
        comma = "" if text == "{" and not pieces else ","
        if name in phase.axes:
            pieces[name] = [f"{text}{comma}{_member(name, value)}" for value in phase.axes[name]]
            text = ""
        else:
            text += comma + _member(name, phase.defaults[name])
    in_order = list(phase.axes)
    by_name = [in_order.index(name) for name in pieces]
    for choice in itertools.product(*(pieces[name] for name in in_order)):
        yield "".join([choice[at] for at in by_name]) + text + "}"


def _member(name: str, value: Value) -> str:
    return f"{canonical(name)}:{canonical(value)}"


def _folders(phase: Phase) -> Iterator[str]:
    """Yield the filled `output_dir` of each task; few differ, so each is checked and made once."""
    names = placeholders(phase.output_dir)
    fixed = {name: render(value) for name, value in phase.defaults.items()} | {"phase": phase.name}
    varying = {**phase.axes, "seed": phase.seeds}
    shown = [
        [render(value) for value in values] if name in names else [""] * len(values)
        for name, values in varying.items()
    ]
    made: dict[tuple[str, ...], str] = {}
    for chosen in itertools.product(*shown):
        if chosen not in made:
            made[chosen] = _folder(phase, fixed | dict(zip(varying, chosen, strict=True)))
        yield made[chosen]


def _folder(phase: Phase, values: Mapping[str, str]) -> str:
    try:
        return output_folder(phase.output_dir, values)
    except ValueError as error:
        raise ConfigError([f"{phase.where}: {phase.name}.output_dir: {error}"]) from error
