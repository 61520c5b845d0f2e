"""The address that a manager serves: whether other machines reach it, and which port it takes."""

import ipaddress
import socket
from collections.abc import Sequence

from distexp.errors import UserError
from distexp.wire.messages import DEFAULT_PORT
from distexp.workdir import Workdir


def is_reachable(host: str, *, auth: bool) -> bool:
    """Return whether other machines reach this address.

    Raises:
        UserError: It is no address, or they do, and no secret is asked for.
    """
    try:
        is_loopback = ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host}: {getattr(error, 'strerror', '') or error}, give an address of this host"
        ) from None
    if not is_loopback and not auth:
        raise UserError(
            f"--no-auth with --host {host}: other machines reach this address, and anybody there "
            "could take tasks and write results; leave out one of the two flags"
        )
    return not is_loopback


def ports_to_try(workdir: Workdir, wanted: int | None) -> Sequence[int]:
    """Return the ports that a manager tries, the first choice first; `wanted` None: it takes any."""
    if wanted is not None:
        return [wanted]
    return [*workdir.fallback_port(), DEFAULT_PORT, 0]  # workers may have been given the port of before
