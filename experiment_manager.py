"""Start the manager of a sweep, or ask a running one.

python experiment_manager.py                      # expand configs/, serve tasks on port 5000
python experiment_manager.py init                 # a first config and a first experiment
python experiment_manager.py plan                 # what would be done, and how long would it take?
python experiment_manager.py report               # an HTML file with charts and all rows
python experiment_manager.py status [host] [port] # how far is it?
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distexp.commands import init, plan, report, status
from distexp.errors import DistexpError
from distexp.logs import log_to_console
from distexp.manager import RESCAN_S, ExperimentManager
from distexp.protocol import DEFAULT_PORT
from distexp.sweep import DEFAULT_CONFIGS

__all__ = ["ExperimentManager"]

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "init": init.main,
    "plan": plan.main,
    "report": report.main,
    "status": status.main,
}


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0 all well, 1 a task failed, 2 it could not start or be asked."""
    try:
        if words and words[0] in VERBS:
            return VERBS[words[0]](words[1:])
        return serve(parse_serve(words))
    except DistexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse_serve(words: Sequence[str]) -> argparse.Namespace:
    """Return the settings of a manager to start."""
    parser = argparse.ArgumentParser(
        prog="experiment_manager.py",
        description="Expand configs into tasks and lend them to workers until every task has its row.",
        epilog="`experiment_manager.py status [host] [port]` asks a running manager how far it is.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to serve (default: %(default)s)")
    parser.add_argument(
        "--configs", default=DEFAULT_CONFIGS, metavar="GLOB", help="config files (%(default)s)"
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path(), help="folder of configs and results (default: .)"
    )
    parser.add_argument(
        "--rescan-s",
        type=float,
        default=RESCAN_S,
        metavar="S",
        help="seconds between two looks at results and configs (default: %(default)g)",
    )
    parser.add_argument("--exit-when-done", action="store_true", help="end once every task has ended")
    parser.add_argument("--retry-failed", action="store_true", help="run tasks again that failed earlier")
    parser.add_argument("--on-finish", metavar="CMD", help="run this when nothing is left to do")
    parser.add_argument("--on-failure", metavar="CMD", help="run this for each task that has failed for good")
    parser.add_argument("--no-auth", action="store_true", help="do not ask for the folder's secret")
    return parser.parse_args(words)


def serve(settings: argparse.Namespace) -> int:
    """Run a manager until it is stopped or done."""
    log_to_console()
    manager = ExperimentManager(
        settings.host,
        settings.port,
        workdir=settings.workdir,
        configs=settings.configs,
        rescan_s=settings.rescan_s,
        auth=not settings.no_auth,
        exit_when_done=settings.exit_when_done,
        retry_failed=settings.retry_failed,
        on_finish=settings.on_finish,
        on_failure=settings.on_failure,
    )
    manager.stop_on_signals()
    return manager.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
