"""Task and its identity; what travels from expansion to queue, wire, CSV row and log line.

Pure: no files, no clock.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

MAX_PRIORITY = 1_000_000  # of a phase, and as far below 0: any order of phases fits

Value = Any  # a value as YAML 1.2 and JSON share them: None, bool, int, float, str, list, dict with str keys
Number = int | float
Scalar = bool | int | float | str  # what a metric of a result may be
Reportable = Scalar | None  # what a metric of a report may be
Process = Literal["forked", "fresh"]
Mib = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]  # of memory

DEFAULT_EXPERIMENT = "distexp.experiments.classification:run"
COMMAND_EXPERIMENT = "distexp.experiments.command:run"  # what runs a `command:` task
DEFAULT_SEED = 42
MIB_PER_GB = 1024
MAX_SLOTS = 128  # workers on a GPU, if somebody asks for a number: each slot is looked at
MAX_SHARING = 16  # tasks at a time on a GPU that is shared without a fixed number: as many keep any GPU busy
KEY_DIGITS = 20  # 80 bits: a collision among a million tasks has a chance of 4e-13


class State(StrEnum):
    """Where a task stands."""

    __hash__ = str.__hash__  # that of Enum is written in Python, and runs at every look into a dict

    PENDING = "pending"
    ASSIGNED = "assigned"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    PRUNED = "pruned"  # stopped early: its row says at which step


class Cause(StrEnum):
    """Why an attempt failed."""

    ERROR = "error"  # the experiment raised
    CRASH = "crash"  # its process died: segfault, CUDA error, a kill from outside
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    IMPORT = "import"  # the experiment cannot be imported
    SETUP = "setup"  # what the sweep file runs first on each host has failed


class Need(NamedTuple):
    """What a task needs of the device that it runs on. The greater need sorts last."""

    gpus: int = 0  # at once; 0: none, any worker will do
    min_free_gb: float = 0.0  # on each of them
    models: tuple[str, ...] = ()  # words of the product names that will do; none: any will

    def is_met_by(self, gpus: int, free_mib: int, device: str) -> bool:
        """Return whether so many GPUs meet it, the fullest of which has so much memory free.

        Args:
            device: Their product names, as `gpu.claim.Claim.device_name` has them.
        """
        has_room = gpus >= self.gpus and free_mib >= self.min_free_gb * MIB_PER_GB
        return has_room and self.is_model(device)

    def is_model(self, device: str) -> bool:
        """Return whether each of these GPUs is of a model that will do: A10 is a word of no "A100-SXM4"."""
        return not self.models or all(
            any(re.search(rf"(?<!\w){re.escape(model)}(?!\w)", name, re.IGNORECASE) for model in self.models)
            for name in device.split(", ")
        )


@functools.lru_cache(maxsize=256)  # one a phase, and asked for once a task
def need_of(gpus: int | None, min_free_gb: float | None, gpu_model: tuple[str, ...] = ()) -> Need:
    """Return what the settings of a phase ask for; who asks for memory or a model of a GPU asks for a GPU."""
    return Need(gpus or int(min_free_gb is not None or bool(gpu_model)), min_free_gb or 0.0, gpu_model)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a sweep.

    `config` holds every parameter without phase and seed; `axes` names those that the phase varies (the seed
    is always one more). `output_dir` is relative to the working folder, placeholders filled.
    """

    task_id: str  # the label people read; moves when an axis is edited
    phase: str
    config: dict[str, Value]
    seed: int
    output_dir: str
    axes: tuple[str, ...] = ()
    experiment: str = DEFAULT_EXPERIMENT  # "module:function"
    command: str | None = None  # the template text of a `command:` task
    timeout_s: float | None = None
    process: Process = "forked"
    gpus: int | None = None  # that it sees, on a worker that holds as many; None: one, if there is one
    min_free_gb: float | None = None  # on each GPU, when it is assigned
    gpu_model: tuple[str, ...] = ()  # words of product names: each GPU is of one of these models; none: any
    tags: tuple[str, ...] = ()  # parameters that are no part of its identity
    python: str | None = None  # what `python` in its command is; None: the worker's own
    setup: str | None = None  # what runs once on each host before the first task of its file there
    has_seeds: bool = False  # its file says which seeds: `{args}` in its command holds the seed
    key: str = ""  # identity: phase, experiment, parameters without tags, seed

    @property
    def work(self) -> str:
        """Its identity without the phase: equal work runs once. Computed at each call."""
        head = f"[{_label(self.experiment)},{_label(self.command)},"
        return short_hash(f"{head}{canonical(_untagged(self.config, self.tags))},{self.seed}]")

    def key_in(self, phase: str) -> str:
        """Return the key of the same work in another phase."""
        return key_of(phase, self.experiment, self.command, self.config, self.seed, tags=self.tags)

    @property
    def need(self) -> Need:
        """What its device must have."""
        return need_of(self.gpus, self.min_free_gb, self.gpu_model)

    @property
    def task(self) -> "Task":
        """Itself; a `GridPoint` has the same property."""
        return self


class RowRule(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows complete a task, beyond its own values: what its phase says."""

    varied: tuple[str, ...] = ()  # parameters to which the phase gives two or more values, perhaps `seed`
    rivals: dict[str, list[Value]] = {}  # other values of an axis that a cell could hold as well
    renamed_from: dict[str, tuple[str, ...]] = {}  # earlier names of phase, seed and parameters
    assume: dict[str, Value] = {}  # what rows without a value of these parameters hold


class Halving(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks of a phase are compared, and by what: those that are not among the best stop there.

    Source: asynchronous successive halving, Li et al. 2020, https://arxiv.org/abs/1810.05934.
    """

    metric: str
    goal: Literal["maximize", "minimize"] = "maximize"
    min_iter: int = 1  # the first rung, a step of `context.report`
    eta: int = 3  # one in so many goes on; each rung is so many times the one before
    max_iter: int | None = None  # where tasks end; nobody is stopped from there on
    for_each: tuple[str, ...] = ()  # parameters: tasks that differ in them are not compared

    def rungs(self, limit: int) -> list[int]:
        """Return the rungs up to `max_iter`, at most `limit` of them."""
        found, rung = list[int](), self.min_iter
        while len(found) < limit and (self.max_iter is None or rung <= self.max_iter):
            found.append(rung)
            rung *= self.eta
        return found

    def rung_at(self, step: Number) -> int | None:
        """Return the last rung that a report of this step passes; None below the first."""
        reached = step if self.max_iter is None else min(step, self.max_iter)
        rung = self.min_iter
        if reached < rung:
            return None
        while rung * self.eta <= reached:
            rung *= self.eta
        return rung


def make_task(
    *,
    task_id: str,
    phase: str,
    config: dict[str, Value],
    seed: int,
    output_dir: str,
    axes: tuple[str, ...],
    experiment: str = DEFAULT_EXPERIMENT,
    command: str | None = None,
    timeout_s: float | None = None,
    process: Process = "forked",
) -> Task:
    """Return the task with its `key` filled in."""
    return Task(
        task_id=task_id,
        phase=phase,
        config=config,
        seed=seed,
        output_dir=output_dir,
        axes=axes,
        experiment=experiment,
        command=command,
        timeout_s=timeout_s,
        process=process,
        key=key_of(phase, experiment, command, config, seed),
    )


def key_of(
    phase: str,
    experiment: str,
    command: str | None,
    config: Mapping[str, Value],
    seed: int,
    *,
    tags: Collection[str] = (),
) -> str:
    """Return the identity of the task that has these; parameters that are `tags` are no part of it."""
    parameters = canonical(_untagged(config, tags))
    return short_hash(f"{key_head(phase, experiment, command)}{parameters},{seed}]")


def _untagged(config: Mapping[str, Value], tags: Collection[str]) -> Mapping[str, Value]:
    return {name: value for name, value in config.items() if name not in tags} if tags else config


def key_head(phase: str, experiment: str, command: str | None) -> str:
    """Return how the text begins whose hash is a task's key: a canonical list, then parameters and seed."""
    return f"[{_label(phase)},{_label(experiment)},{_label(command)},"


def digest(value: Value) -> str:
    """Return `KEY_DIGITS` hex digits that depend on the canonical form of `value` alone."""
    return short_hash(canonical(value))


def short_hash(text: str) -> str:
    """Return `KEY_DIGITS` hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def canonical(value: Value) -> str:
    """Return one text for all spellings of one value: 100 and 100.0 agree, True and 1 do not."""
    return _ENCODER.encode(_normalised(value))


@functools.lru_cache(maxsize=256)  # phases and experiments: few, and asked for once a task
def _label(text: str | None) -> str:
    return canonical(text)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _normalised(value: Value) -> Value:
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"float": str(value)}  # JSON has no such number; a mapping cannot be mistaken for a string
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {name: _normalised(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalised(item) for item in value]
    return value


def joined(config: Mapping[str, Value]) -> dict[str, Value]:
    """Return parameters as experiments get them: `model.width` stands at its place in the mapping `model`.

    A dotted name without such a mapping stays a name.
    """
    found = dict(config)
    for name in sorted((name for name in config if "." in name), key=lambda name: name.count(".")):
        if (head := mapping_of(name, found)) is not None:
            found[head] = _with(found[head], name[len(head) + 1 :].split("."), found.pop(name))
    return found


def mapping_of(name: str, config: Mapping[str, Value]) -> str | None:
    """Return the parameter, a mapping, in which a dotted name is a place; None when there is none."""
    dots = [at for at, character in enumerate(name) if character == "."]
    return next((name[:at] for at in dots if isinstance(config.get(name[:at]), Mapping)), None)


def _with(mapping: Mapping[str, Value], place: list[str], value: Value) -> dict[str, Value]:
    """Return a copy of the mapping with the value at a place in it."""
    name, *deeper = place
    inner = mapping.get(name)
    return {
        **mapping,
        name: _with(inner if isinstance(inner, Mapping) else {}, deeper, value) if deeper else value,
    }


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a result came from; the last columns of its row."""

    peak_gpu_mib: int | None = None  # most memory that torch held on the GPU; None without one
    torch_version: str = ""  # empty for a task that has not imported it
    python_version: str = ""
    git_commit: str = ""  # of the worker's folder; empty without git or repository
    git_dirty: bool | None = None  # whether files that git knows differ from it
    code: str = ""  # a hash of the code in that folder when the task imported it
    attempt: int = 1
    worker: str = ""
    host: str = ""
    device: str = ""
    started_utc: str = ""  # ISO 8601, seconds, ending in Z
    run_dir: str = (
        ""  # the task's own folder, from the worker's working folder on; empty where it left nothing
    )
    stopped_at: Number | None = None  # the step at which the task was stopped early; None: it was not
    duration_s: float = 0.0


class SharedGpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU that workers share by the memory of their tasks, as one of them has just seen it."""

    total_mib: Mib
    free_mib: Mib
    min_free_mib: Mib = 0  # a task starts alone where more than this is free
    held_mib: dict[int, Mib] = {}  # by pid: of each process that holds memory and of those above it

    def held_by(self, pid: int) -> int:
        """Return what a process and all that it has started hold, in MiB; 0 where that cannot be told."""
        return self.held_mib.get(pid, 0) if pid else 0

    def without(self, pids: Iterable[int]) -> "SharedGpu":
        """Return it as it would be if the tasks of these workers had ended."""
        freed_mib = sum(map(self.held_by, pids))
        return msgspec.structs.replace(self, free_mib=self.free_mib + freed_mib)


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most memory that a worker's processes have held on its GPU during an attempt."""

    mib: Mib
    of_gpu: bool = False  # by which all of the GPU's has grown: the driver tells nothing of processes
    ran_s: Annotated[float, msgspec.Meta(ge=0)] | None = None  # its experiment; None: it has no result


class Bookmark(msgspec.Struct, frozen=True):
    """How far a results file has been read: a byte offset under a header line of this digest."""

    offset: int
    header: str
