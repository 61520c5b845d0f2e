"""What TLS costs: durable leases handed out per second, in TLS and in the clear, by one manager."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Figure, times_at_least
from benchmarks.harness import ROUNDS, folder, manager
from distexp.wire.auth import Token, client_context, read_token
from distexp.workdir import Workdir

CONNECTIONS = 16
REQUESTS = 3000  # of each language and round, over all connections
BAR = 0.8  # a fifth of the rate of plain JSON may go


def measure() -> list[Figure]:
    """Return the rate in TLS beside that in the clear, in alternating rounds."""
    axis = list(range(2 * ROUNDS * REQUESTS))
    config = (
        f"defaults: {{command: 'true {{args}}', output_dir: results}}\ngrid: {{combinations: [a: {axis}]}}\n"
    )
    plain, tls = [], []
    with folder(config) as workdir, manager(workdir):
        token = read_token(workdir)
        assert token is not None, "a manager that serves has made one"
        for _ in range(ROUNDS):
            plain.append(_rate(workdir, token, in_tls=False))
            tls.append(_rate(workdir, token, in_tls=True))
    name = f"durable leases in TLS, {CONNECTIONS} connections"
    return [Figure(name, "/s", tls, times_at_least(BAR), "plain JSON", plain)]


def _rate(workdir: Workdir, token: Token, *, in_tls: bool) -> float:
    connections = [_connect(workdir, in_tls) for _ in range(CONNECTIONS)]
    line = json.dumps({"type": "request_task", "worker_id": "bench", "token": token.secret}).encode() + b"\n"
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        began_s = time.perf_counter()
        assigned = sum(pool.map(lambda sock: _ask(sock, line, REQUESTS // CONNECTIONS), connections))
        took_s = time.perf_counter() - began_s
    for sock in connections:
        sock.close()
    return assigned / took_s


def _connect(workdir: Workdir, in_tls: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", int(workdir.read_info()["port"])))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client_context().wrap_socket(sock) if in_tls else sock


def _ask(sock: socket.socket, line: bytes, times: int) -> int:
    """Ask for a task so often, and return how many were assigned."""
    assigned = 0
    for _ in range(times):
        sock.sendall(line)
        reply = b""
        while not reply.endswith(b"\n"):
            reply += sock.recv(65536)
        assigned += reply.startswith(b'{"type":"task"')
    return assigned
