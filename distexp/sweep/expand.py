"""Checked phases to tasks: every combination of every phase, with its folder and its key. Pure."""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

from distexp.errors import ConfigError
from distexp.sweep.config import Phase
from distexp.sweep.grid import Grid, GridPoint, combination_count
from distexp.sweep.templates import output_folder, placeholders
from distexp.task import canonical, joined, key_head, short_hash
from distexp.text import one_line

MAX_VALUES = 50_000_000  # parameters of all combinations, each of which goes into a key: some seconds
MAX_TASKS = 5_000_000  # a task is less than half a kilobyte in the manager: 2.5 GB


def expand(phases: Sequence[Phase]) -> list[GridPoint]:
    """Return every task, but those of adaptive searches: the first axis slowest, the seed fastest.

    A task's id is `{phase}_{index}_{seed}`, where the index counts the combinations of the phase without the
    seed.

    Raises:
        ConfigError: More than `MAX_TASKS` or `MAX_VALUES`, found before any is made; or a folder that leaves
            the working folder by several values together.
    """
    total = held = 0
    for phase in phases:
        combinations = combination_count(phase.axes, phase.places)
        count = combinations * len(phase.seeds)
        total += count
        held += combinations * (len(phase.axes) + len(phase.defaults))
        if total > MAX_TASKS:
            found = f"{count} tasks, and {total} up to here: {MAX_TASKS} is the most in a sweep"
            raise ConfigError([f"{phase.where}: {phase.name}: {found}"])
        if held > MAX_VALUES:
            found = f"{held} values of parameters in the combinations up to here"
            raise ConfigError([f"{phase.where}: {phase.name}: {found}: {MAX_VALUES} is the most in a sweep"])
    return list(itertools.chain.from_iterable(_ordered(phase) for phase in phases))


def _ordered(phase: Phase) -> Iterable[GridPoint]:
    """Return the tasks of a phase in the order in which they are to run.

    Raises:
        ConfigError: Two are the same.
    """
    if phase.space is not None:
        return []  # they come one after the other
    points = _points(phase)
    if phase.places is None and not phase.is_shuffled:
        return points
    listed = list(points)
    if phase.places is not None and len({point.key for point in listed}) < len(listed):
        first: dict[str, GridPoint] = {}
        for point in listed:
            if first.setdefault(point.key, point) is not point:
                both = f"{first[point.key].task_id} and {point.task_id} are the same combination"
                what = one_line(canonical(point.task.config))
                raise ConfigError([f"{phase.where}: {phase.name}: {both}: {what}"])
    if phase.is_shuffled:
        Random(phase.name).shuffle(listed)
    return listed


def grid_of(phase: Phase) -> Grid:
    """Return what the tasks of a phase have in common."""
    return Grid(
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
        gpu_model=phase.gpu_model,
        places=None if phase.places is None else dict(phase.places),
        absent=dict(phase.absent),
        priority=phase.priority,
        python=phase.python,
        setup=phase.setup,
        has_seeds=phase.has_seeds,
        tags=phase.tags,
        renamed_from=dict(phase.renamed_from),
        assume=dict(phase.assume),
        halving=phase.halving,
        is_growing=phase.space is not None,
    )


def _points(phase: Phase) -> Iterator[GridPoint]:
    grid = grid_of(phase)
    head = key_head(phase.name, phase.experiment, phase.command)
    texts = [f",{seed}]" for seed in phase.seeds]
    keys = (short_hash(head + config_text + text) for config_text in _config_texts(phase) for text in texts)
    return map(GridPoint, itertools.repeat(grid), itertools.count(), _folders(phase), keys)


def _config_texts(phase: Phase) -> Iterator[str]:
    """Yield the canonical text of each combination's parameters, joined from few pieces made beforehand."""
    members: dict[str, list[str]] = {}
    for name in sorted({*phase.axes, *phase.defaults}.difference(phase.tags)):
        values = phase.axes.get(name, (phase.defaults.get(name),))
        head = f"{canonical(name)}:"
        if isinstance(values, array):  # of finite floats: `repr` is as `canonical`, which is slower
            members[name] = [head + (repr(value) if value % 1 else canonical(value)) for value in values]
        else:
            members[name] = [head + canonical(value) for value in values]
        if name in phase.absent:
            members[name][phase.absent[name]] = ""
    if phase.places is None:
        return _crossed_texts(phase, members)
    columns = [
        map(texts.__getitem__, phase.places[name]) if name in phase.axes else itertools.repeat(texts[0])
        for name, texts in members.items()
    ]
    rows: Iterable[Iterable[str]] = zip(*columns, strict=False)
    if phase.absent:
        rows = (filter(None, row) for row in rows)
    return (f"{{{','.join(row)}}}" for row in rows)


def _crossed_texts(phase: Phase, members: Mapping[str, Sequence[str]]) -> Iterator[str]:
    pieces: dict[str, list[str]] = {}
    text = "{"
    for name, texts in members.items():
        comma = "" if text == "{" and not pieces else ","
        if name in phase.axes:
            pieces[name] = [f"{text}{comma}{member}" for member in texts]
            text = ""
        else:
            text += comma + texts[0]
    in_order = list(phase.axes)
    by_name = [in_order.index(name) for name in pieces]
    for choice in itertools.product(*(pieces[name] for name in in_order)):
        yield "".join([choice[at] for at in by_name]) + text + "}"


def output_folders(phase: Phase) -> list[str]:
    """Return the folders that tasks of the phase write to, each once.

    Raises:
        ConfigError: One leaves the working folder.
    """
    count = combination_count(phase.axes, phase.places) * len(phase.seeds)
    return list(dict.fromkeys(itertools.islice(_folders(phase), count)))


def _folders(phase: Phase) -> Iterator[str]:
    """Yield the filled `output_dir` of each task; few differ, so each is checked and made once."""
    names = placeholders(phase.output_dir)
    is_named = {axis: any(_concerns(name, axis) for name in names) for axis in phase.axes}
    if "seed" not in names and not any(is_named.values()):
        yield from itertools.repeat(_folder(phase, [0] * len(phase.axes), 0))
        return
    rows = (
        itertools.product(*[range(len(v)) if is_named[n] else [0] * len(v) for n, v in phase.axes.items()])
        if phase.places is None
        else zip(*[c if is_named[n] else [0] * len(c) for n, c in phase.places.items()], strict=True)
    )
    seeds = phase.seeds if "seed" in names else [0] * len(phase.seeds)
    made: dict[tuple[tuple[int, ...], int], str] = {}
    for row in rows:
        for seed in seeds:
            if (row, seed) not in made:
                made[row, seed] = _folder(phase, row, seed)
            yield made[row, seed]


def _concerns(placeholder: str, parameter: str) -> bool:
    """Return whether a placeholder shows the parameter, a part of it, or a mapping it is part of."""
    one, other = f"{placeholder}.", f"{parameter}."
    return one.startswith(other) or other.startswith(one)


def _folder(phase: Phase, row: Sequence[int], seed: int) -> str:
    chosen = {name: values[at] for (name, values), at in zip(phase.axes.items(), row, strict=True)}
    try:
        return output_folder(
            phase.output_dir, joined({**phase.defaults, **chosen}) | {"phase": phase.name, "seed": seed}
        )
    except ValueError as error:
        raise ConfigError([f"{phase.where}: {phase.name}.output_dir: {error}"]) from error
