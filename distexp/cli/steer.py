"""The verbs that change a running sweep: `cancel`, `requeue`, `pause`, `resume`, `drain`."""

import argparse
from collections.abc import Sequence

from distexp.cli.connection import order, parser_of
from distexp.wire.messages import Cancel, Drain, Pause, Requeue, Resume


def cancel(words: Sequence[str]) -> int:
    """Cancel tasks that have not ended; all are known, or none is touched."""
    settings = parse_cancel(words)
    done = f"Cancelled {{count}} of {len(settings.task)} tasks (the others had ended)"
    return order(settings, Cancel(tasks=settings.task), done)


def parse_cancel(words: Sequence[str]) -> argparse.Namespace:
    """Return which tasks."""
    parser = parser_of("cancel", "End pending and running tasks without a result.")
    parser.add_argument("task", nargs="+", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    return parser.parse_args(words)


def requeue(words: Sequence[str]) -> int:
    """Give tasks that failed, were cancelled or have lost their row new budgets."""
    settings = parse_requeue(words)
    request = Requeue(tasks=settings.task, failed=settings.failed, missing=settings.missing)
    return order(settings, request, "Requeued {count} tasks")


def parse_requeue(words: Sequence[str]) -> argparse.Namespace:
    """Return which tasks."""
    parser = parser_of("requeue", "Run tasks again that failed or were cancelled, or whose row is gone.")
    parser.add_argument("task", nargs="*", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    parser.add_argument("--failed", action="store_true", help="all that failed")
    parser.add_argument("--missing", action="store_true", help="all whose row is no longer in its file")
    settings = parser.parse_args(words)
    if not (settings.task or settings.failed or settings.missing):
        parser.error("name task ids, --failed or --missing")
    return settings


def pause(words: Sequence[str]) -> int:
    """Have the manager assign nothing for now; what runs goes on."""
    return order(parse_pause(words), Pause())


def parse_pause(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to tell."""
    return parser_of("pause", "Assign nothing until `resume`; what runs goes on.").parse_args(words)


def resume(words: Sequence[str]) -> int:
    """Have the manager assign tasks again."""
    return order(parse_resume(words), Resume())


def parse_resume(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to tell."""
    return parser_of("resume", "Assign tasks again after `pause`.").parse_args(words)


def drain(words: Sequence[str]) -> int:
    """Let a worker leave after its current task."""
    settings = parse_drain(words)
    return order(settings, Drain(worker_id=settings.worker))


def parse_drain(words: Sequence[str]) -> argparse.Namespace:
    """Return which worker."""
    parser = parser_of("drain", "Let a worker leave after its current task.")
    parser.add_argument("worker", metavar="WORKER", help="as `watch` shows it, such as gpu0 or box7/gpu0")
    return parser.parse_args(words)
