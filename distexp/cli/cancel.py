"""`cancel TASK...`: end tasks without a result."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import order, parser_of
from distexp.wire.messages import Cancel


def main(words: Sequence[str]) -> int:
    """Cancel those that have not ended; all are known, or none is touched."""
    settings = parse(words)
    done = f"Cancelled {{count}} of {len(settings.task)} tasks (the others had ended)"
    return order(settings, Cancel(tasks=settings.task), done)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return which tasks."""
    parser = parser_of("cancel", "End pending and running tasks without a result.")
    parser.add_argument("task", nargs="+", metavar="TASK", help="task id, such as exp1_vary_width_0_42")
    return parser.parse_args(words)
