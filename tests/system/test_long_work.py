"""How far long work is, as people see it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distexp.results.audit import audit
from distexp.results.store import ResultsStore
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand
from distexp.system.long_work import LINE_S, LongWork, Step
from tests.live_manager import Folder

LINES = (
    "from distexp.system.long_work import LongWork\n"
    "now = [0.0]\n"
    "with LongWork(clock=lambda: now[0]) as work:\n"
    "    work.begin('Reading', 200)\n"
    "    work.advance(50)\n"
    "    for now[0] in (0.5, 2.0, 9.0, 11.0, 12.0, 25.0):\n"
    "        work.tick()\n"
    "    work.begin('Adding up')\n"
    "    now[0] = 40.0\n"
    "    work.tick()\n"
    "print('result')\n"
)


class Clock:
    """Seconds that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_lines_come_every_ten_seconds_on_standard_error_and_none_for_quick_work() -> None:
    done = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert done.stderr == "Reading: 25 %, 11 s\nReading: 25 %, 25 s\nAdding up: 40 s\n"
    clock, lines = Clock(), list[str]()
    with LongWork(lines.append, clock=clock) as work:
        work.begin("Reading")
        clock.seconds = LINE_S - 0.1
        work.tick()
    work.tick()
    assert lines == []
    assert not [thread for thread in threading.enumerate() if thread.name == "long work"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
@pytest.mark.parametrize("has_rich", [True, False], ids=["rich", "nothing installed"])
def test_a_terminal_shows_a_bar_that_is_gone_at_the_end_and_no_line_elsewhere(has_rich: bool) -> None:
    ours, theirs = os.openpty()
    without = "import sys; sys.modules['rich'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", LINES if has_rich else without + LINES],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "PYTHONUTF8": "1"},
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout == b"result\n"
    assert ("━" in shown) == has_rich
    assert "25 %, 2 s" in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("40 s"), "the line is cleared"


def test_reading_results_tells_how_many_of_their_bytes_are_read(folder: Folder) -> None:
    folder.add_rows(*(f"{n},42,0.5" for n in range(20_000)))
    other = folder.root / "results_all"
    other.mkdir()
    (other / "final_results.csv").write_text("width,seed,score\n2,42,1\n" * 5_000, encoding="utf-8")
    tasks = expand(load_configs([Path("configs/*.yaml")], folder.root))
    clock, lines = Clock(), list[str]()
    with LongWork(lines.append, clock=clock) as work:
        audit(folder.root, tasks, None, work)
        clock.seconds = 10.0
        work.tick()
        store = ResultsStore(folder.root, lambda scan: None, work.advance)
        store.sync(tasks)
        work.begin("Scanning", store.size())
        clock.seconds = 20.0
        work.tick()
        assert work.now() == Step("Scanning", 0, store.size(), 20.0)
        store.scan_all()
        clock.seconds = 30.0
        work.tick()
    assert lines == ["Reading the results: 99 %, 10 s", "Scanning: 0 %, 20 s", "Scanning: 99 %, 30 s"]
