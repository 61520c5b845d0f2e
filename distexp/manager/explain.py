"""Why a task is not running, in one line for people. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distexp.queue.entry import Entry
from distexp.task import MIB_PER_GB, Cause, Need, State
from distexp.text import duration_text


@dataclass(frozen=True)
class Hand:
    """A connected worker, as far as it matters to a task that waits."""

    name: str
    memory_mib: int  # of its device
    refusal: str = ""  # why it gets no task, whichever is pending
    gpus: int = 0  # cards that it holds
    free_mib: int = 0  # on the fullest of them, when it last asked for a task


@dataclass(frozen=True)
class QueueView:
    """What stands around a task."""

    now_s: float  # on the queue's clock
    is_paused: bool = False
    hands: Sequence[Hand] = ()
    duplicate: Entry | None = None  # that asks for the same work, and runs or is complete
    before: int = 0  # pending tasks whose turn comes first


def why_not_running(entry: Entry, view: QueueView) -> str:
    """Return why; for a task that runs: where, and since when."""
    task_id = entry.task.task_id
    match entry.state:
        case State.ASSIGNED:
            return _assigned(entry, view.now_s)
        case State.COMPLETE:
            return f"complete: its row is in {entry.task.output_dir}/final_results.csv"
        case State.FAILED:
            spent = f"{entry.failures} failures, {entry.losses} lost workers"
            return f"failed ({spent}): {_last_line(entry)}; `requeue {task_id}` runs it again"
        case State.CANCELLED if entry.cause == Cause.IMPORT:
            return f"its phase has ended: {_last_line(entry)}; mend the module, then `requeue {task_id}`"
        case State.CANCELLED:
            return f"{_last_line(entry)}; `requeue {task_id}` runs it again"
        case State.WITHDRAWN:
            return "withdrawn: the config files no longer ask for it"
    return _pending(entry, view)


def _assigned(entry: Entry, now_s: float) -> str:
    if entry.lease is None:
        return "assigned"
    worker, left_s = entry.lease.worker.name, max(0.0, entry.lease.until_s - now_s)
    since = "before this manager started"
    if entry.lease.since_s is not None:
        since = f"{duration_text(now_s - entry.lease.since_s)} ago"
    return (
        f"runs: assigned to {worker} {since} (attempt {entry.attempts}); without a sign of life "
        f"it goes back in {duration_text(left_s)}"
    )


def _pending(entry: Entry, view: QueueView) -> str:
    if view.duplicate is not None:
        what = (
            "runs"
            if view.duplicate.state is State.ASSIGNED
            else "is complete; its row is copied at the next scan"
        )
        other = view.duplicate.task.task_id
        return f"waits for its duplicate {other}, the same work in another phase, which {what}"
    if view.is_paused:
        return "the sweep is paused; `resume` goes on"
    if not view.hands:
        return "no worker is connected; start one with `python experiment_runner_gpu.py`"
    fit = [hand for hand in view.hands if not hand.refusal]
    if not fit:
        why = "; ".join(f"{hand.name}: {hand.refusal}" for hand in view.hands[:3])
        return f"all workers are excluded ({why})"
    able = [hand for hand in fit if hand.gpus >= entry.need.gpus]
    if not any(entry.need.is_met_by(hand.gpus, hand.free_mib) for hand in able):
        return _unmet(entry.need, fit, able)
    largest_mib = max(hand.memory_mib for hand in able)
    if entry.oom_at_mib and largest_mib <= entry.oom_at_mib:
        return (
            f"needs a larger GPU: it ran out of memory with {entry.oom_at_mib} MiB, "
            f"and the largest device of a worker has {largest_mib} MiB"
        )
    if view.before:
        return f"its turn has not come: {view.before} pending tasks before it"
    return "it is next: the workers are busy with other tasks"


def _unmet(need: Need, fit: Sequence[Hand], able: Sequence[Hand]) -> str:
    """Return what no worker has; `able` are those of `fit` that hold cards enough."""
    if not able and need.gpus == 1:
        return "needs a GPU, and no worker that is connected holds one"
    if not able:
        most, remedy = max(hand.gpus for hand in fit), f"python experiment_runner_gpu.py --gpus {need.gpus}"
        return f"needs {need.gpus} GPUs, and no worker that is connected holds more than {most}: `{remedy}`"
    best = max(able, key=lambda hand: hand.free_mib)
    where = "on its GPU" if need.gpus == 1 else f"on each of {need.gpus} GPUs"
    return (
        f"needs {need.min_free_gb:g} GB free {where}, and the most that a worker had when it last asked "
        f"is {math.floor(10 * best.free_mib / MIB_PER_GB) / 10:.1f} GB ({best.name})"
    )


def _last_line(entry: Entry) -> str:
    return (entry.error.strip().splitlines() or ["cause unknown"])[-1]
