"""A manager and `watch` on a real terminal, and in a pipe."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import experiment_manager
from distexp.cli.main import main as command
from distexp.manager.manager import ExperimentManager
from tests.live_manager import Folder, RawClient, worker
from tests.live_worker import await_began, gated_folder, open_gate
from tests.support import poll

SCRIPT = experiment_manager.__file__
PATIENCE_S = 60.0
BAR = re.compile(r"━+ (\d)/3 \(\d+\.\d%\)")
CLEAN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What a process has written to a pseudo-terminal of 80 columns and 24 lines."""

    def __init__(self, *words: str) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.resize(80)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self._read = bytearray()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: the other end is closed
                return
            if not data:
                return
            self._read += data

    def resize(self, columns: int) -> None:
        """Give the terminal another width, as a user does with the mouse."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    @property
    def clears(self) -> int:
        """How often the whole screen was cleared."""
        return self._read.count(b"\x1b[2J")

    @property
    def since_clear(self) -> str:
        """What was written since the whole screen was cleared last."""
        return CLEAN.sub("", bytes(self._read).rpartition(b"\x1b[2J")[2].decode(errors="replace"))

    @property
    def text(self) -> str:
        return CLEAN.sub("", bytes(self._read).decode(errors="replace"))

    def await_text(self, pattern: str) -> None:
        poll(lambda: re.search(pattern, self.text) is not None, f"{pattern!r} on the terminal", PATIENCE_S)

    def end(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        return code


@contextmanager
def terminal(*words: object) -> Iterator[Terminal]:
    opened = Terminal(*map(str, words))
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()


def talk_to(folder: Folder, port: int, **more: Any) -> RawClient:
    about = {"worker_id": "gpu0", "heartbeat_s": 15, "instance": "gpu0", "token": folder.token}
    return RawClient(port, **about | more)


def work(talk: RawClient) -> None:
    task = talk.say("request_task")
    talk.say("task_complete", key=task["key"], result={"score": 1})


@pytest.mark.slow
def test_a_manager_on_a_terminal_shows_the_bar_below_its_lines(folder: Folder) -> None:
    with terminal("--port", 0, "--workdir", folder.root, "--exit-when-done") as shown:
        shown.await_text(r"━+ 0/3 \(0\.0%\)  - tasks/h  ETA: too early to tell")
        port = int(re.search(r"Manager serves 127\.0\.0\.1:(\d+)", shown.text.replace("\r\n", ""))[1])  # type: ignore[index]
        with talk_to(folder, port) as talk:
            work(talk)
            shown.await_text(r"━+ 1/3 \(33\.3%\)")
            shown.await_text(r"gpu0 +idle")
            shown.await_text("Task exp1_vary_width_0_42 completed by gpu0")
            work(talk)
            work(talk)
        assert shown.end() == 0
    assert re.search(r"━+ 3/3 \(100\.0%\)  .* done", shown.text), "the last view stays"


@pytest.mark.slow
def test_on_a_terminal_that_was_resized_the_last_lines_and_the_view_are_drawn_anew(folder: Folder) -> None:
    with terminal("--port", 0, "--workdir", folder.root) as shown:
        shown.await_text(r"━{20,} 0/3")
        assert shown.clears == 0
        shown.resize(60)
        cleared = r"(?s).*Generated 3 total tasks.*Manager serves .*━ 0/3 .*distexp worker`\s*\n "
        poll(lambda: shown.clears == 1 and re.fullmatch(cleared, shown.since_clear), "all again", PATIENCE_S)
        shown.resize(120)
        poll(lambda: shown.clears == 2 and re.fullmatch(cleared, shown.since_clear), "all again", PATIENCE_S)
        shown.process.terminate()
        assert shown.end() == 0


def test_ctrl_c_in_a_run_says_above_the_view_what_it_waits_for(tmp_path: Path) -> None:
    gated_folder(tmp_path, "[1]")
    with terminal("run", "--port", 0, "--device", "cpu", "--workers", 1, "--workdir", tmp_path) as shown:
        shown.await_text(r"Started 1 worker .*\s")
        await_began(tmp_path)
        shown.process.send_signal(signal.SIGINT)
        shown.await_text("(?s)Stopping: workers finish their tasks.* 0/1 ")
        open_gate(tmp_path)
        assert shown.end() == 128 + signal.SIGINT


def test_a_manager_in_a_pipe_or_told_to_be_plain_shows_lines_alone(folder: Folder) -> None:
    with terminal("--port", 0, "--workdir", folder.root, "--plain", "--exit-when-done") as shown:
        shown.await_text("Manager serves ")
        plain = shown
        plain.process.terminate()
        plain.end()
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--port", "0", "--workdir", folder.root], stdout=subprocess.PIPE, text=True
    )
    lines = []
    with process:  # closes the pipe
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "Manager serves" in line:
                process.terminate()
    for text in (plain.text, "".join(lines)):
        assert "━" not in text
        said = [line for line in text.splitlines() if line.strip()]
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in said), said


@pytest.fixture
def manager(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving() as manager:
        yield manager


def test_watch_shows_the_same_view_from_elsewhere_until_all_is_done(
    folder: Folder, manager: ExperimentManager
) -> None:
    with worker(manager, device="H100") as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        use = {"used_mib": 1024, "free_mib": 2048, "utilization_pct": 50}
        progress = {"step": 3, "total": 10, "metrics": {"loss": 0.5}}
        talk.say("heartbeat", **named, progress=progress, gpu=use)
        with terminal("watch", "localhost", manager.port, "--workdir", folder.root) as shown:
            shown.await_text(r"gpu0 +1\.0\+2\.0 +50% +exp1_vary_width_0_42 +3/10 +loss=0\.5")
            talk.say("task_failed", **named, error="ValueError: no", cause="error")
            shown.await_text(r"Last failures\s+\S+Z exp1_vary_width_0_42 error: ValueError: no")
            for _ in range(3):
                work(talk)
            assert shown.end() == 0
    assert BAR.findall(shown.text)[-1] == "3"


def test_watch_goes_on_while_no_manager_answers(folder: Folder) -> None:
    with folder.serving() as manager:
        port = manager.port
        shown = Terminal("watch", "localhost", str(port), "--workdir", str(folder.root))
        try:
            shown.await_text(r"━+ 0/3")
            manager.stop()
            shown.await_text(rf"no manager answers at localhost:{port}")
        finally:
            shown.process.kill()
            shown.process.wait()


def test_watch_in_a_pipe_prints_a_line_or_json(
    folder: Folder, manager: ExperimentManager, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(manager) as talk:
        for _ in range(3):
            work(talk)
        where = ["localhost", str(manager.port), "--workdir", str(folder.root)]
        assert command(["watch", *where]) == 0
        assert capsys.readouterr().out == "Progress 3/3 (100.0%): 0 assigned, 0 failed, 1 worker\n"
        assert command(["watch", *where, "--json"]) == 0
        assert capsys.readouterr().out.startswith('{"type":"view","status":{"total":3,')
