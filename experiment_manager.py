"""Start the manager of a sweep, or ask a running one.

python experiment_manager.py                      # expand configs/, serve tasks on port 5000
python experiment_manager.py init                 # a first config and a first experiment
python experiment_manager.py plan                 # what would be done, and how long would it take?
python experiment_manager.py report               # an HTML file with charts and all rows
python experiment_manager.py status [host] [port] # how far is it?
python experiment_manager.py watch [host] [port]  # the same, live
python experiment_manager.py VERB --help          # cancel, drain, logs, pause, requeue, resume, show, tasks
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distexp.cli import (
    cancel,
    drain,
    init,
    logs,
    pause,
    plan,
    report,
    requeue,
    resume,
    show,
    status,
    tasks,
    watch,
)
from distexp.errors import DistexpError, Refused
from distexp.manager.manager import RESCAN_S, ExperimentManager
from distexp.sweep.source import DEFAULT_CONFIGS
from distexp.system.logs import is_terminal, log_to_console
from distexp.wire.messages import DEFAULT_PORT

__all__ = ["ExperimentManager"]

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "cancel": cancel.main,
    "drain": drain.main,
    "init": init.main,
    "logs": logs.main,
    "pause": pause.main,
    "plan": plan.main,
    "report": report.main,
    "requeue": requeue.main,
    "resume": resume.main,
    "show": show.main,
    "status": status.main,
    "tasks": tasks.main,
    "watch": watch.main,
}


def main(words: Sequence[str]) -> int:
    """Return the exit code: 0 all well, 1 a task failed or nothing was done, 2 no start or no answer."""
    try:
        if words and words[0] in VERBS:
            return VERBS[words[0]](words[1:])
        return serve(parse_serve(words))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except DistexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # in a verb that goes on until Ctrl+C; a manager takes it as a signal
        return 0


def parse_serve(words: Sequence[str]) -> argparse.Namespace:
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


def serve(settings: argparse.Namespace) -> int:
    """Run a manager until it is stopped or done."""
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
    from distexp.cli.screen import (
        Screen,  # rich takes a tenth of a second, which no other start has to wait for
    )

    with Screen() as screen, screen.following(manager.view):
        return manager.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
