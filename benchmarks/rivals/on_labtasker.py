"""`on_labtasker.py TASKS`: no-op tasks per second of two of its workers and its server on a Unix socket."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKERS = 2
PATIENCE_S = 100.0
SKIPPED = 5  # while the second worker starts
WORKER = """
import time, labtasker
@labtasker.loop(idle_timeout=1)
def run():
    with open("moments", "a") as file:
        file.write(f"{time.time_ns()}\\n")
run()
"""


def main(tasks: int) -> float:
    """Submit all, then start the workers; they leave when they find no more."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        path = Path(folder, "server.sock")
        os.environ.update(LABTASKER_ROOT=folder, LABTASKER_SOCKET=str(path), LABTASKER_QUEUE="noop")
        log = opened.enter_context(open(Path(folder, "log"), "ab"))

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
            opened.callback(process.wait)
            opened.callback(process.terminate)
            return process

        server = str(Path(sys.executable).with_name("labtasker-server"))
        start(server, "serve", "--connection", "socket", "--socket", str(path), "--labtasker-root", folder)
        until_s = time.monotonic() + PATIENCE_S
        while not path.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        _submit(tasks)
        for worker in [start(sys.executable, "-c", WORKER) for _ in range(WORKERS)]:
            worker.wait(PATIENCE_S)
        began_ns = sorted(map(int, Path(folder, "moments").read_text(encoding="utf-8").split()))
    if len(began_ns) != tasks:
        raise AssertionError(f"{len(began_ns)} of {tasks} tasks")
    return 1e9 * (tasks - 1 - SKIPPED) / (began_ns[-1] - began_ns[SKIPPED])


def _submit(tasks: int) -> None:
    import labtasker  # reads the environment that `main` has set

    labtasker.create_queue("noop")
    for _ in range(tasks):
        labtasker.submit_task({})


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
