"""Checked sweep -> tasks. Pure: no files, no clock."""

import itertools
import math
from collections.abc import Iterator, Sequence

from distexp.config import Phase
from distexp.errors import ConfigError
from distexp.output_dir import output_folder
from distexp.task import Task, Value, canonical, make_task
from distexp.template import placeholders, render

MAX_VALUES = 50_000_000  # parameters of all combinations: about 25 bytes each, 1.3 GB
MAX_TASKS = 5_000_000  # a task is about half a kilobyte in the manager: 2.5 GB


def expand(phases: Sequence[Phase]) -> list[Task]:
    """Return every task: phases in order, the first axis slowest, the seed fastest.

    A task's id is `{phase}_{index}_{seed}`, where the index counts the combinations of the phase without the
    seed. Tasks of one combination share one `config`.

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
    return [task for phase in phases for task in _tasks(phase)]


def _tasks(phase: Phase) -> Iterator[Task]:
    axes = tuple(phase.axes)
    folders = _Folders(phase)
    for index, (config, config_text) in enumerate(_combinations(phase)):
        for seed in phase.seeds:
            yield make_task(
                task_id=f"{phase.name}_{index}_{seed}",
                phase=phase.name,
                config=config,
                seed=seed,
                output_dir=folders.of(config, seed),
                axes=axes,
                experiment=phase.experiment,
                command=phase.command,
                timeout_s=phase.timeout_s,
                process=phase.process,
                config_text=config_text,
            )


def _combinations(phase: Phase) -> Iterator[tuple[dict[str, Value], str]]:
    """Yield the parameters of each combination with their canonical text, joined from cached pieces."""
    names = sorted([*phase.axes, *phase.defaults])
    defaults = dict(phase.defaults)
    fixed = {name: _member(name, value) for name, value in defaults.items()}
    axes = [[(name, value, _member(name, value)) for value in values] for name, values in phase.axes.items()]
    for choice in itertools.product(*axes):
        members = fixed | {name: member for name, _, member in choice}
        config = {name: value for name, value, _ in choice} | defaults
        yield config, "{" + ",".join([members[name] for name in names]) + "}"


def _member(name: str, value: Value) -> str:
    return f"{canonical(name)}:{canonical(value)}"


class _Folders:
    """The filled `output_dir` of one phase; few differ, so each is checked and made once."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._names = placeholders(phase.output_dir)
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, config: dict[str, Value], seed: int) -> str:
        """Return the folder for these parameters."""
        name = self._phase.name
        values = [seed if n == "seed" else name if n == "phase" else config[n] for n in self._names]
        shown = tuple(map(render, values))
        if shown not in self._known:
            try:
                folder = output_folder(self._phase.output_dir, dict(zip(self._names, values, strict=True)))
            except ValueError as error:
                raise ConfigError([f"{self._phase.where}: {name}.output_dir: {error}"]) from error
            self._known[shown] = folder
        return self._known[shown]
