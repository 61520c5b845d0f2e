"""`pause`: assign nothing for now."""

import argparse
from collections.abc import Sequence

from distexp.cli.asking import order, parser_of
from distexp.wire.messages import Pause


def main(words: Sequence[str]) -> int:
    """Tell the manager."""
    return order(parse(words), Pause())


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to tell."""
    return parser_of("pause", "Assign nothing until `resume`; what runs goes on.").parse_args(words)
