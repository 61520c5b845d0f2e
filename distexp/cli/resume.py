"""`resume`: assign tasks again."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import order, parser_of
from distexp.wire.messages import Resume


def main(words: Sequence[str]) -> int:
    """Tell the manager."""
    return order(parse(words), Resume())


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to tell."""
    return parser_of("resume", "Assign tasks again after `pause`.").parse_args(words)
