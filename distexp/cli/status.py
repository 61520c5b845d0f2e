"""`status`: how far is the running manager?"""

import argparse
import json
from collections.abc import Sequence

from distexp.cli.asking import DONE, ask, parser_of, say
from distexp.wire.messages import Status, StatusReply


def main(words: Sequence[str]) -> int:
    """Print a running manager's answer."""
    settings = parse(words)
    reply = ask(settings, Status(), StatusReply)
    say(settings, reply, json.dumps(reply.status, indent=2))
    return DONE


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to ask."""
    return parser_of("status", "Ask a running manager how far it is.", is_placed=True).parse_args(words)
