"""Serves the page of one working folder until it is stopped."""

import ipaddress
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from distexp.errors import UserError
from distexp.web.app import make_app
from distexp.web.guard import Access
from distexp.web.phases import FolderPhases
from distexp.web.report import Report
from distexp.web.source import Source

DEFAULT_PORT = 5050
STOP_S = 1  # for browsers that listen, once the server is to end
MAX_CONNECTIONS = 200  # of which each browser takes a few


def serve(
    root: Path,
    source: Source,
    phases: FolderPhases,
    *,
    host: str,
    port: int | None,
    report: Callable[[Path], Sequence[str]],
    announce: Callable[[str], None],
) -> None:
    """Serve the page until Ctrl+C.

    Args:
        root: The working folder.
        source: Answers.
        phases: Of its configs.
        host: Address to serve.
        port: To serve; 0 takes a free one, None the default one where that is free.
        report: Returns the command that writes a report into a file.
        announce: Called with the page's address, which holds its token.

    Raises:
        UserError: The address cannot be served.
    """
    listener = _listen(host, port)
    shown, at = _name_to_open(host), listener.getsockname()[1]
    is_local = _is_loopback(host)
    access = Access.make(at, [host] if is_local else [host, socket.getfqdn()])  # may ask a name server
    if not is_local:
        print(
            f"warning: --host {host}: the page is not encrypted; whoever listens on the network can read it "
            f"and its token. `ssh -L {at}:localhost:{at} THIS_HOST` with the default host is safe",
            file=sys.stderr,
        )
    announce(f"http://{shown}:{at}/?token={access.token}")
    server = _server_of(make_app(root, source, phases, access, Report(report)))
    try:
        server.run(sockets=[listener])
    finally:
        source.close()


def _server_of(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for each in (DEFAULT_PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, each), family=family)
        except (OSError, OverflowError) as error:
            problem = error
            if port is not None or not isinstance(error, OSError):
                break
    raise UserError(f"the page cannot be served at {host}, port {port}: {problem}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name_to_open(host: str) -> str:
    """Return the name under which a browser reaches a served address."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
