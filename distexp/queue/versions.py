"""Which tasks a worker of an earlier version of distexp would run otherwise than this one. Pure.

An earlier worker passes over the fields of a task that it does not know, and says nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from distexp.sweep.command_line import RUN_NAMES, fill_command
from distexp.sweep.grid import GridPoint, Planned
from distexp.sweep.templates import fill, placeholders, split_command
from distexp.task import Task, joined

UNNAMED = "0.1.0"  # the version of workers that name none
MAX_VERSION_CHARS = 100  # that are looked at
NEW_VARIABLES = ("DISTEXP_RUN_DIR", "DISTEXP_REPORT")  # which a command may read by itself

Version = tuple[int, int]


class Novelty(NamedTuple):
    """Something of a task that changes what it does, and that workers know since a version."""

    since: Version
    name: str  # in messages
    is_in: Callable[[Planned, Task], bool]


def parse_version(text: str) -> Version:
    """Return major and minor number of a version like 1.2.3, v0.9 or 2; zeros where it is none."""
    found = re.match(r"v?(\d+)(?:\.(\d+))?", text[:MAX_VERSION_CHARS])
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _is_filled_otherwise(planned: Planned, task: Task) -> bool:
    """Return whether 0.1.0 makes another command line of a command: it filled each word by itself."""
    if task.command is None:
        return False
    own: dict[str, object] = dict.fromkeys(RUN_NAMES, "x")
    if "run_dir" in task.config:
        del own["run_dir"]
    known_then = {**task.config, **{name: value for name, value in own.items() if name != "run_dir"}}
    try:
        words = split_command(task.command, windows=False)
        then = [fill(word, known_then) for word in words]
        names = [name for word in words for name in placeholders(word)]
        now = fill_command(task.command, joined(task.config), own, with_seed=task.has_seeds)
    except ValueError:  # it did not know such a placeholder
        return True
    return then != now or any("." in name for name in names) or any(v in task.command for v in NEW_VARIABLES)


NOVELTIES = (  # the first that a task has is named
    Novelty((0, 2), "`setup`", lambda planned, task: task.setup is not None),
    Novelty((0, 2), "`python`", lambda planned, task: task.python is not None),
    Novelty(
        (0, 2),
        "a parameter at a place in a mapping",
        lambda planned, task: joined(task.config) != task.config,
    ),
    Novelty((0, 2), "the form of its command", _is_filled_otherwise),
    Novelty(
        (0, 2),
        "`early_terminate`",
        lambda planned, task: isinstance(planned, GridPoint) and planned.grid.halving is not None,
    ),
)
FROZEN_SINCE: Version = (0, 2)  # `--freeze-code`, which is no task's own


def novelty_in(planned: Planned, version: Version) -> Novelty | None:
    """Return what a task has that a worker of this version does not know; None: it runs it as any other."""
    later = [novelty for novelty in NOVELTIES if novelty.since > version]
    task = planned.task if later else None
    return next((each for each in later if task is not None and each.is_in(planned, task)), None)


@dataclass(eq=False)
class EarlierVersion:
    """A worker of an earlier version: which tasks it may have, and what those of other phases need."""

    text: str  # as the worker named it
    needs_own_code: bool = False  # tasks run from a copy of the code
    lacks: dict[str, str] = field(default_factory=dict)  # phase -> what a task of it has, and since when

    def can_run(self, planned: Planned) -> bool:
        """Return whether it runs the task as a worker of this version does; what it lacks is noted."""
        version = parse_version(self.text)
        if self.needs_own_code and version < FROZEN_SINCE:
            why = _since("`--freeze-code`", FROZEN_SINCE)
        elif novelty := novelty_in(planned, version):
            why = _since(novelty.name, novelty.since)
        else:
            return True
        self.lacks[planned.phase] = why
        return False


def _since(name: str, version: Version) -> str:
    return f"{name} needs {version[0]}.{version[1]} or later"


def earlier_version(text: str | None, *, needs_own_code: bool = False) -> EarlierVersion | None:
    """Return what is to be heeded for a worker of this version, None for one that knows all tasks."""
    named = text or UNNAMED
    if all(parse_version(named) >= since for since in (FROZEN_SINCE, *(each.since for each in NOVELTIES))):
        return None
    return EarlierVersion(named, needs_own_code)
