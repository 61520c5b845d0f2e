"""`on_rq.py TASKS [simple] [socket]`: no-op jobs per second of two workers; Redis fsyncs each command.

They fork per job, or as `simple` run all jobs in their own process. They reach Redis as workers on other
machines have to: by TCP, in TLS and with a password; with `socket` by a Unix socket, without either.
"""

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from redis import Redis, RedisError
from rq import Queue

WORKERS = 2
PATIENCE_S = 100.0
SKIPPED = 10  # while the second worker starts


def main(tasks: int, words: Sequence[str] = ()) -> float:
    """Queue all, then let two workers of RQ's command line take them, as its pages say."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        url = start_redis(opened, folder, "socket" in words)
        connection = Redis.from_url(url)
        queue = Queue(connection=connection)
        jobs = [queue.enqueue(time.time_ns) for _ in range(tasks)]
        for _ in range(WORKERS):
            rq = str(Path(sys.executable).with_name("rq"))
            kind = ["--worker-class", "rq.worker.SimpleWorker"] if "simple" in words else []
            start(opened, folder, rq, "worker", "--burst", "--url", url, "--quiet", *kind)
        await_true(lambda: queue.finished_job_registry.get_job_count(cleanup=False) == tasks)
        began_ns = sorted(int(job.return_value()) for job in jobs)
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


def start_redis(opened: contextlib.ExitStack, folder: str, has_socket: bool) -> str:
    """Start a Redis that fsyncs each command; return the URL of its Unix socket, or that for TLS."""
    path, key, certificate = (str(Path(folder, name)) for name in ("redis.sock", "key.pem", "ca.pem"))
    options = ["--appendonly", "yes", "--appendfsync", "always", "--dir", folder, "--save", "", "--port", "0"]
    if has_socket:
        url = f"unix://{path}"
        options += ["--unixsocket", path]
    else:
        new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
        words = ["openssl", *new.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key]
        subprocess.run([*words, "-out", certificate], check=True, capture_output=True)
        secret, port = secrets.token_hex(16), _free_port()
        url = f"rediss://:{secret}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}&ssl_cert_reqs=required"
        tls = {"port": port, "cert-file": certificate, "key-file": key, "auth-clients": "no"}
        options += [word for name, value in tls.items() for word in (f"--tls-{name}", str(value))]
        options += ["--requirepass", secret]
    start(opened, folder, "redis-server", *options)
    await_true(lambda: _answers(url))
    return url


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return bool(Redis.from_url(url).ping())
    except RedisError:
        return False


def start(opened: contextlib.ExitStack, folder: str, *words: str) -> None:
    """Start a program that ends with `opened`."""
    with open(Path(folder, "log"), "ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    opened.callback(process.wait)
    opened.callback(process.terminate)


def await_true(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError("the jobs do not end")
        time.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]), sys.argv[2:])}))
