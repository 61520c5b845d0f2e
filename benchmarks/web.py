"""The live page of a sweep of 100,000 tasks and 100 busy workers, one of which finishes a task each second.

First paint is what Chromium calls so. An update is all that its main thread computes for a second's news. The
manager's share is what the page, scrolled to its table of tasks, adds to the manager's processor time.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from benchmarks.browser import CHROMIUM, Page, browser
from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS, await_true, environment, folder, manager
from distexp.wire.client import Client
from distexp.wire.messages import (
    Ack,
    GpuUse,
    Heartbeat,
    HeartbeatReply,
    Progress,
    RequestTask,
    TaskComplete,
    TaskReply,
)
from distexp.workdir import Workdir

WORKERS, HEARTBEAT_S = 100, 15.0
PAINT_MS, UPDATE_MS, SHARE_PCT = 1000.0, 50.0, 2.0
SETTLE_S = 3.0  # after the first tasks are shown
WINDOW_S = 20.0  # in which processor time is counted
CONFIG = f"""
defaults: {{experiment: "mine:run", output_dir: "./results_{{phase}}"}}
seeds: {list(range(10))}
exp1:
  combinations:
    - width: {list(range(100))}
    - lr: {{geomspace: [1e-4, 1, 100]}}
"""


def measure() -> list[Figure]:
    """Return first paint, an update, and the manager's share; nothing without Chromium."""
    if CHROMIUM is None:
        return []
    with folder(CONFIG) as workdir, manager(workdir) as process, ExitStack() as stack:
        stack.enter_context(_working(workdir))
        address = stack.enter_context(page_of(workdir))
        page = stack.enter_context(browser(workdir.root / "profile"))
        paint_ms, table_ms, top_ms, update_ms, share_pct = zip(
            *[_round(page, address, psutil.Process(process.pid)) for _ in range(ROUNDS)], strict=True
        )
    of = f"live page, {WORKERS} workers, 100,000 tasks"
    return [
        Figure(f"{of}: first paint", "ms", paint_ms, at_most(PAINT_MS)),
        Figure(f"{of}: first tasks shown", "ms", table_ms),
        Figure(f"{of}: main thread for an update, at its top", "ms", top_ms, at_most(UPDATE_MS)),
        Figure(f"{of}: main thread for an update, at its tasks", "ms", update_ms, at_most(UPDATE_MS)),
        Figure(f"{of}: manager's share of a core", "%", share_pct, at_most(SHARE_PCT)),
    ]


def _round(page: Page, address: str, process: psutil.Process) -> tuple[float, float, float, float, float]:
    page.open("about:blank")
    alone_s = _busy_s(process)
    page.open(address)
    shown = "document.querySelector('#tasks-table td') ? performance.now() : 0"
    found = 0.0
    while not found:
        found = page.ask(shown)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
    await_true(lambda: bool(page.ask(paint)), "first paint")
    paint_ms = page.ask(paint)
    time.sleep(SETTLE_S)
    top_ms, _ = _watched(page, process)
    page.ask("document.querySelector('#tasks').scrollIntoView()")
    update_ms, watched_s = _watched(page, process)
    return paint_ms, found, top_ms, update_ms, 100 * max(0.0, watched_s - alone_s) / WINDOW_S


def _watched(page: Page, process: psutil.Process) -> tuple[float, float]:
    """Return what an update takes of the main thread, in ms, and the manager's processor time in a window."""
    shown = "Number(document.documentElement.dataset.ready)"
    updates, main_s = page.ask(shown), _main_thread_s(page)
    busy_s = _busy_s(process)
    return 1000 * (_main_thread_s(page) - main_s) / (page.ask(shown) - updates), busy_s


def _busy_s(process: psutil.Process) -> float:
    """Return how much processor time a process takes in a window."""
    before = process.cpu_times()
    time.sleep(WINDOW_S)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system


def _main_thread_s(page: Page) -> float:
    page.call("Performance.enable", timeDomain="threadTicks")  # of a processor, not of a busy machine's clock
    metrics = page.call("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


@contextmanager
def page_of(workdir: Workdir) -> Iterator[str]:
    """Serve the live page of a folder, and yield its address."""
    output = workdir.root / "web.out"
    command = [sys.executable, "-m", "distexp", "web", "--port", "0", "--workdir", str(workdir.root)]
    with open(output, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
    try:
        await_true(lambda: b"token=" in output.read_bytes(), "address of the page")
        yield output.read_text(encoding="utf-8").partition("Live page: ")[2].split()[0]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _working(workdir: Workdir) -> Iterator[None]:
    """Let workers run tasks until the block ends: all send heartbeats, one finishes a task each second."""
    clients, held, is_over = list[Client](), dict[int, TaskReply](), threading.Event()
    for number in range(WORKERS):
        clients.append(Client(workdir))
        held[number] = clients[-1].call(RequestTask(**_identity(number)), TaskReply)

    def work() -> None:
        for beat in range(sys.maxsize):
            if is_over.wait(HEARTBEAT_S / WORKERS):
                return
            number, task = beat % WORKERS, held[beat % WORKERS]
            about = _identity(number) | {"lease_id": task.lease_id, "key": task.key}
            if beat % round(WORKERS / HEARTBEAT_S) == 0:
                done = TaskComplete(**about, result={"val_acc": 0.9}, sweep_id=task.sweep_id, next=True)
                reply = clients[number].call(done, Ack).next
                assert isinstance(reply, TaskReply)
                held[number] = reply
                continue
            progress = Progress(
                step=beat // WORKERS + 1, total=300, metrics={"loss": 1 / (beat + 1), "acc": 0.9}
            )
            gpu = GpuUse(used_mib=31_744, free_mib=49_152, utilization_pct=beat % 101)
            clients[number].call(Heartbeat(**about, progress=progress, gpu=gpu), HeartbeatReply)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        is_over.set()
        worker.join()
        for client in clients:
            client.close()


def _identity(number: int) -> dict[str, Any]:
    return {
        "worker_id": f"gpu{number % 8}",
        "instance": str(number),
        "host": f"box{number // 8}",
        "device": "NVIDIA H100 80GB HBM3",
        "memory_mib": 81_559,
        "heartbeat_s": HEARTBEAT_S,
    }
