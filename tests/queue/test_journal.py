"""What the journal promises: acknowledged is durable, one process at a time, nothing lost on a full disk."""

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from distexp.errors import JournalUnwritable
from distexp.queue.journal import Journal
from distexp.queue.records import LeaseRecord, PeakRecord, TaskRecord
from tests.support import ENVIRONMENT

LEASE = LeaseRecord(lease_id="l1", worker="cpu0", attempt=2, heartbeat_s=None)
FULL = TaskRecord(
    key="k",
    state="assigned",
    attempts=2,
    failures=1,
    losses=1,
    oom_at_mib=8000,
    last_worker="cpu0",
    lease=LEASE,
)
RUN = [sys.executable, "-c"]


def record(key: object, attempts: int = 1) -> TaskRecord:
    return TaskRecord(key=str(key), state="pending", attempts=attempts)


def reloaded(path: Path) -> dict[str, TaskRecord]:
    journal = Journal(path)
    try:
        return {record.key: record for record in journal.load(TaskRecord)}
    finally:
        journal.close()


def test_the_last_record_of_a_key_comes_back_whole_and_the_sweep_keeps_its_id(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for each in (record("k"), FULL, record("other")):
        journal.record(each)
    journal.close()
    assert reloaded(tmp_path / "j") == {"k": FULL, "other": record("other")}
    later = Journal(tmp_path / "j")
    assert later.sweep_id == journal.sweep_id
    later.close()


def test_the_record_of_a_task_goes_once_its_row_has_come_and_the_file_shrinks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for number in range(40_000):
        journal.record(replace(FULL, key=str(number)))
    journal.flush()
    for number in range(1, 40_000):
        journal.record(replace(FULL, key=str(number), state="complete", lease=None))
    journal.record(replace(FULL, key="again", state="complete", lease=None, superseded="c0de"))
    journal.flush()
    assert {record.key for record in journal.load(TaskRecord)} == {"0", "again"}
    assert (tmp_path / "j").stat().st_size > 4_000_000
    journal.close()
    assert (tmp_path / "j").stat().st_size < 100_000
    assert reloaded(tmp_path / "j").keys() == {"0", "again"}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_one_that_an_older_version_left_open_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).close()
    path.chmod(0o644)
    journal = Journal(path)
    journal.record(FULL)
    journal.flush()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    journal.close()
    assert "j-wal" in modes
    assert {*modes.values()} == {0o600}


def test_sixteen_threads_that_flush_together_are_all_durable(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    barrier = threading.Barrier(16)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(20):
            journal.record(record(f"{thread}-{number}"))
            journal.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal._database.close()  # not `close`, which would flush
    assert len(reloaded(tmp_path / "j")) == 16 * 20


WRITER = """
import sys
from pathlib import Path
from distexp.queue.journal import Journal
from distexp.queue.records import TaskRecord
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    journal.record(TaskRecord(key=str(number), state="pending", attempts=number))
    journal.flush()
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 57, 120])
def test_every_acknowledged_record_outlives_a_kill_of_the_writer(tmp_path: Path, acknowledged: int) -> None:
    process = subprocess.Popen(
        [*RUN, WRITER, str(tmp_path / "j")], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    for _ in range(acknowledged):
        process.stdout.readline()
    process.kill()
    rest = process.communicate()[0]
    last = int(rest.split()[-1]) if rest.split() else acknowledged
    found = reloaded(tmp_path / "j")
    assert all(found[str(number)].attempts == number for number in range(1, last + 1))


def test_a_second_process_cannot_open_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    opener = "import sys, pathlib, distexp.queue.journal as j; j.Journal(pathlib.Path(sys.argv[1]))"
    second = subprocess.run(
        [*RUN, opener, str(tmp_path / "j")], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    journal.close()
    assert second.returncode == 1
    line = second.stderr.splitlines()[-1]
    assert line.startswith(f"distexp.errors.JournalUnwritable: {tmp_path / 'j'}: database is locked; end the")


def full_disk(path: Path) -> None:
    """Run in a child: the disk fills up, more records come, then there is room again."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log: %(message)s")
    journal = Journal(path)
    journal.record(record("before"))
    journal.flush()
    limit = os.path.getsize(f"{path}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(50):
        journal.record(record(number))
    for _ in range(2):  # nothing new for the second one, and yet nothing may be acknowledged
        try:
            journal.flush()
        except JournalUnwritable as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(2):
        journal.flush()
    print(len(journal.load(TaskRecord)), flush=True)
    os._exit(0)  # as in a crash


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE to fill a disk with")
def test_a_full_disk_acknowledges_nothing_and_the_next_flush_writes_it_all(tmp_path: Path) -> None:
    path = tmp_path / "j"
    program = (
        "import sys, pathlib; from tests.queue.test_journal import *; full_disk(pathlib.Path(sys.argv[1]))"
    )
    child = subprocess.run(
        [*RUN, program, str(path)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert child.returncode == 0, child.stderr
    said, first, second, said_again, count = child.stdout.splitlines()
    assert first == second
    assert first.startswith(f"{path}: ")
    assert first.endswith("; the records are kept and tried again")
    assert said == f"log: {first}; no task is assigned until they are written"
    assert said_again == f"log: {path}: can be written again"
    assert count == "51"
    assert len(reloaded(path)) == 51


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE to fill a disk with")
def test_a_start_on_a_full_disk_says_to_make_room(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys, pathlib; from tests.queue.test_journal import *; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); Journal(pathlib.Path(sys.argv[1]))"
    )
    words = [*RUN, program, str(tmp_path / "j")]
    child = subprocess.run(words, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    *_, line = child.stderr.splitlines()
    assert line.startswith(f"distexp.errors.JournalUnwritable: {tmp_path / 'j'}: ")
    assert line.endswith("; make room on its disk, or see why that cannot be written")


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_journal_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    if not content:
        assert reloaded(path) == {}, "an empty file is a new journal"
        return
    with pytest.raises(JournalUnwritable) as error:
        Journal(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).endswith("; move the file away to start without attempts and leases")
    assert "\n" not in str(error.value)


def test_damage_in_the_middle_of_the_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    for number in range(2000):
        journal.record(record(number))
    journal.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : -4096] = b"\xff" * (len(data) - 4096 * 4)
    path.write_bytes(data)
    journal = Journal(path)
    with pytest.raises(JournalUnwritable, match="move the file away to start without attempts and leases"):
        journal.load(TaskRecord)
    journal.close()


def test_a_journal_in_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JournalUnwritable, match="No such file or directory; see that its folder is there"):
        Journal(tmp_path / "none" / "j")


def test_unreadable_records_are_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.record(record("good"))
    journal.close()
    database = sqlite3.connect(tmp_path / "j")
    for key, blob in (
        ("torn", b'{"key": "torn", "sta'),
        ("text", "text"),
        ("odd", b'{"key": 1, "state": []}'),
    ):
        database.execute("INSERT INTO tasks VALUES (?, ?)", (key, blob))
    database.commit()
    database.close()
    assert set(reloaded(tmp_path / "j")) == {"good"}


def test_what_is_recorded_after_the_end_is_refused_in_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.close()
    journal.record(record("late"))  # an answer was under way when the manager stopped
    with pytest.raises(JournalUnwritable, match="closed database"):
        journal.flush()


def test_what_a_phase_needs_on_a_shared_gpu_outlives_the_manager(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for peak_mib in (900.0, 1200.0):
        journal.record(PeakRecord("exp1", peak_mib))
    journal.close()
    again = Journal(tmp_path / "journal")
    assert again.load(PeakRecord) == [PeakRecord("exp1", 1200.0)]
    again.close()
