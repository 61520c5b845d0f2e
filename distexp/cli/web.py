"""`web`: the live page of a sweep, in a browser."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import click

from distexp.cli.look import FolderFiles
from distexp.cli.options import FOLDER
from distexp.errors import DistexpError, UserError
from distexp.launcher.local_run import PAGE_AT
from distexp.system.long_work import LongWork
from distexp.web.phases import FolderPhases, KnownPhases
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import AnyReply, AnyRequest
from distexp.workdir import Workdir

NEEDED = ("starlette", "uvicorn")  # the extra `web`


@click.command()
@click.argument("manager_host", required=False, metavar="[HOST]")
@click.argument("manager_port", type=int, required=False, metavar="[PORT]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve the page at; 0.0.0.0 for all of this machine.",
)
@click.option(
    "--port", type=int, help="Port to serve the page at; 0 takes a free one. [default: 5050, else a free one]"
)
@click.option("--workdir", type=FOLDER, default=".", help="The sweep's folder.", show_default=True)
def main(
    manager_host: str | None, manager_port: int | None, host: str, port: int | None, workdir: Path
) -> int:
    """Serve a page that shows the sweep live, and steers it, until Ctrl+C.

    Open the address that it prints. HOST and PORT are the manager's, as for `watch`. While no manager
    runs, the page shows what configs, rows and journal say, and it finds the next one.
    """
    check_installed()
    from distexp.web.server import serve  # starlette and uvicorn, which may be missing until here
    from distexp.web.source import Source

    folder = Workdir(workdir.absolute())
    client = Client(folder, manager_host, manager_port, token=given_token())
    is_elsewhere = manager_host is not None or manager_port is not None
    phases = FolderPhases(folder)
    source = Source(client, None if is_elsewhere else _AtRest(folder, phases).answer)
    serve(
        folder.root,
        source,
        phases,
        host=host,
        port=port,
        report=lambda out: _report(folder, out),
        announce=lambda address: print(f"{PAGE_AT}{address}", flush=True),
    )
    return 0


def check_installed() -> None:
    """Raise what the page lacks.

    Raises:
        UserError: Names the packages.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"web: install what it needs: pip install {' '.join(missing)}")


class _AtRest:
    """Answers from the files of a folder, which are read again once they have changed."""

    def __init__(self, folder: Workdir, phases: FolderPhases) -> None:
        self._folder, self._phases = folder, phases
        self._files: FolderFiles | None = None
        self._known: KnownPhases | None = None
        self._seen = list[tuple[str, int]]()  # files of rows, and when they were last written
        self._journal = list[tuple[str, int]]()  # the same of the journal, once it was read: that touches it

    def answer(self, request: AnyRequest, unreachable: DistexpError) -> AnyReply:
        """Return the reply.

        Raises:
            DistexpError: `unreachable` where a manager holds the folder, or what is wrong with its files.
        """
        known, journal = self._phases.read(), [self._folder.journal]
        now = _written([self._folder.info, *known.results_files()])
        is_new = known is not self._known or now != self._seen or _written(journal) != self._journal
        if self._files is None or is_new:
            self._files = FolderFiles.of(self._folder, unreachable, LongWork())
            self._known, self._seen, self._journal = known, now, _written(journal)
        return self._files.handle(request)


def _written(files: Iterable[Path]) -> list[tuple[str, int]]:
    """Return those that exist, and when each was last written."""
    found = []
    for path in files:
        with suppress(OSError):
            found.append((str(path), path.stat().st_mtime_ns))
    return found


def _report(folder: Workdir, out: Path) -> list[str]:
    """Return the command that writes a report of the configs that the manager has read."""
    return [sys.executable, "-m", "distexp", "report", "--workdir", str(folder.root), "--out", str(out)]
