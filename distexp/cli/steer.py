"""The verbs that change a running sweep: `cancel`, `requeue`, `pause`, `resume`, `drain`, `prioritize`."""

import click

from distexp.cli.connection import DONE, NOTHING, Target, ask, asks_manager, order, say
from distexp.errors import ManagerUnreachable, Refused
from distexp.task import MAX_PRIORITY
from distexp.text import count_text
from distexp.wire.messages import (
    Ack,
    Cancel,
    Drain,
    Pause,
    Prioritize,
    Requeue,
    Resume,
    Show,
    ShowReply,
    Workers,
    WorkersReply,
)

TASKS = click.argument("task", nargs=-1, metavar="TASK...")


@click.command()
@click.argument("task", nargs=-1, required=True, metavar="TASK...")
@asks_manager()
def cancel(target: Target, task: tuple[str, ...]) -> int:
    """End pending and running tasks without a result.

    TASK is a task id, such as exp1_vary_width_0_42. All are known, or none is touched.
    """
    reply, asked = ask(target, Cancel(tasks=[*task]), Ack), len({*task})
    is_part = (reply.count or 0) < asked
    text = f"Cancelled {reply.count} of {count_text(asked, 'task')}; those that had ended stay as they are"
    say(target, reply, text if is_part else f"Cancelled {count_text(asked, 'task')}")
    return DONE if reply.count else NOTHING


@click.command()
@click.argument("task", nargs=-1, metavar="TASK...")
@click.option("--failed", is_flag=True, help="All that failed.")
@click.option("--missing", is_flag=True, help="All whose row is no longer in its file.")
@click.option(
    "--other-code",
    is_flag=True,
    help="All that ran other code than the folder holds; new rows replace theirs.",
)
@asks_manager()
def requeue(target: Target, task: tuple[str, ...], failed: bool, missing: bool, other_code: bool) -> int:
    """Run tasks again that failed, were cancelled or stopped, whose row is gone, or that ran other code.

    TASK is a task id, such as exp1_vary_width_0_42.
    """
    if not (task or failed or missing or other_code):
        raise click.UsageError(
            "Name task ids, --failed, --missing or --other-code.", click.get_current_context()
        )
    request = Requeue(tasks=[*task], failed=failed, missing=missing, other_code=other_code)
    try:
        code = order(target, request, "Requeued {tasks}\n{message}")
    except ManagerUnreachable as error:
        command = click.get_current_context().find_root().info_name
        flag = " --retry-other-code" if other_code else "" if missing else " --retry-failed"
        raise ManagerUnreachable(f"{error}; or type `{command} run{flag}`") from None
    if code == NOTHING and not target.json:
        for task_id in task:
            print(f"{task_id}: {ask(target, Show(task=task_id), ShowReply).why}")
    return code


@click.command()
@asks_manager()
def pause(target: Target) -> int:
    """Assign nothing until `resume`; what runs goes on."""
    return order(target, Pause())


@click.command()
@asks_manager()
def resume(target: Target) -> int:
    """Assign tasks again after `pause`, also of phases that are held."""
    return order(target, Resume())


@click.command()
@click.argument("worker")
@asks_manager()
def drain(target: Target, worker: str) -> int:
    """Let a worker leave after its current task.

    WORKER is its name as `watch` shows it, such as gpu0 or box7/gpu0.
    """
    try:
        return order(target, Drain(worker_id=worker))
    except Refused as error:
        names = sorted(each.worker for each in ask(target, Workers(), WorkersReply).workers)
        known = f"the workers are {', '.join(names)}" if names else "no worker is connected"
        raise Refused(f"worker {worker}: {known}" if worker not in names else str(error)) from None


@click.command(context_settings={"ignore_unknown_options": True})  # -1 is a priority
@click.argument("phase")
@click.argument("priority", type=click.IntRange(-MAX_PRIORITY, MAX_PRIORITY), required=False, metavar="[N]")
@asks_manager()
def prioritize(target: Target, phase: str, priority: int | None) -> int:
    """Run the tasks of a phase before those of others; what runs goes on.

    N is its priority from now on, 0 by default: phases with a higher one come first. Without N it comes
    before all others. This holds, also after a restart, until the priority in the config file is edited.
    """
    return order(target, Prioritize(phase=phase, priority=priority))
