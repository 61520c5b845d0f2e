"""The command line of a manager: flags to `ExperimentManager` and exit code."""

import os
import signal
import sys
from types import FrameType
from typing import Any

import click

from distexp.cli.flag_types import Number
from distexp.cli.options import CONFIGS, WORKDIR
from distexp.cluster import slurm
from distexp.launcher.local_run import RELAY
from distexp.manager.manager import RESCAN_S, ExperimentManager
from distexp.system.logs import is_terminal, log_to_console
from distexp.wire.messages import DEFAULT_PORT


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve; 0.0.0.0 for all of this machine.",
)
@click.option(
    "--port",
    type=int,
    help="Port to serve; 0 takes a free one. "
    f"[default: {DEFAULT_PORT}, else a free one; after a restart the same]",
)
@CONFIGS
@WORKDIR
@click.option(
    "--rescan-s",
    type=Number(),
    default=RESCAN_S,
    show_default=True,
    metavar="S",
    help="Seconds between two looks at results and configs.",
)
@click.option(
    "--exit-when-done", is_flag=True, help="End once every task has ended; exit code 1 if one failed."
)
@click.option("--retry-failed", is_flag=True, help="Run tasks again that failed under an earlier manager.")
@click.option(
    "--retry-other-code", is_flag=True, help="Run finished tasks again that ran other code than is there now."
)
@click.option("--keep-going", is_flag=True, help="Hold no phase, though all its tasks fail.")
@click.option(
    "--freeze-code", is_flag=True, help="Run tasks from a copy of the code as it is now; edits do no harm."
)
@click.option("--plain", is_flag=True, help="Lines only, also on a terminal.")
@click.option("--on-finish", metavar="CMD", help="Run this when nothing is left to do.")
@click.option("--on-failure", metavar="CMD", help="Run this for each task that has failed for good.")
@click.option(
    "--requeue",
    is_flag=True,
    help="In a job of Slurm: put it back in line when its time ends before the sweep does.",
)
@click.option("--has-all-workers", is_flag=True, hidden=True)  # `run` says so of the manager it starts
@click.option("--no-auth", is_flag=True, help="Do not ask for the folder's secret; loopback only.")
def main(*, host: str, port: int | None, no_auth: bool, plain: bool, requeue: bool, **flags: Any) -> int:
    """Expand configs into tasks and assign them to workers until every task has its row.

    On a terminal the log scrolls above a live view. Ctrl+C stops the manager; workers outlive a
    restart of it.
    """
    manager = ExperimentManager(host, port, auth=not no_auth, **flags)
    manager.stop_on_signals()
    if plain or not is_terminal():
        log_to_console()
        return serve_job(manager) if requeue else manager.serve()
    from distexp.cli.screen import Screen  # rich: a tenth of a second, which no other start has to wait for

    with Screen() as screen, screen.following(manager.view, manager.starting):
        if os.environ.pop(RELAY, ""):
            screen.relay(sys.stdin.fileno())
        return manager.serve()


def serve_job(manager: ExperimentManager) -> int:
    """Serve as a job of Slurm, which is put back in line when its warning came first."""
    warnings = list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        warnings.append(number)
        manager.request_stop()

    signal.signal(getattr(signal, slurm.WARNING_SIGNAL), stop)
    code = manager.serve()
    if warnings:
        slurm.requeue()
    return code
