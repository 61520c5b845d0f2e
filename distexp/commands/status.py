"""`status`: how far is the running manager? Opens `client`, `protocol`, `trust`, `workdir`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from distexp.client import Client
from distexp.protocol import Status, StatusReply
from distexp.trust import given_token
from distexp.workdir import Workdir


def main(words: Sequence[str]) -> int:
    """Print a running manager's answer."""
    settings = parse(words)
    with Client(Workdir(settings.workdir), settings.host, settings.port, token=given_token()) as client:
        reply = client.call(Status(), StatusReply)
    print(json.dumps(reply.status, indent=2))
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return whom to ask."""
    parser = argparse.ArgumentParser(
        prog="experiment_manager.py status", description="Ask a running manager."
    )
    parser.add_argument("host", nargs="?", help="default: localhost")
    parser.add_argument("port", nargs="?", type=int, help="default: that of this folder's manager, else 5000")
    parser.add_argument("--workdir", type=Path, default=Path(), help="default: .")
    return parser.parse_args(words)
