"""What the live view of 100 busy workers costs, in a sweep of 100,000 tasks, on a terminal of 200 by 50.

A minute of it is played: a view a second, drawn, and a forecast made anew as often as the product does.
"""

import io
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS
from distexp.cli.render import render
from distexp.cli.screen import REFRESH_S
from distexp.manager.admin import Admin
from distexp.manager.forecast import FORECAST_S, Forecaster
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import WorkerRegistry
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.task import make_task
from distexp.wire import messages as wire
from distexp.workdir import Workdir

TASKS, WORKERS, DONE_EACH = 100_000, 100, 10
MINUTE_S = 60.0
BAR_PCT = 2.0


def measure() -> list[Figure]:
    """Return the share of a core that the view takes."""
    now_s = [1000.0]
    admin = _busy(now_s)
    shares = [100 * _minute(admin, now_s) / MINUTE_S for _ in range(ROUNDS)]
    return [
        Figure(f"live view, {WORKERS} workers, {TASKS:,} tasks, of one core", "%", shares, at_most(BAR_PCT))
    ]


def _busy(now_s: list[float]) -> Admin:
    """Return the admin of a sweep in which each worker has completed tasks and runs one."""
    tasks = [
        make_task(
            task_id=f"p_{number}_{seed}",
            phase="p",
            config={"width": number % 100, "lr": number // 100, "depth": 3},
            seed=seed,
            output_dir="r",
            axes=("width", "lr"),
        )
        for number in range(TASKS // 10)
        for seed in range(10)
    ]
    queue = TaskQueue(lambda: now_s[0], lambda record: None)
    queue.sync(tasks)
    registry = WorkerRegistry(
        host="here", machine="", nonce="", task_lock=Workdir(Path()).task_lock, clock=lambda: now_s[0]
    )
    sweep = SweepState(Workdir(Path()), queue, ResultsStore(Path(), lambda scan: None), registry)
    for turn in range(DONE_EACH + 1):
        for number in range(WORKERS):
            _work(queue, registry, sweep.forecaster, number, is_last=turn == DONE_EACH)
            now_s[0] += 0.1
    return Admin(sweep)


def _work(
    queue: TaskQueue, registry: WorkerRegistry, forecaster: Forecaster, number: int, *, is_last: bool
) -> None:
    about: dict[str, Any] = {
        "worker_id": f"gpu{number % 8}",
        "instance": str(number),
        "host": f"box{number // 8}",
    }
    device: dict[str, Any] = {"device": "NVIDIA H100 80GB HBM3", "heartbeat_s": 15.0}
    lease = queue.assign(registry.register(wire.RequestTask(**about, **device), number).info)
    assert lease is not None
    progress = wire.Progress(step=30, total=300, metrics={"loss": 0.123456, "test_acc": 0.91})
    gpu = wire.GpuUse(used_mib=31_744, free_mib=49_152, utilization_pct=97)
    heartbeat = wire.Heartbeat(
        **about, lease_id=lease.lease_id, key=lease.task.key, progress=progress, gpu=gpu
    )
    registry.register(heartbeat, number)
    if not is_last and (before := queue.complete(lease.task.key)) is not None:
        assert before.lease is not None
        forecaster.completed(before.lease)


def _minute(admin: Admin, now_s: list[float]) -> float:
    """Return the time that a minute of views takes this process, in seconds."""
    console = Console(file=io.StringIO(), width=200, height=50, force_terminal=True, soft_wrap=True)
    began_s = time.process_time()
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        for _ in range(int(MINUTE_S / REFRESH_S)):
            now_s[0] += REFRESH_S  # so a forecast is due each FORECAST_S
            live.update(render(admin.view(), 200, 49), refresh=True)
    assert REFRESH_S < FORECAST_S < MINUTE_S
    return time.process_time() - began_s
