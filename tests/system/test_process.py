"""Which process it is, whether it is gone, and what ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distexp.system.process import (
    MARK_VARIABLE,
    ProcessMark,
    descendants,
    end_tree,
    has_children,
    has_group,
    host_name,
    machine_id,
    signal_process,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc, sessions and subreapers")


def test_a_process_that_has_ended_but_was_not_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert mark.is_gone()
    process.communicate()
    assert mark.is_gone()
    assert ProcessMark.of(process.pid) is None


def test_a_later_process_with_the_same_pid_is_not_mistaken_for_the_first() -> None:
    mine = ProcessMark.of(os.getpid())
    assert mine is not None
    assert not mine.is_gone()
    assert ProcessMark(mine.pid, mine.started - 1).is_gone()


def test_two_processes_of_one_host_agree_on_what_it_is() -> None:
    program = "from distexp.system.process import *; print(host_name(), machine_id())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [host_name(), machine_id()]


def test_elsewhere_than_on_linux_a_host_is_known_by_the_start_of_its_first_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ProcessMark.of(1)
    assert first is not None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine_id().endswith(f"/{first.started!r}")


def test_without_waitid_there_may_be_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.waitid")
    assert has_children()


# -- import failures ---------------------------------------------------------------------------------------


@linux_only
def test_a_process_is_known_by_its_start_in_ticks_since_boot_which_no_clock_moves() -> None:
    text = Path("/proc/self/stat").read_text()
    assert ProcessMark.own() == ProcessMark(os.getpid(), float(text.rsplit(")", 1)[1].split()[19]))


NEST = """
import os, subprocess, sys, time
pids = []
def start(**more):
    pids.append(subprocess.Popen(["sleep", "600"], **more).pid)
start()
start(start_new_session=True)
child = os.fork()
if child == 0:
    start()
    os.write(1, f"{pids[-1]}\\n".encode())
    time.sleep(600)
os.write(1, (" ".join(map(str, [child, *pids])) + "\\n").encode())
time.sleep(600)
"""


def nest(mark: str) -> tuple["subprocess.Popen[str]", ProcessMark, list[int]]:
    """A process that leads a session, with five others: below it, of its session, detached."""
    process = subprocess.Popen(
        [sys.executable, "-c", NEST],
        env=os.environ | {MARK_VARIABLE: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    root = ProcessMark.of(process.pid)
    assert process.stdout is not None
    assert root is not None
    said = process.stdout.readline() + process.stdout.readline()
    process.stdout.close()
    return process, root, [int(pid) for pid in said.split()]


@linux_only
@pytest.mark.parametrize("dies_first", [False, True])
@pytest.mark.parametrize("state", [signal.SIGCONT, signal.SIGSTOP])
def test_a_tree_ends_whole_also_when_its_root_is_stopped_or_has_died_before(
    dies_first: bool, state: signal.Signals
) -> None:
    process, root, pids = nest("nest-1")
    assert sorted(descendants(process.pid)) == sorted(pids)
    process.send_signal(state)
    if dies_first:
        process.kill()
        process.wait()
        assert has_group(process.pid)
    assert end_tree(root, "nest-1") == []
    process.wait()
    assert not any(mark and not mark.is_gone() for mark in map(ProcessMark.of, pids))


@linux_only
def test_a_session_whose_leaders_pid_is_anothers_now_is_left_alone() -> None:
    process, root, pids = nest("nest-2")
    stranger = ProcessMark(root.pid, root.started - 1)  # so the live process is a later one with that pid
    assert end_tree(stranger) == []
    signal_process(stranger, "SIGKILL")
    assert process.poll() is None
    assert all(psutil.pid_exists(pid) for pid in pids)
    end_tree(root, "nest-2")
    process.wait()


OWNS_MEMORY = """
import time
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=10)
print(memory.name, flush=True)
time.sleep(600)
"""


@linux_only
def test_shared_memory_of_a_tree_that_is_ended_is_freed_by_its_resource_tracker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distexp.system.process.TRACKER_S", 60.0)  # it may have only started
    process = subprocess.Popen(
        [sys.executable, "-c", OWNS_MEMORY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    process.stdout.close()
    assert Path("/dev/shm", name).exists()
    root = ProcessMark.of(process.pid)
    assert root is not None
    assert end_tree(root) == []
    process.wait()
    assert not Path("/dev/shm", name).exists()
