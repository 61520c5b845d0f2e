"""Seed -> what goes wrong in a run, and when. Pure.

A plan says everything that chance decides. Which process an event hits is said by a number: the driver
counts through the processes that are there at that moment, so a replay hits the same one as far as timing
is the same.

What is a fair fault: whatever a kernel, a network, a disk or a user can do to the processes. A torn row is
fair as the row of a writer that was killed in its write: before it reported, under the file's lock, cut
anywhere.
"""

import random
from dataclasses import dataclass, replace
from enum import StrEnum

SPAN_S = 10.0  # in which events happen: about as long as an undisturbed sweep takes
EVENTS = (10, 18)
MAX_FAR = 2
SAMPLES, STEPS_OF_SEARCH = 6, 9  # of each search
SEARCHED = 0.5  # of the plans
MOMENTS = ("", "Assigned task", "Running task", "completed", "failed", "lost by", "Error reporting")
MOMENT_WEIGHTS = (6, 1, 1, 1, 1, 1, 1)


class Kind(StrEnum):
    """What may happen."""

    KILL_MANAGER = "kill manager"
    STOP_MANAGER = "stop manager"
    KILL_WORKER = "kill worker"
    STOP_WORKER = "stop worker"
    TERM_WORKER = "SIGTERM worker"
    INTERRUPT_WORKER = "SIGINT worker"
    HANG_UP_MANAGER = "SIGHUP manager"
    HANG_UP_WORKER = "SIGHUP worker"
    KILL_BOTH = "kill manager and worker"
    STOP_HOST = "stop all processes"
    KILL_CHILD = "kill child"
    STOP_CHILD = "stop child"
    KILL_TEMPLATE = "kill template"
    STOP_TEMPLATE = "stop template"
    CUT = "cut connection"
    STALL = "stall connection"
    TEAR_ROW = "tear row"
    FILL_MANAGER_DISK = "fill manager's disk"
    FILL_WORKER_DISK = "fill worker's disk"
    FILL_TASK_DISK = "fill task's disk"
    STEP_CLOCK = "step clock"
    MOVE_STATE = "move manager's folder away"
    DELETE_STATE = "delete manager's folder"
    EDIT_CONFIG = "edit config"
    BREAK_CONFIG = "break config"
    START_TWO = "start two workers"


WEIGHTS: dict[Kind, int] = {
    Kind.KILL_MANAGER: 4,
    Kind.STOP_MANAGER: 2,
    Kind.KILL_WORKER: 5,
    Kind.STOP_WORKER: 4,
    Kind.TERM_WORKER: 2,
    Kind.INTERRUPT_WORKER: 2,
    Kind.HANG_UP_MANAGER: 1,
    Kind.HANG_UP_WORKER: 2,
    Kind.KILL_BOTH: 2,
    Kind.STOP_HOST: 2,
    Kind.KILL_CHILD: 3,
    Kind.STOP_CHILD: 2,
    Kind.KILL_TEMPLATE: 2,
    Kind.STOP_TEMPLATE: 1,
    Kind.CUT: 4,
    Kind.STALL: 3,
    Kind.TEAR_ROW: 3,
    Kind.FILL_MANAGER_DISK: 3,
    Kind.FILL_WORKER_DISK: 4,
    Kind.FILL_TASK_DISK: 2,
    Kind.STEP_CLOCK: 2,
    Kind.MOVE_STATE: 1,
    Kind.DELETE_STATE: 1,
    Kind.EDIT_CONFIG: 3,
    Kind.BREAK_CONFIG: 2,
    Kind.START_TWO: 2,
}


@dataclass(frozen=True)
class Event:
    """One fault.  Times are real seconds, `at_s` since the first manager served."""

    at_s: float
    kind: Kind
    pick: int  # which of the processes, links or tasks that are there
    for_s: float  # until it is undone; a killed manager stays away so long
    amount: float  # 0 to 1: how much of a row, how full a disk, how far the clock steps, from back to forth
    moment: str = ""  # it waits until a process prints a line with these words: then much is half done
    text: str = ""  # of a config


@dataclass(frozen=True)
class Placement:
    """Where and how a worker runs."""

    far: int  # 0: in the manager's folder; 1, 2: on another host, behind a relay
    start_method: str


@dataclass(frozen=True)
class Shape:
    """What the config file asks for."""

    seeds: tuple[int, ...] = (1, 2)
    sizes: tuple[int, ...] = (1, 2, 3, 4)
    is_searched: bool = False

    def text(self) -> str:
        """Return the file: slow tasks, quick ones, duplicates, trouble, programs, fresh interpreters.

        With searches: one that draws at random and one by TPE, both with early stopping.
        """
        return (
            'defaults: {output_dir: "./results_{kind}", experiment: "benchmarks.chaos.experiments:run"}\n'
            f"seeds: {list(self.seeds)}\n"
            "slow: {combinations: [{kind: [slow]}, {size: [1, 2]}]}\n"
            f"quick: {{combinations: [{{kind: [quick]}}, {{size: {list(self.sizes)}}}]}}\n"
            f"duplicate: {{combinations: [{{kind: [quick]}}, {{size: {list(self.sizes[:2])}}}]}}\n"
            "trouble: {combinations: [{kind: [flaky, family, saver, busy, pool]}, {size: [1, 2]}]}\n"
            "program:\n"
            "  defaults: {command: 'python -m benchmarks.chaos.experiments {size} {seed}'}\n"
            "  combinations: [{kind: [program]}, {size: [1, 2]}]\n"
            "fresh: {defaults: {process: fresh}, combinations: [{kind: [fresh]}, {size: [1]}]}\n"
            + "".join(_search(method) for method in ("random", "tpe") if self.is_searched)
        )


def _search(method: str) -> str:
    return (
        f"{method}_search:\n"
        f"  search: {{method: {method}, samples: {SAMPLES}}}\n"
        "  metric: value\n"
        f"  early_terminate: {{type: asha, max_iter: {STEPS_OF_SEARCH}}}\n"
        f"  combinations: [{{kind: [{method}]}}, {{size: {{min: 1, max: 60}}}}]\n"
    )


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    workers: tuple[Placement, ...]
    config: str
    events: tuple[Event, ...]

    @property
    def far_hosts(self) -> int:
        """How many hosts there are beside the manager's."""
        return max(placement.far for placement in self.workers)


def make_plan(seed: int) -> Plan:
    """Return the plan of this seed, always the same one."""
    chance = random.Random(seed)
    workers = _group(chance)
    shape = first = Shape(is_searched=random.Random(f"search {seed}").random() < SEARCHED)
    events = []
    times = sorted(chance.uniform(0.3, SPAN_S) for _ in range(chance.randint(*EVENTS)))
    for at_s in times:
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        text = ""
        if kind is Kind.EDIT_CONFIG:
            shape = _edited(shape, chance)
            text = shape.text()
        elif kind is Kind.BREAK_CONFIG:
            text = _broken(shape.text(), chance)
        events.append(
            Event(
                at_s,
                kind,
                chance.randrange(1000),
                _span_s(chance),
                chance.random(),
                chance.choices(MOMENTS, MOMENT_WEIGHTS)[0],
                text,
            )
        )
    return Plan(seed, workers, first.text(), tuple(events))


def _group(chance: random.Random) -> tuple[Placement, ...]:
    near = [Placement(0, "forkserver"), Placement(0, chance.choices(("forkserver", "spawn"), (4, 1))[0])]
    more = [Placement(chance.randint(0, MAX_FAR), "forkserver") for _ in range(chance.randint(0, 3))]
    return (*near, Placement(1, "forkserver"), *more)


def _span_s(chance: random.Random) -> float:
    """Return a span: mostly a hiccup, at times longer than a lease."""
    return chance.choices(
        (chance.uniform(0.05, 1.0), chance.uniform(1.0, 4.0), chance.uniform(8.0, 10.0)), (5, 3, 1)
    )[0]


def _edited(shape: Shape, chance: random.Random) -> Shape:
    """Let a seed or a size join, or the last size leave: so a label means the same task in the whole run."""
    if chance.random() < 0.4:
        return replace(shape, seeds=(*shape.seeds, len(shape.seeds) + 1))
    if chance.random() < 0.5 and len(shape.sizes) > 1:
        return replace(shape, sizes=shape.sizes[:-1])
    return replace(shape, sizes=(*shape.sizes, len(shape.sizes) + 1))


def _broken(text: str, chance: random.Random) -> str:
    """Return what an editor may leave for a while: half a file, an unknown word, no YAML."""
    return chance.choice((text[: len(text) // 2] + "{", text.replace("combinations", "combination"), "\t: ["))
