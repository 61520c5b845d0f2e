"""Why a task is not running, in one line for people. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distexp.queue.entry import Entry, WorkerInfo
from distexp.task import MIB_PER_GB, Need, State
from distexp.text import duration_text, last_line

Available = tuple[WorkerInfo, str]  # a connected worker, and why it gets no task; empty: it may have one


@dataclass(frozen=True)
class QueueView:
    """What a task waits for, other than workers."""

    now_s: float  # on the queue's clock
    is_paused: bool = False
    duplicate: Entry | None = None  # that asks for the same work, and runs or is complete
    before: int = 0  # pending tasks whose turn comes first
    held: str = ""  # why its phase is held
    stuck: str = ""  # the process of its dead worker's attempt that does not end
    file: str = ""  # why its results file cannot be written
    is_served: bool = True  # False: no manager runs
    room: str = ""  # what it waits for on a GPU that workers share by the memory of their tasks
    cancelled_s: float = 0.0  # for so long at most the worker that ran it as it was cancelled is waited for


def why_not_running(entry: Entry, workers: Sequence[Available], view: QueueView) -> str:
    """Return why; for a task that runs: where, and since when."""
    task_id = entry.task.task_id
    match entry.state:
        case State.ASSIGNED:
            return _assigned(entry, view)
        case State.COMPLETE:
            return f"complete: its row is in {entry.task.output_dir}/final_results.csv"
        case State.FAILED:
            spent = f"{entry.failures} failures, {entry.losses} lost workers"
            again = f"requeue {task_id}" if view.is_served else "distexp run --retry-failed"
            return f"failed ({spent}): {last_line(entry.error)}; `{again}` runs it again"
        case State.CANCELLED:
            later = "" if view.is_served else " once a manager runs"
            return f"{last_line(entry.error)}; `requeue {task_id}` runs it again{later}"
        case State.PRUNED:
            return f"stopped early; `requeue {task_id}` runs it again"
        case State.WITHDRAWN:
            return "withdrawn: the config files no longer ask for it"
    return _pending(entry, workers, view)


def _assigned(entry: Entry, view: QueueView) -> str:
    if entry.lease is None:
        return "assigned"
    now_s = view.now_s
    worker, left_s = entry.lease.worker.name, max(0.0, entry.lease.until_s - now_s)
    if not view.is_served:
        ran = f"ran on {worker} when the manager ended (attempt {entry.attempts})"
        return f"{ran}; if it still does, its row counts"
    if view.stuck:
        return (
            f"its worker {worker} has died, and {view.stuck} of the task does not end: the task goes back "
            "when it has ended"
        )
    since = "before this manager started"
    if entry.lease.since_s is not None:
        since = f"{duration_text(now_s - entry.lease.since_s)} ago"
    return (
        f"runs: assigned to {worker} {since} (attempt {entry.attempts}); without a sign of life "
        f"it goes back in {duration_text(left_s)}"
    )


def _pending(entry: Entry, workers: Sequence[Available], view: QueueView) -> str:
    if view.duplicate is not None:
        is_running = view.duplicate.state is State.ASSIGNED
        what = "runs" if is_running else "is complete; its row is copied at the next scan"
        other = view.duplicate.task.task_id
        return f"waits for its duplicate {other}, the same work in another phase, which {what}"
    if not view.is_served:
        failed = f"failed ({entry.cause}): {last_line(entry.error)}; " if entry.error else ""
        return f"{failed}no manager runs; `distexp run` runs it{' again' if failed else ''}"
    if view.is_paused:
        return "the sweep is paused; `resume` goes on"
    if view.cancelled_s:
        return (
            f"waits until {entry.last_worker} has heard that the attempt before was cancelled, and ends it, "
            f"for {duration_text(view.cancelled_s)} at most"
        )
    if view.file:
        return f"its results file cannot be written: {view.file}"
    if view.held:
        return f"its phase is held: {view.held}; fix it, then `resume` goes on"
    if why := _why_no_worker(entry, workers):
        return why
    if view.before:
        return f"its turn has not come: {view.before} pending tasks before it"
    return f"it is next: {view.room or 'the workers are busy with other tasks'}"


def _why_no_worker(entry: Entry, workers: Sequence[Available]) -> str:
    """Return why none of the workers can have the task; empty when one can."""
    if not workers:
        return "no worker is connected; start one with `distexp worker`"
    allowed = [worker for worker, excluded in workers if not excluded]
    if not allowed:
        why = "; ".join(f"{worker.name}: {excluded}" for worker, excluded in workers[:3])
        return f"all workers are excluded ({why})"
    able = [worker for worker in allowed if worker.gpus >= entry.need.gpus]
    if not any(worker.meets(entry.need) for worker in able):
        return unmet_text(entry.need, allowed)
    current = [worker for worker in able if worker.earlier is None or worker.earlier.can_run(entry.planned)]
    if not current:
        return _outdated(able, entry.planned.phase)
    largest_mib = max(worker.memory_mib for worker in able)
    if entry.is_beyond(largest_mib):
        return (
            f"needs a larger GPU: it ran out of memory with {entry.oom_at_mib} MiB, and the largest device "
            f"of a worker has {largest_mib} MiB"
        )
    return ""


def _outdated(workers: Sequence[WorkerInfo], phase: str) -> str:
    whys = {each.earlier.lacks[phase] for each in workers if each.earlier}
    hosts = ", ".join(sorted({worker.host or f"the host of {worker.name}" for worker in workers}))
    return f"{'; '.join(sorted(whys))}, and all workers are of an earlier version: update distexp on {hosts}"


def unmet_text(need: Need, workers: Sequence[WorkerInfo]) -> str:
    """Return what is needed and none of these workers has, such as `needs a GPU, and no worker ...`."""
    able = [worker for worker in workers if worker.gpus >= need.gpus]
    if not able and need.gpus == 1:
        return "needs a GPU, and no worker that is connected holds one"
    if not able:
        most = max(worker.gpus for worker in workers)
        remedy = f"distexp worker --gpus {need.gpus}"
        return f"needs {need.gpus} GPUs, and no worker that is connected holds more than {most}: `{remedy}`"
    of_model = [worker for worker in able if need.is_model(worker.device)]
    if not of_model:
        there = ", ".join(sorted({worker.device for worker in able}))
        models = " or ".join(need.models)
        return f"needs a GPU of the model {models}, and the workers that are connected have {there}"
    able = of_model
    best = max(able, key=lambda worker: worker.free_mib)
    where = "on its GPU" if need.gpus == 1 else f"on each of {need.gpus} GPUs"
    return (
        f"needs {need.min_free_gb:g} GB free {where}, and the most that a worker had when it last asked "
        f"is {math.floor(10 * best.free_mib / MIB_PER_GB) / 10:.1f} GB ({best.name})"
    )
