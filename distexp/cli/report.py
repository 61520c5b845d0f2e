"""`report`: one HTML file to look at a sweep with."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from distexp.errors import AlreadyRunning, DistexpError, UserError
from distexp.queue.journal import Journal
from distexp.reporting.aggregate import make_report
from distexp.reporting.html import make_page
from distexp.results.audit import audit
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.sweep.source import DEFAULT_CONFIGS
from distexp.system.files import replace_durably
from distexp.system.gc import set_aside
from distexp.system.process import host_name
from distexp.task import TaskRecord
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Tasks, TasksReply
from distexp.workdir import Workdir

OUT_FILE = "report.html"
MAX_PAGES = 20  # of failures that a running manager is asked for: a report of thousands is not read


@set_aside()
def main(words: Sequence[str]) -> int:
    """Write the report and say where it is.

    Raises:
        UserError: A config or `--metric` is wrong, or the file cannot be written.
    """
    settings = parse(words)
    workdir = Workdir(settings.workdir.absolute())
    phases = load_configs([Path(settings.configs)], workdir.root)
    tasks = expand(phases)
    report = make_report(
        phases, tasks, audit(workdir.root, tasks), known_failures(workdir), metric=settings.metric
    )
    made = f"{workdir.root} on {host_name()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    out: Path = settings.out or workdir.root / OUT_FILE
    try:
        replace_durably(out, make_page(report, title=workdir.root.name, made=made).encode(), 0o644)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}, expected a file to write the report to") from None
    print(f"Wrote {out}: {report['totals']['complete']} of {report['totals']['tasks']} tasks complete")
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what to report on, and where."""
    parser = argparse.ArgumentParser(
        prog="experiment_manager.py report",
        description="Write one HTML file that needs no network: charts with intervals over seeds, heat maps, "
        "the best combinations, failures, time, and a table of all rows to sort and filter.",
        epilog="exit code: 0 done, 2 wrong words or files",
    )
    parser.add_argument("--metric", help="what is shown first (default: the first one of the rows)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {OUT_FILE} in the working folder")
    parser.add_argument(
        "--configs", default=DEFAULT_CONFIGS, metavar="GLOB", help="config files (%(default)s)"
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path(), help="folder of configs and results (default: .)"
    )
    return parser.parse_args(words)


def known_failures(workdir: Workdir) -> list[TaskRecord]:
    """Return `failures_of`; where they cannot be had, say so: the report is made all the same."""
    try:
        return failures_of(workdir)
    except DistexpError as error:
        print(f"warning: the report lists no failures: {error}", file=sys.stderr)
        return []


def failures_of(workdir: Workdir) -> list[TaskRecord]:
    """Return what the journal holds of every task, or the running manager of those that have failed.

    The journal is its manager's alone, so while one runs, it is asked.
    """
    if not workdir.journal.exists():
        return []
    try:
        lock = workdir.hold()
    except AlreadyRunning:
        return [record for state in ("failed", "cancelled") for record in _asked(workdir, state)]
    try:
        journal = Journal(workdir.journal)
        try:
            return journal.load()
        finally:
            journal.close()
    finally:
        lock.release()


def _asked(workdir: Workdir, state: str) -> list[TaskRecord]:
    found: list[TaskRecord] = []
    with Client(workdir, token=given_token()) as client:
        for _ in range(MAX_PAGES):
            reply = client.call(Tasks(state=state, offset=len(found)), TasksReply)
            found += [
                TaskRecord(
                    key=task.key,
                    state=state,
                    attempts=task.attempts,
                    cause=task.cause,
                    error=task.error,
                )
                for task in reply.tasks
            ]
            if not reply.tasks or len(found) >= reply.total:
                break
    return found
