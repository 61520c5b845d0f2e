"""A worker that computes nothing: it speaks as a real one on another host does, in TLS with the token."""

import selectors
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import pool
from distexp import __version__
from distexp.task import Provenance, Scalar
from distexp.wire.auth import client_context, read_token, secure
from distexp.wire.client import RECEIVE_BYTES
from distexp.wire.framing import decode_reply, encode
from distexp.wire.messages import (
    Ack,
    AnyReply,
    AnyRequest,
    ErrorReply,
    Heartbeat,
    RequestTask,
    TaskComplete,
    TaskReply,
)
from distexp.workdir import Workdir

HEARTBEAT_S = 15.0
RUN = Provenance(host="node-17", device="NVIDIA H100", started_utc="2026-11-24T09:56:38Z", duration_s=0.95)
RESULT: dict[str, Scalar] = {"test_acc": 0.9375}


class Peer:
    """One connection. A request is sent with one method and its reply read with another, so that one
    thread can serve many.
    """

    def __init__(self, workdir: Workdir, name: str) -> None:
        """Connect to the folder's manager."""
        token = read_token(workdir)
        assert token is not None, "a manager that serves has made one"
        port = int(workdir.read_info()["port"])
        plain = socket.create_connection(("127.0.0.1", port), 60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = secure(plain, client_context(), token, "manager")
        self.task: TaskReply | None = None
        self._about: dict[str, Any] = {
            "token": token.secret,
            "version": __version__,
            "worker_id": name,
            "heartbeat_s": HEARTBEAT_S,
            "instance": f"{name}-{time.monotonic_ns()}",
            "host": "node-17",
            "device": "NVIDIA H100",
            "machine": "another",
        }

    def request(self, wait_s: float = 0.0) -> None:
        """Ask for a task, and wait so long for one."""
        self._send(RequestTask(**self._about, wait_s=wait_s))

    def complete(self, *, wants_next: bool) -> None:
        """Hand over the result of the task in hand, and ask for the next in the same round trip."""
        assert self.task is not None, "a task is in hand"
        self._send(
            TaskComplete(
                **self._about,
                lease_id=self.task.lease_id,
                key=self.task.key,
                task_id=self.task.task_id,
                result=RESULT,
                run=RUN,
                sweep_id=self.task.sweep_id,
                next=wants_next,
            )
        )

    def heartbeat(self) -> None:
        """Say that the task in hand goes on."""
        assert self.task is not None, "a task is in hand"
        self._send(Heartbeat(**self._about, lease_id=self.task.lease_id, key=self.task.key))

    def take_reply(self) -> AnyReply:
        """Wait for the reply, and keep the task in it.

        Raises:
            AssertionError: It is a refusal, which must not pass for work done.
        """
        line = b""
        while not line.endswith(b"\n"):
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the connection was closed before a reply came")
            line += data
        reply = decode_reply(line)
        assert not isinstance(reply, ErrorReply), reply.error
        task = reply.next if isinstance(reply, Ack) else reply
        if isinstance(task, TaskReply):
            self.task = task
        return reply

    def _send(self, message: AnyRequest) -> None:
        self.socket.sendall(encode(message))


def drive(root: Path, first: int, count: int, seconds: float) -> list[float]:
    """Complete tasks over `count` connections, one in flight each; return when each was acknowledged."""
    workdir = Workdir(root)
    acknowledged: list[float] = []
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        peers = [Peer(workdir, f"gpu{first + index}") for index in range(count)]
        for peer in peers:
            opened.enter_context(peer.socket)
            peer.request()
            peer.take_reply()
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        until_s = time.monotonic() + seconds
        for peer in peers:
            peer.complete(wants_next=True)
        while not acknowledged or time.monotonic() < until_s:
            for ready, _ in selector.select():
                ready.data.take_reply()
                acknowledged.append(time.monotonic())
                ready.data.complete(wants_next=True)
        for peer in peers:
            peer.take_reply()
            peer.complete(wants_next=False)
            peer.take_reply()
    return acknowledged


def rate(workdir: Workdir, *, connections: int, processes: int, seconds: float) -> float:
    """Return the tasks completed per second while all connections were at work."""
    each = connections // processes
    with pool(processes) as executor:
        drives = [
            executor.submit(drive, workdir.root, index * each, each, seconds) for index in range(processes)
        ]
        times = [future.result() for future in drives]
    begin_s, end_s = max(found[0] for found in times), min(found[-1] for found in times)
    return sum(begin_s < at_s <= end_s for found in times for at_s in found) / (end_s - begin_s)
