"""`drain WORKER`: let a worker leave after its current task."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import order, parser_of
from distexp.wire.messages import Drain


def main(words: Sequence[str]) -> int:
    """Tell the manager, which tells the worker."""
    settings = parse(words)
    return order(settings, Drain(worker_id=settings.worker))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return which worker."""
    parser = parser_of("drain", "Let a worker leave after its current task.")
    parser.add_argument("worker", metavar="WORKER", help="as `watch` shows it, such as gpu0 or box7/gpu0")
    return parser.parse_args(words)
