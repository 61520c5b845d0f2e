"""The command line of a manager: flags -> `ExperimentManager` -> exit code."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from distexp.cli.main import VERBS
from distexp.manager.manager import RESCAN_S, ExperimentManager
from distexp.sweep.source import DEFAULT_CONFIGS
from distexp.system.logs import is_terminal, log_to_console
from distexp.wire.messages import DEFAULT_PORT


def main(words: Sequence[str]) -> int:
    """Run a manager until it is stopped or done; on a terminal below a live view."""
    settings = parse(words)
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
    if settings.plain or not is_terminal():
        log_to_console()
        return manager.serve()
    from distexp.cli.screen import Screen  # rich: a tenth of a second, which no other start has to wait for

    with Screen() as screen, screen.following(manager.view):
        return manager.serve()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the settings of a manager to start."""
    parser = argparse.ArgumentParser(
        prog="experiment_manager.py",
        description="Expand configs into tasks and assign them to workers until every task has its row.",
        epilog=f"A running manager is asked and steered by verbs: {', '.join(VERBS)} (VERB --help)",
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
    parser.add_argument("--plain", action="store_true", help="lines only, also on a terminal")
    parser.add_argument("--on-finish", metavar="CMD", help="run this when nothing is left to do")
    parser.add_argument("--on-failure", metavar="CMD", help="run this for each task that has failed for good")
    parser.add_argument("--no-auth", action="store_true", help="do not ask for the folder's secret")
    return parser.parse_args(words)
