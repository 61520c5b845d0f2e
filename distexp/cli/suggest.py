"""What the user may have meant: phases, parameters and task ids like the one that was typed."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from distexp.errors import DistexpError
from distexp.results.row import CODE
from distexp.sweep.config import Phase, load_configs
from distexp.workdir import Workdir

SHOWN = 5  # names, where none is like the one that was typed
_LABEL = re.compile(r"task '(?P<phase>.+)_(?P<index>\d+)_(?P<seed>-?\d+)' is not in this sweep")


def like(wanted: str, known: Collection[str]) -> str:
    """Return the end of a message: the name that was meant, or some of those that there are; "" for none."""
    if close := get_close_matches(wanted, known, 1):
        return f"did you mean {close[0]}?"
    shown = ", ".join([*known][:SHOWN])
    return (
        f"there {'are' if len(known) > 1 else 'is'} {shown}{', ...' if len(known) > SHOWN else ''}"
        if known
        else ""
    )


def task_hint(workdir: Path, problem: str) -> str:
    """Return what to add to a refusal of a task id, "" where there is nothing to add."""
    found = _LABEL.search(problem)
    phases = {phase.name: phase for phase in _phases(workdir)}
    if found is None or not phases:
        return ""
    phase = phases.get(found["phase"])
    if phase is None:
        close = get_close_matches(found["phase"], phases, 1)
        return f"; did you mean {close[0]}_{found['index']}_{found['seed']}?" if close else ""
    if int(found["seed"]) not in phase.seeds:
        return f"; {phase.name} runs with the seeds {', '.join(map(str, phase.seeds[:SHOWN]))}"
    return f"; {phase.name} has no combination {found['index']}"


def filter_hints(workdir: Path, phase: str | None, names: Collection[str]) -> list[str]:
    """Return a line for each phase or parameter that a filter names and no config has."""
    phases = _phases(workdir)
    if not phases:
        return []
    known = {name for each in phases for name in (*each.axes, *each.defaults, "seed", CODE)}
    lines = [f"no parameter is called {name}: {like(name, known)}" for name in names if name not in known]
    titles = [each.name for each in phases]
    if phase is not None and phase not in titles:
        lines.append(f"no phase is called {phase}: {like(phase, titles)}")
    return lines


def _phases(workdir: Path) -> list[Phase]:
    try:
        return load_configs([Path(Workdir(workdir).configs)], workdir)
    except DistexpError:  # a hint is no place for the errors of configs
        return []
