"""What runs of a task once it, or its worker, has been killed: nothing, whatever the task does."""

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from distexp.system import locks
from distexp.system.process import ProcessMark
from distexp.task import State
from distexp.worker.watcher import Watcher
from tests.live_worker import CONFIG, DEADLINE_S, RUNNER, await_file, gated_folder, worker_process
from tests.support import ENVIRONMENT, poll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, sessions and /proc")

OWNER = """
import os, subprocess, sys
from pathlib import Path
from distexp.system.process import MARK_VARIABLE, ProcessMark
from distexp.worker.watcher import Watcher

watcher = Watcher(Path(sys.argv[1]))
task = subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=os.environ | {MARK_VARIABLE: "m1"})
watcher.watch(ProcessMark.of(task.pid), "m1")
watcher.await_ready()
print(watcher._process.pid, task.pid, flush=True)
sys.stdin.read()
"""
BEGIN = "import os, signal, subprocess, time\nfrom distexp.system.process import detach\ndetach()\n"
HOLDS_THE_INTERPRETER = "print(os.getpid(), flush=True); sum(range(10**12))"
IS_STOPPED = "print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
HAS_DETACHED_A_PROGRAM = (
    "print(subprocess.Popen(['sleep', '600'], start_new_session=True, env={}).pid, flush=True); "
    "sum(range(10**12))"
)
HAS_A_DAEMON = """
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.waitpid(child, 0)
sum(range(10**12))
"""


@contextmanager
def owner(lock: Path, task: str) -> Iterator[tuple["subprocess.Popen[str]", int, set[int]]]:
    """A process that has a task watched; the pid of its watcher; those of its task, and what that prints."""
    command = [sys.executable, "-c", OWNER, str(lock), BEGIN + task]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **streams) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        of_task, of_owner = sorted((process.stdout.readline().split() for _ in range(2)), key=len)
        watcher, *others = map(int, [*of_owner, *of_task])
        try:
            yield process, watcher, {*others}
        finally:
            process.kill()


def mark_of(process: "subprocess.Popen[bytes]") -> ProcessMark:
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    return mark


def live(pids: Iterable[int]) -> list[int]:
    marks = [ProcessMark.of(pid) for pid in pids]
    return [mark.pid for mark in marks if mark and not mark.is_gone()]


def await_held(lock: Path) -> None:
    poll(lambda: locks.is_held(lock), "the lock held", DEADLINE_S)  # a watcher has begun


@pytest.mark.parametrize("task", [HOLDS_THE_INTERPRETER, IS_STOPPED, HAS_DETACHED_A_PROGRAM, HAS_A_DAEMON])
def test_a_task_ends_with_a_kill_of_its_worker_and_holds_the_lock_so_long(tmp_path: Path, task: str) -> None:
    lock = tmp_path / "watchers" / "1-1.lock"
    with owner(lock, task) as (process, watcher, others):
        assert len(live({watcher, *others})) == 1 + len(others) >= 2
        await_held(lock)
        process.kill()
        poll(lambda: not locks.is_held(lock), "the lock free")
        assert live(others) == []
        poll(lambda: not live([watcher]), "the watcher gone")
        assert list(lock.parent.iterdir()) == []


def test_a_watcher_that_is_killed_is_replaced_and_the_next_one_knows_everything(tmp_path: Path) -> None:
    lock = tmp_path / "w.lock"
    first, second = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    watcher = Watcher(lock)
    watcher.watch(mark_of(first))
    await_held(lock)
    assert watcher._process is not None
    watcher._process.kill()
    watcher._process.wait()
    watcher.watch(mark_of(second))
    await_held(lock)
    watcher.close()
    assert (first.wait(DEADLINE_S), second.wait(DEADLINE_S)) == (-signal.SIGKILL, -signal.SIGKILL)


def test_a_lock_whose_folder_was_replaced_is_taken_there_with_the_next_process(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "w.lock"
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    watcher = Watcher(lock)
    await_held(lock)
    lock.parent.rename(tmp_path / "away")
    watcher.watch(mark_of(sleeper))
    await_held(lock)
    watcher.close()
    assert sleeper.wait(DEADLINE_S) == -signal.SIGKILL


def test_what_starts_while_the_worker_leaves_ends_at_once(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "w.lock")
    watcher.close()
    late = subprocess.Popen(["sleep", "600"], start_new_session=True)
    watcher.watch(mark_of(late))
    assert late.wait(DEADLINE_S) == -signal.SIGKILL


def test_what_has_ended_is_forgotten_and_what_killed_watchers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1-1.lock").touch()
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    mark = mark_of(sleeper)
    watcher = Watcher(tmp_path / "2-2.lock")
    watcher.watch(mark)
    watcher.forget(mark)
    process = watcher._process
    watcher.close()
    assert process is not None
    process.wait(DEADLINE_S)
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()
    assert list(tmp_path.iterdir()) == []


LOOKS_FOR_THE_FIRST = """
import os
from pathlib import Path

def run(params, context):
    pids = Path("pids.txt").read_text().split() if context.attempt > 1 else []
    stats = [Path("/proc", pid, "stat") for pid in pids]
    still = [stat for stat in stats if stat.exists() and ") Z " not in stat.read_text()]
    if not pids:
        Path("pids.new").write_text(f"{os.getpid()} ")
        os.rename("pids.new", "pids.txt")
        sum(range(10**12))
    return {"score": len(still)}
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_two_processes_never_run_one_task(tmp_path: Path, method: str) -> None:
    folder = gated_folder(tmp_path, "[1]", LOOKS_FOR_THE_FIRST)
    with (
        folder.serving() as manager,
        worker_process(tmp_path, "--start-method", method) as doomed,
    ):
        await_file(tmp_path / "pids.txt")
        with worker_process(tmp_path) as other:
            doomed.signal(signal.SIGKILL)

            def is_done() -> bool:
                manager.run_once()  # as its loop does: a process may end later than its connection
                return other.process.poll() is not None

            poll(is_done, "the task done elsewhere", 60)
            assert other.code() == 0
    (row,) = folder.rows()
    assert (row["score"], row["attempt"]) == ("0", "2")


DIES_AND_LEAVES_A_DAEMON = """
import os, signal
def run(params, context):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("daemons", "a") as file:
                print(os.getpid(), file=file)
            os.execve("/bin/sleep", ["sleep", "600"], {})
        os._exit(0)
    os.wait()
    os.kill(os.getpid(), signal.SIGKILL)
"""

LOOKS_AT_NOTHING_BY_THE_CLOCK = f"""
import sys
sys.path.insert(0, {str(RUNNER.parent)!r})
from distexp.worker import connection, log_cap
connection.HEARTBEAT_S = log_cap.LOOK_S = 3600.0
from distexp.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], verb="worker"))
"""


@pytest.mark.parametrize("process", ["forked", "fresh"])
def test_a_killed_task_is_told_at_once_and_its_daemon_ends_though_nothing_says_whose_it_is(
    tmp_path: Path, process: str
) -> None:
    config = CONFIG.replace("./results_exp1", f"./results_exp1, process: {process}")
    folder = gated_folder(tmp_path, "[1]", DIES_AND_LEAVES_A_DAEMON, config)
    script = tmp_path / "worker.py"
    script.write_text(LOOKS_AT_NOTHING_BY_THE_CLOCK)
    with folder.serving() as manager, worker_process(tmp_path, script=script) as worker:
        poll(lambda: manager.queue.counts()[State.FAILED] == 1, "three failures", DEADLINE_S)
        assert worker.code() == 0
    daemons = [int(pid) for pid in (tmp_path / "daemons").read_text().split()]
    assert len(daemons) == 3
    poll(lambda: not any(map(psutil.pid_exists, daemons)), "no daemon left")
