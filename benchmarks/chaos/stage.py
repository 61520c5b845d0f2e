"""Where a run happens: folders, the manager, the workers, and what they say.

Every process is started as a user starts it, apart from the time in which it lives (`fast`). What it prints
comes through a pipe, so that a full disk loses no line, and gets the time of its arrival.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.checks import Line
from benchmarks.chaos.experiments import DIARY_VARIABLE
from benchmarks.chaos.fast import HOST_VARIABLE, WALL_VARIABLE
from benchmarks.chaos.plan import Placement
from benchmarks.chaos.relay import Relay
from benchmarks.harness import PROJECT
from distexp.search.history import known_tasks
from distexp.sweep.config import load_configs
from distexp.sweep.config_files import DEFAULT_CONFIGS
from distexp.task import Task
from distexp.wire.auth import TOKEN_VARIABLE
from distexp.workdir import Workdir

MARK_VARIABLE = "CHAOS_RUN"
LEAVES = ("No task is left", "Giving task")  # what a worker says when it leaves by itself, or was told to
LAST_TASK = "Finishing the current task"
ASKED = "Asked task"  # to stop, since its worker is to leave; it may complete all the same
GOES_ON = "Running task"  # it gives a task back, too, when it could start no process, and then goes on
UNWRITTEN = ("the records are kept and tried again", "see why that cannot be written")  # by a full disk
OTHER_TOKEN = "this manager's certificate is not the one"  # the folder with that of its token was deleted
IS_LOST = "was deleted or replaced while the manager ran"
MANAGER_WAIT_S = 240  # of the worker's time: longer than any absence of the manager
END_S = 10.0  # for killed processes
NAP_S = 0.05  # between two looks at how late this process is woken
PORTS = range(
    20_000, 30_000
)  # below those that the system gives to clients: a restarted manager finds its own


@dataclass
class Actor:
    """A process of the product."""

    name: str
    process: subprocess.Popen[str]
    placement: Placement | None  # None: a manager
    reader: threading.Thread
    said: list[str] = field(default_factory=list)
    is_killed: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def serves(self) -> bool:
        """Whether this manager has said that it serves."""
        return self._has_said("Manager serves")

    @property
    def is_excused(self) -> bool:
        """Whether its exit code says nothing.

        It was killed, met a broken config, lost its folder, was stopped while its disk was full, or was
        leaving: an interpreter that unwinds takes signals as if nobody had asked for them.
        """
        if self.placement is None:
            is_full = self.said[-1:] != [] and self.said[-1].endswith(UNWRITTEN)
            return self.is_killed or is_full or self._has_said("error: configs/") or self._has_said(IS_LOST)
        is_late = self.process.returncode in (-signal.SIGTERM, -signal.SIGINT)
        return self.is_killed or (is_late and self._is_leaving()) or self._has_said(OTHER_TOKEN)

    def _is_leaving(self) -> bool:
        told = [text for text in self.said if any(words in text for words in (*LEAVES, GOES_ON))]
        is_last = self._has_said(LAST_TASK) or self._has_said(ASKED)
        if is_last and self.said[-1].endswith(" completed"):
            return True
        return bool(told) and GOES_ON not in told[-1]

    def _has_said(self, words: str) -> bool:
        return any(words in text for text in self.said)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; none to a process that has ended."""
        self.is_killed |= number is signal.SIGKILL
        self.process.send_signal(number)

    def tree(self) -> list[psutil.Process]:
        """Return what it has started and what those have started."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []


class Lateness(threading.Thread):
    """Measures how late a thread is woken at worst: so are, on a busy machine, those of every process."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__(daemon=True, name="lateness")
        self.worst_s = 0.0
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        """Sleep and look at the clock, again and again."""
        is_over = False
        while not is_over:
            due_s = time.monotonic() + NAP_S
            is_over = self._is_over.wait(NAP_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due_s)

    def end(self) -> None:
        """Measure no more."""
        self._is_over.set()


class Stage:
    """The folders and processes of one run."""

    def __init__(self, root: Path, speed: float, far_hosts: int, config: str) -> None:
        """Make the folders; start nothing."""
        self.root, self.speed = root, speed
        self.mark = uuid.uuid4().hex
        self.workdir = Workdir(root / "work")
        self.folders = [self.workdir.root, *(root / f"far{number + 1}" for number in range(far_hosts))]
        for folder in self.folders:
            folder.mkdir(parents=True)
        (self.workdir.root / "configs").mkdir()
        self.known: dict[str, Task] = {}
        self.write_config(config)
        self.port = _free_port()
        self.relays = [Relay(lambda: self.port) for _ in range(far_hosts)]
        self.manager: Actor | None = None
        self.workers: list[Actor] = []
        self.actors: list[Actor] = []
        self.lines: list[Line] = []
        self.news = threading.Event()  # a line has come since it was cleared
        self.lateness = Lateness()
        self.is_state_away = False  # the manager's folder; no manager is started meanwhile
        self.turn_clock(0)

    # -- the disk ------------------------------------------------------------------------------------------

    def write_config(self, text: str, *, is_broken: bool = False) -> None:
        """Replace the config file as an editor does."""
        path = self.workdir.root / "configs" / "config_exp1.yaml"
        path.with_suffix(".new").write_text(text, encoding="utf-8")
        os.replace(path.with_suffix(".new"), path)
        self.is_broken = is_broken
        if not is_broken:
            self.known |= {task.task_id: task for task in self.wanted()}

    def wanted(self) -> list[Task]:
        """Return the tasks that the config file asks for now; of a search those that have left a row."""
        phases = load_configs([Path(DEFAULT_CONFIGS)], self.workdir.root)
        return [point.task for point in known_tasks(phases, self.workdir.root).tasks]

    def turn_clock(self, offset_s: float) -> None:
        """Let the wall clock of every process be off by so much."""
        (self.root / "wall.new").write_text(str(offset_s), encoding="ascii")
        os.replace(self.root / "wall.new", self.root / "wall")

    @property
    def diary(self) -> Path:
        """What the attempts wrote."""
        return self.root / "diary.jsonl"

    # -- processes -----------------------------------------------------------------------------------------

    def start_manager(self, *words: str) -> Actor:
        """Start the folder's manager."""
        name = f"manager{sum(actor.placement is None for actor in self.actors)}"
        words = ("--port", str(self.port), "--workdir", str(self.workdir.root), *words)
        self.manager = self._start(name, None, "experiment_manager.py", words, {})
        return self.manager

    def start_worker(self, placement: Placement) -> Actor:
        """Start a worker; elsewhere it is told where the manager is, and the token."""
        folder, words, environment = self.folders[placement.far], list[str](), dict[str, str]()
        if placement.far:
            words = ["127.0.0.1", str(self.relays[placement.far - 1].port)]
            environment = {TOKEN_VARIABLE: self.token(), HOST_VARIABLE: f"far{placement.far}"}
        words += ["--device", "cpu", "--workdir", str(folder), "--start-method", placement.start_method]
        words += ["--manager-wait-s", str(MANAGER_WAIT_S)]
        name = f"worker{len(self.actors)}@{folder.name}"
        worker = self._start(name, placement, "experiment_runner_gpu.py", words, environment)
        self.workers.append(worker)
        return worker

    def is_ready_for(self, placement: Placement) -> bool:
        """Return whether a user could start this worker: elsewhere, only once there is a token to copy."""
        return placement.far == 0 or self.workdir.token.exists()

    def token(self) -> str:
        """Return what the user copies to another host: the whole text of the token file."""
        return self.workdir.token.read_text(encoding="utf-8")

    def _start(
        self,
        name: str,
        placement: Placement | None,
        script: str,
        words: tuple[str, ...] | list[str],
        more: dict[str, str],
    ) -> Actor:
        environment = {
            **{key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE},
            "PYTHONPATH": str(PROJECT),
            MARK_VARIABLE: self.mark,
            DIARY_VARIABLE: str(self.diary),
            WALL_VARIABLE: str(self.root / "wall"),
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.fast", str(self.speed), str(PROJECT / script), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=PROJECT,
            env=environment,
            start_new_session=True,  # a Ctrl+C for the driver is not for them
        )
        actor = Actor(name, process, placement, threading.Thread())
        actor.reader = threading.Thread(target=self._listen, args=(actor,), daemon=True, name=name)
        actor.reader.start()
        self.actors.append(actor)
        return actor

    def _listen(self, actor: Actor) -> None:
        assert actor.process.stdout is not None
        for line in actor.process.stdout:
            text = line.rstrip("\n")
            actor.said.append(text)
            self.lines.append(Line(time.monotonic(), actor.name, text))
            self.news.set()

    def left_over(self) -> list[psutil.Process]:
        """Return the live processes that this run has started, by whatever way."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    process.environ().get(MARK_VARIABLE) == self.mark
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def close(self) -> None:
        """End whatever still runs."""
        self.lateness.end()
        for relay in self.relays:
            relay.close()
        for actor in self.actors:
            actor.process.kill()  # whatever its environment shows just now
        until_s = time.monotonic() + END_S
        while (left := self.left_over()) and time.monotonic() < until_s:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)
        for actor in self.actors:
            with suppress(subprocess.TimeoutExpired):
                actor.process.wait(END_S)
            actor.reader.join(1.0)
            if actor.process.stdout is not None and not actor.reader.is_alive():
                actor.process.stdout.close()


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
