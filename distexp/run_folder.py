"""The folder of one task: what lies in it, and how it is made once there is something to keep.

Until then what the task prints goes to a waiting log beside, which moves into the folder when that is made.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from distexp.system.files import regular
from distexp.task import Task, Value, joined
from distexp.text import cut, harmless_name, one_line

RUNS_FOLDER = "runs"  # in an output_dir: holds the folders of its tasks
LOG_FILE = "log.txt"  # everything the task prints, in all its attempts
METRICS_FILE = "metrics.csv"  # what it reports over time
RESULT_FILE = "result.json"  # what its row does not hold
PARAMETERS_FILE = "params.json"
HALF_PARAMETERS_FILE = ".params.json.tmp"  # until it is whole
CHECKPOINT_FOLDER = "checkpoint"
ROOM_BYTES = 64 * 1024  # a disk with less room than this is full: a log and a row need some of it
HEADER = "# "  # begins each line of ours in a log
MAX_PHASE_CHARS = 80  # in the name of a run folder: a path on Windows has 260, with what the task saves there
MAX_HEADER_CHARS = 2000  # of the parameters there; params.json has them all
MOVES_OPEN_FILES = sys.platform != "win32"


def run_folder(output_dir: str, phase: str, seed: int, key: str) -> Path:
    """Return a task's own folder, from the working folder on: of all attempts, whatever its label."""
    return Path(output_dir, RUNS_FOLDER, harmless_name(f"{name_start(phase, seed)}{key}"))


def name_start(phase: str, seed: int | str) -> str:
    """Return how the names of the run folders of a phase and seed begin; the key tells them apart."""
    return f"{phase[:MAX_PHASE_CHARS]}_{seed}_"


def key_in(folder: Path) -> str:
    """Return the key that ends the name of a run folder."""
    return folder.name.rpartition("_")[2]


def header(task: Task, attempt: int, where: str, now: datetime | None = None) -> str:
    """Return the lines above what an attempt prints; a command adds the words that it is started with."""
    when = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M:%S UTC")
    parameters = json.dumps({**task.config, "seed": task.seed}, ensure_ascii=False)
    lines = [
        f"{task.task_id}, attempt {attempt}, on {where}, {when}",
        f"parameters: {cut(parameters, MAX_HEADER_CHARS)}",
        *([] if task.command else [f"runs {task.experiment}"]),
    ]
    return "".join(f"{HEADER}{one_line(line)}\n" for line in lines)


def write_parameters(folder: Path, parameters: Mapping[str, Value], seed: int) -> None:
    """Write `params.json`: parameters as the experiment gets them, and the seed.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps({**parameters, "seed": seed}, ensure_ascii=False, indent=2)
    half = folder / HALF_PARAMETERS_FILE
    try:
        with open(half, "w", encoding="utf-8", errors="replace", opener=regular) as file:
            file.write(text + "\n")
    except OSError:  # a full disk, say
        with suppress(OSError):
            half.unlink()
        raise
    with suppress(FileNotFoundError):  # another thread, or the worker, was first, with the same text
        os.replace(half, folder / PARAMETERS_FILE)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a task that runs, which may not exist yet."""

    path: Path
    task: Task
    waiting_log: Path  # what the task prints, until there is a folder

    @classmethod
    def of(cls, path: Path, task: Task) -> "RunFolder":
        """Return the folder of a task that is about to run."""
        runs, name = path.parent, f".{task.key}.log"
        beside = runs if os.path.isdir(runs) else runs.parent  # on its disk, also of a link to another
        earlier = runs.parent / name  # of an attempt that was killed while it waited there
        return cls(path, task, earlier if os.path.exists(earlier) else beside / name)

    @property
    def log(self) -> Path:
        """Where the log of all attempts is, once there is something in it."""
        return self.path / LOG_FILE

    def open(self) -> None:
        """Make the folder, with the parameters and what the task has printed, unless that is done.

        Raises:
            OSError: It cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if os.path.exists(self.path / PARAMETERS_FILE):
            (self.path / HALF_PARAMETERS_FILE).unlink(missing_ok=True)  # of an attempt that was killed
        else:
            write_parameters(self.path, joined(self.task.config), self.task.seed)
        if not os.path.exists(self.log):
            with suppress(FileNotFoundError):  # another thread, or the worker, was first
                os.rename(self.waiting_log, self.log)

    def begin_log(self, text: str) -> tuple[Path, int]:
        """Write the header of an attempt; return its log, and where in there what it prints begins.

        That is the waiting log, unless there is a folder or an earlier attempt was killed while it waited.
        A new waiting log also shows that the disk has room.

        Raises:
            OSError: It cannot be written.
        """
        log = self.waiting_log
        if self.task.command or os.path.isdir(self.path) or os.path.exists(log) or not MOVES_OPEN_FILES:
            self.open()
            log = self.log
        try:
            with open(log, "ab", opener=regular) as file:
                file.write(text.encode(errors="replace"))
                start = file.tell()
                if log != self.log:
                    file.write(bytes(ROOM_BYTES))
                    file.truncate(
                        start
                    )  # not to nothing: ext4 would bring such a file to the disk when closed
            return log, start
        except OSError:
            if log != self.log:
                log.unlink(missing_ok=True)
            raise

    def end_log(self, log: Path, start: int, *, keeps: bool = False) -> bool:
        """Make the folder if the attempt has printed something; return whether there is one.

        Args:
            log: As `begin_log` returned it, and `start` too.
            keeps: Also make it for an attempt that has printed nothing.

        Raises:
            OSError: It cannot be made.
        """
        if log == self.log:
            if not MOVES_OPEN_FILES and not keeps:
                self._remove_if_bare(start)
        elif keeps or (os.path.exists(log) and log.stat().st_size > start):
            self.open()
        else:
            log.unlink(missing_ok=True)
        return os.path.isdir(self.path)

    def _remove_if_bare(self, start: int) -> None:
        """Remove a folder that holds no more than how its only attempt began."""
        with suppress(OSError):  # another program looks at it: it stays
            if {*os.listdir(self.path)} == {LOG_FILE, PARAMETERS_FILE} and self.log.stat().st_size == start:
                shutil.rmtree(self.path)
