"""A manager that was killed in the middle of a large sweep serves again within 5 s.

The folder is what a killed manager leaves: 100,000 tasks, half of them with their rows, some thousand failed
attempts on the way, 200 live leases. Beside it stands a bare loop that reads the same three things.
"""

import itertools
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import Figure, at_most
from benchmarks.harness import ROUNDS, folder, manager, status
from distexp.queue.entry import Lease, WorkerInfo
from distexp.queue.journal import Journal
from distexp.queue.task_queue import TaskQueue
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.results.row import row_for
from distexp.sweep.source import Sweep
from distexp.task import Cause, Provenance, Task
from distexp.workdir import Workdir

BOUND_S = 5.0
TASKS, ROWS, LEASES = 100_000, 50_000, 200
FAILS_EVERY = 12  # such a lease fails when it is a task's first, and each tenth of them for good
TRACEBACK = (
    'Traceback (most recent call last):\n  File "train.py", line 7, in run\nRuntimeError: loss is nan at '
)
CONFIG = f"""
defaults:
  command: 'true {{args}}'
  output_dir: ./results_{{dataset}}
  epochs: 30
  momentum: 0.9
seeds: {list(range(20))}
exp1_shape:  # 40,000
  combinations:
    - dataset: [digits, wine, iris, breast_cancer, blobs]
    - width_factor: [1, 2, 4, 8, 16]
    - depth: [1, 2, 3, 4]
    - lr: [1e-1, 3e-2, 1e-2, 3e-3, 1e-3]
    - weight_decay: [0, 5e-5, 5e-4, 5e-3]
exp2_training:  # 60,000
  defaults: {{width_factor: 4, depth: 2}}
  combinations:
    - dataset: [digits, wine, iris, breast_cancer, blobs]
    - optimizer: [sgd, adam, adamw]
    - batch_size: [16, 32, 64, 128, 256]
    - dropout: [0, 0.1, 0.2, 0.3, 0.5]
    - lr: [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5]
"""
BARE = f"""
import csv, glob, json, sqlite3, time, yaml
yaml.load(open("configs/config_exp1.yaml"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
rows = 0
for name in glob.glob("results_*/{RESULTS_FILE}"):
    with open(name, newline="") as file:
        rows += sum(1 for _ in csv.reader(file)) - 1
database = sqlite3.connect(".experiment_manager/journal.sqlite3")
records = [json.loads(record) for record, in database.execute("SELECT record FROM tasks")]
print(json.dumps({{"rows": rows, "records": len(records), "cpu_s": time.process_time()}}))
"""


@dataclass(frozen=True)
class _Start:
    wall_s: float
    cpu_s: float  # of the process, all threads


def measure() -> list[Figure]:
    """Return a restart's time beside the bound, and its computing time beside that of the bare loop."""
    with folder(CONFIG) as workdir, TemporaryDirectory() as copy:
        dying = multiprocessing.get_context("spawn").Process(target=_sweep_until_killed, args=(workdir.root,))
        dying.start()
        dying.join()
        if dying.exitcode != -signal.SIGKILL:
            raise AssertionError("the sweep to restart could not be made")
        bare_root = shutil.copytree(workdir.root, Path(copy, "bare"))
        starts, bare = [], []
        for _ in range(ROUNDS):
            starts.append(_restart(workdir))
            bare.append(_bare(bare_root))
    name = f"restart, {TASKS:,} tasks, {ROWS:,} rows"
    wall, bare_wall = [each.wall_s for each in starts], [each.wall_s for each in bare]
    cpu, bare_cpu = [each.cpu_s for each in starts], [each.cpu_s for each in bare]
    return [
        Figure(name, "s", wall, at_most(BOUND_S), "a bare loop that only reads", bare_wall),
        Figure(f"{name}: computing", "s", cpu, None, "a bare loop that only reads", bare_cpu),
    ]


def _restart(workdir: Workdir) -> _Start:
    """Start the manager, wait for its first reply, kill it."""
    began_s = time.perf_counter()
    with manager(workdir) as process:
        wall_s = time.perf_counter() - began_s
        times = psutil.Process(process.pid).cpu_times()
        found = status(workdir)
        process.kill()
        process.wait()
    if (found.total, found.complete, found.assigned) != (TASKS, ROWS, LEASES):
        raise AssertionError(f"the manager does not know the sweep: {found}")
    return _Start(wall_s, times.user + times.system)


def _bare(root: Path) -> _Start:
    began_s = time.perf_counter()
    bare = subprocess.run([sys.executable, "-c", BARE], cwd=root, capture_output=True, text=True, check=True)
    wall_s = time.perf_counter() - began_s
    found: Mapping[str, float] = json.loads(bare.stdout)
    if found["rows"] != ROWS or found["records"] < ROWS:
        raise AssertionError(f"the bare loop does not see the sweep: {found}")
    return _Start(wall_s, found["cpu_s"])


def _sweep_until_killed(root: Path) -> None:
    """Assign, fail and complete tasks with the product's own rooms, then end as by kill -9."""
    workdir = Workdir(root)
    workdir.hold()
    journal = Journal(workdir.journal)
    journal.sweep_id = workdir.keep_sweep_id(journal.sweep_id)
    queue = TaskQueue(time.monotonic, journal.record)
    tasks = Sweep(root, "configs/config_exp*.yaml").load()
    queue.sync(tasks)
    done: dict[str, list[tuple[Task, Mapping[str, str]]]] = {}
    count = 0
    for number in itertools.count(1):
        if count == ROWS:
            break
        lease = _assign(queue)
        if lease.attempt == 1 and number % FAILS_EVERY == 0:
            retry = number % (10 * FAILS_EVERY) != 0
            queue.fail(lease.lease_id, lease.task.key, Cause.ERROR, f"{TRACEBACK}{number}", retry=retry)
        else:
            done.setdefault(lease.task.output_dir, []).append((lease.task, _row(lease)))
            queue.complete(lease.task.key)
            count += 1
    for _ in range(LEASES):
        _assign(queue)
    journal.flush()
    index = TaskIndex(tasks)
    for output_dir, rows in done.items():
        ResultsFile(workdir.root, output_dir, index).append(rows)
    os.kill(os.getpid(), signal.SIGKILL)


def _assign(queue: TaskQueue) -> Lease:
    worker = f"gpu{secrets.randbelow(8)}"
    lease = queue.assign(WorkerInfo(worker, heartbeat_s=15))
    if lease is None:
        raise AssertionError("no task to assign, though half of the sweep is pending")
    return lease


def _row(lease: Lease) -> Mapping[str, str]:
    number = int(lease.task.key[:6], 16)
    result = {"test_acc": number / 2**24, "train_loss": 1 / (1 + number), "parameters": number}
    run = Provenance(
        attempt=lease.attempt,
        worker=lease.worker.name,
        host="node-17",
        device="NVIDIA H100",
        started_utc="2026-11-24T09:56:38Z",
        duration_s=round(number / 1e5, 3),
    )
    return row_for(lease.task, result, run)
