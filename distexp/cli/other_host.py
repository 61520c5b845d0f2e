"""Which other host serves a working folder that several share, such as the node of a cluster."""

from pathlib import Path

from distexp.errors import DistexpError
from distexp.manager.network_folder import host_at_work
from distexp.system.long_work import LongWork
from distexp.system.process import host_name
from distexp.wire.auth import given_token
from distexp.wire.client import Client
from distexp.wire.messages import Status, StatusReply
from distexp.workdir import Workdir


def other_host(root: Path) -> str:
    """Return the other host whose manager answers, or shows by its pulse that it runs; empty: there is none.

    On a network drive a manager that was killed elsewhere is looked for during 20 s.
    """
    workdir = Workdir(root)
    name = str(workdir.read_info().get("name", ""))
    if name not in ("", host_name()) and _answers(workdir):
        return name
    with LongWork() as work:
        work.begin("Looking whether a manager runs on another host")
        return host_at_work(workdir)


def _answers(workdir: Workdir) -> bool:
    try:
        with Client(workdir, token=given_token()) as client:
            client.call(Status(), StatusReply)
    except DistexpError:
        return False
    return True
