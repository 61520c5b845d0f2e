"""Several real processes at one results file: races, kills, full disks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pytest

from distexp.results import reader
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from tests.row_cases import a_row, tasks_of

TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}

WRITER = """
import sys
from pathlib import Path
from tests.row_cases import a_row, tasks_of
from distexp.results.results_file import ResultsFile
from distexp.results.matching import TaskIndex

path, count, first, new_columns = Path(sys.argv[1]), *map(int, sys.argv[2:])
tasks = tasks_of(count)
print("ready", flush=True)
sys.stdin.readline()
for place in range(count):
    task = tasks[(first + place) % count]
    result = {f"metric{place % 10}": 1} if new_columns else {"acc": 0.5}
    file = ResultsFile(path.parent, ".", TaskIndex([task]), lock_timeout_s=100)  # the others may be faster
    if file.append([a_row(task, **result)]).written:
        print(task.key, flush=True)
"""


@contextmanager
def writer(
    path: Path, count: int, first: int = 0, new_columns: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process that, once told to, appends the rows of `count` tasks one by one and prints what it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(count), str(first), str(int(new_columns))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def printed(process: subprocess.Popen[str]) -> list[str]:
    """What the writer printed until its end."""
    assert process.stdout is not None
    lines = process.stdout.read().split()
    assert process.wait() == 0
    return lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / RESULTS_FILE


@pytest.mark.parametrize("warns", [True, False])
def test_lines_are_counted_from_the_files_beginning_only_for_what_is_told_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warns: bool
) -> None:
    mine, *others = tasks_of(40)
    file = ResultsFile(tmp_path, ".", TaskIndex([mine]), warns=warns)
    counted = list[int]()

    def line_at(file: BinaryIO, offset: int, end: bytes) -> int:
        counted.append(offset)
        return 1

    for other in others:
        ResultsFile(tmp_path, ".", TaskIndex([other])).append([a_row(other, acc=1)])
        with monkeypatch.context() as patch:
            patch.setattr(reader, "line_at", line_at)
            assert bool(file.scan().warnings) == (warns and other is others[0])
    assert len(counted) == int(warns)


def test_processes_that_append_the_same_tasks_at_once_leave_one_whole_row_of_each(path: Path) -> None:
    count = 24
    with writer(path, count) as a, writer(path, count, 8) as b, writer(path, count, 16) as c:
        for process in (a, b, c):
            start(process)
        written = [key for process in (a, b, c) for key in printed(process)]
    assert sorted(written) == sorted(task.key for task in tasks_of(count))
    lines = path.read_text().splitlines()
    assert len(lines) == count + 1
    assert {line.count(",") for line in lines} == {lines[0].count(",")}
    assert sorted(pd.read_csv(path)["width"]) == list(range(count))


def test_a_reader_misses_and_loses_nothing_while_others_add_columns(path: Path) -> None:
    count = 24
    tasks = tasks_of(count)
    reader = ResultsFile(path.parent, ".", TaskIndex(tasks))
    complete = set[str]()
    with writer(path, count, new_columns=True) as a, writer(path, count, 12, new_columns=True) as b:
        start(a)
        start(b)
        while a.poll() is None or b.poll() is None:
            scan = reader.scan()
            assert (scan.vanished, scan.warnings) == (frozenset(), ())
            complete |= scan.complete
        complete |= reader.scan().complete
        assert len(printed(a)) + len(printed(b)) == count
    assert complete == {task.key for task in tasks}
    assert len(ResultsFile(path.parent, ".", TaskIndex(tasks)).scan().complete) == count
    assert len(pd.read_csv(path)) == count


def test_a_writer_that_is_killed_leaves_a_readable_file(path: Path) -> None:
    count, written = 60, list[str]()
    for turn in range(4):
        with writer(path, count, new_columns=turn % 2 == 1) as process:
            start(process)
            assert process.stdout is not None
            for _ in range(turn + 1):  # none, if it has written all there is to write
                written += process.stdout.readline().split()
            process.send_signal(signal.SIGKILL)
            written += process.stdout.read().split()
    tasks = tasks_of(count)
    file = ResultsFile(path.parent, ".", TaskIndex(tasks))
    complete = file.scan().complete
    assert complete >= set(written)
    file.append([a_row(task, acc=0.5) for task in tasks])
    assert sorted(pd.read_csv(path)["width"]) == list(range(count))


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from tests.row_cases import a_row, tasks_of
from distexp.errors import ResultsUnwritable
from distexp.results.results_file import ResultsFile
from distexp.results.matching import TaskIndex

path, room = Path(sys.argv[1]), int(sys.argv[2])
first, second = tasks_of(2)
file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
file.append([a_row(first)])
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, resource.RLIM_INFINITY))
try:
    file.append([a_row(second)])
except ResultsUnwritable as error:
    refusal = str(error)
kept = path.read_bytes() == before
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
later = len(file.append([a_row(second)]).written)
print(json.dumps([refusal, kept, later]))
"""


@pytest.mark.parametrize(("room", "cause"), [(0, "File too large"), (20, "No space left on device")])
def test_a_row_that_does_not_fit_is_cut_off_again_and_written_later(
    path: Path, room: int, cause: str
) -> None:
    output = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(room)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    refusal = f"{path}: cannot be written now ({cause}); the row is kept and tried again"
    assert json.loads(output) == [refusal, True, 1]
    assert list(pd.read_csv(path)["width"]) == [0, 1]
