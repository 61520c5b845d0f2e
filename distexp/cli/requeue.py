"""`requeue TASK... [--failed] [--missing]`: run tasks again."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import order, parser_of
from distexp.wire.messages import Requeue


def main(words: Sequence[str]) -> int:
    """Give tasks that failed, were cancelled or have lost their row new budgets."""
    settings = parse(words)
    request = Requeue(tasks=settings.task, failed=settings.failed, missing=settings.missing)
    return order(settings, request, "Requeued {count} tasks")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return which tasks."""
    parser = parser_of("requeue", "Run tasks again that failed or were cancelled, or whose row is gone.")
    parser.add_argument("task", nargs="*", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    parser.add_argument("--failed", action="store_true", help="all that failed")
    parser.add_argument("--missing", action="store_true", help="all whose row is no longer in its file")
    settings = parser.parse_args(words)
    if not (settings.task or settings.failed or settings.missing):
        parser.error("found no task, expected task ids, --failed or --missing")
    return settings
