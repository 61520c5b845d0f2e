"""Every path of a working folder, and the lock that makes one manager its master.

The manager's own files lie in `.experiment_manager/`.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distexp.errors import AlreadyRunning, UserError
from distexp.run_folder import run_folder
from distexp.sweep.config_files import DEFAULT_CONFIGS, find_configs
from distexp.system import locks
from distexp.system.files import SMALL_BYTES, make_ignored, read_bytes, regular, replace_durably
from distexp.system.network_drives import local_place
from distexp.system.process import ProcessMark, host_name

LOG_FILE = "experiment_manager.log"
OLD_TOKEN = ".experiment_token"  # of earlier versions, and where a copy may lie
NONCE_CHARS = 100  # at most: 32 are written
MAX_PORT = 65535
MAX_PID = 2**31 - 1
EVERYWHERE = ("", "0.0.0.0", "::")  # addresses to bind, not to connect to


@dataclass(frozen=True)
class Workdir:
    """The folder that holds `configs/` and the results."""

    root: Path

    def __post_init__(self) -> None:
        """Refuse a folder whose path no message and no row can hold.

        Raises:
            UserError: Its name is not UTF-8.
        """
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            shown = ascii(str(self.root))
            raise UserError(f"{shown}: the path of the working folder is not UTF-8; rename it") from None

    @property
    def state(self) -> Path:
        """The folder of the manager's own files."""
        return self.root / ".experiment_manager"

    @property
    def local(self) -> Path:
        """Where what the processes of one host share lies: in `state`, unless that is on a network drive.

        Raises:
            UserError: It is, and this host has no place on a disk.
        """
        return local_place(self.root) or self.state

    @property
    def lock(self) -> Path:
        """Whoever holds it is the manager of this folder."""
        return self.local / "lock"

    @property
    def journal(self) -> Path:
        """The SQLite file of `Journal`."""
        return self.local / "journal.sqlite3"

    @property
    def journal_copy(self) -> Path:
        """The same where it was copied back to, on a network drive."""
        return self.state / "journal.sqlite3"

    @property
    def journal_place(self) -> Path:
        """Where the newest journal is, for a folder on a network drive: see `NetworkFolder`."""
        return self.state / "journal_place.json"

    @property
    def pulse(self) -> Path:
        """What the manager of a folder on a network drive writes again and again while it runs."""
        return self.state / "pulse"

    @property
    def info(self) -> Path:
        """Who is the manager here: pid, host, port, and the name of its machine if that is served (JSON)."""
        return self.state / "manager.json"

    @property
    def manager_job(self) -> Path:
        """The number of the job of Slurm that was submitted last to be the manager here."""
        return self.state / "manager_job"

    @property
    def sweep_id(self) -> Path:
        """Which sweep this is; beside the journal, which may be moved away."""
        return self.state / "sweep_id"

    @property
    def nonce(self) -> Path:
        """Who can tell this file's text and its place on the disk shares this folder with the manager."""
        return self.local / "nonce"

    @property
    def cpu_claims(self) -> Path:
        """The locks that number CPU workers."""
        return self.local / "claims"

    def task_lock(self, worker: ProcessMark) -> Path:
        """The lock that is held while something of a local worker's task may run, also after its death."""
        return self.local / "watchers" / f"{worker.pid}-{worker.started:.0f}.lock"

    @property
    def code_copies(self) -> Path:
        """Copies of the code that tasks run from, by hash."""
        return self.state / "code"

    @property
    def setups(self) -> Path:
        """What each host has done of the `setup:` lines of sweep files, and what they printed."""
        return self.state / "setup"

    @property
    def kept_rows(self) -> Path:
        """Rows that the manager could not write yet."""
        return self.spool / "rows"

    @property
    def spool(self) -> Path:
        """Results that could not be handed over yet."""
        return self.root / ".experiment_spool"

    @property
    def certificate(self) -> Path:
        """The manager's private key and certificate (PEM)."""
        return self.state / "certificate.pem"

    @property
    def token(self) -> Path:
        """What a worker has to know: see `wire.auth`."""
        old = self.root / OLD_TOKEN
        return old if os.path.exists(old) else self.state / "token"

    @property
    def log(self) -> Path:
        """The manager's log."""
        return self.root / LOG_FILE

    def worker_log(self, worker_id: str, host: str) -> str:
        """The name of a worker's log in a results folder, which several hosts share on a network drive."""
        return f"worker_{worker_id}.log" if self.local == self.state else f"worker_{host}_{worker_id}.log"

    def results_folder(self, output_dir: str) -> Path:
        """Where the rows of tasks with this `output_dir` are."""
        return self.root / output_dir

    def run_folder(self, output_dir: str, phase: str, seed: int, key: str) -> Path:
        """One task's own folder (log, checkpoint); the same for all attempts, whatever its label."""
        return self.root / run_folder(output_dir, phase, seed, key)

    def read_nonce(self) -> str:
        """Return the text of the nonce with its device and inode, so that a copy of the folder is another.

        It is empty where no manager has written one.
        """
        try:
            with open(self.nonce, encoding="ascii", opener=regular) as file:
                place = os.fstat(file.fileno())
                text = file.read(NONCE_CHARS).strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return f"{text}:{place.st_dev:x}:{place.st_ino:x}" if text.isalnum() else ""

    def read_info(self) -> Mapping[str, Any]:
        """Return what the last manager of this folder wrote about itself; empty when unknown or damaged."""
        return info_in(_read(self.info))

    @property
    def configs(self) -> str:
        """The pattern of config files that the last manager of this folder has read, while it names some."""
        known = str(self.read_info().get("configs") or DEFAULT_CONFIGS)
        return known if find_configs(Path(known), self.root) else DEFAULT_CONFIGS

    def hold(self, wait_s: float = 0.0) -> locks.FileLock:
        """Become the one manager of this folder until the lock is released or the process ends.

        Args:
            wait_s: For whoever holds the lock only to read the journal.

        Raises:
            AlreadyRunning: Another manager holds it; names its pid and port.
            UserError: The folder cannot be written, or its file system has no locks.
        """
        self.make_state()
        try:
            lock = locks.acquire(self.lock, wait_s)
        except TimeoutError:
            raise self.already_running() from None
        except OSError as error:
            raise UserError(
                f"{self.local} must be a folder in which files can be written and locked: {error}"
            ) from None
        if not self.read_nonce():
            write_private(self.nonce, secrets.token_hex(16))
        return lock

    def already_running(self, host: str = "") -> AlreadyRunning:
        """Return what to raise where a manager runs in this folder, perhaps on another host."""
        info, where = self.read_info(), f" on {host}" if host else ""
        return AlreadyRunning(
            f"{self.root}: a manager is already running in this folder "
            f"(pid {info.get('pid', '?')}, port {info.get('port', '?')}){where}. "
            "Stop it, or use another folder with --workdir"
        )

    def make_state(self) -> None:
        """Make the folder of the manager's own files, which git ignores: a secret is among them."""
        with contextlib.suppress(OSError):  # whoever writes the first file there says what is wrong
            make_ignored(self.state)
            self._ignore_old_token()

    def _ignore_old_token(self) -> None:
        exclude = self.root / ".git" / "info" / "exclude"  # no file of the user's
        if not os.path.exists(self.root / OLD_TOKEN) or not os.path.exists(exclude):
            return
        if OLD_TOKEN not in exclude.read_text(encoding="utf-8", errors="replace").splitlines():
            with exclude.open("a", encoding="utf-8") as file:
                file.write(f"\n{OLD_TOKEN}\n")

    def keep_sweep_id(self, new: str) -> str:
        """Return the id of this folder's sweep; `new` when it has none yet. Caller holds the folder."""
        found = _read(self.sweep_id).strip()
        if not found:
            write_private(self.sweep_id, new)
        return found or new

    def fallback_port(self) -> Sequence[int]:
        """Return the port that the last manager here took in place of the default one; none if it did not.

        None, too, once all was done: no worker waits there any more.
        """
        info = self.read_info()
        return [info["port"]] if info.get("is_fallback") and "port" in info and "ended" not in info else []

    def announce(self, host: str, port: int, configs: str = "", *, is_fallback: bool = False) -> None:
        """Write down who the manager of this folder is, where to reach it, and which configs it has read.

        `is_fallback`: nobody has asked for this port. Caller holds the folder.
        """
        told: dict[str, object] = {"pid": os.getpid(), "host": host, "port": port}
        told |= {"configs": configs} if configs else {}
        told |= {"is_fallback": True} if is_fallback else {}
        if host in EVERYWHERE:  # where another machine shares the folder, a loopback address is its own
            told |= {"host": "127.0.0.1", "name": host_name()}
        write_private(self.info, json.dumps(told))

    def announce_left(self, why: str) -> None:
        """Write down that this manager ends though tasks are left, and why. Caller holds the folder."""
        write_private(self.info, json.dumps({**self.read_info(), "left": why}))

    def announce_end(self) -> None:
        """Write down that this manager ends since nothing is left to do. Caller holds the folder."""
        write_private(self.info, json.dumps({**self.read_info(), "ended": secrets.token_hex(8)}))


def info_in(text: str | bytes) -> Mapping[str, Any]:
    """Return what a manager wrote about itself, by the text of its file; empty when unknown or damaged."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) and _is_told(info) else {}


def _is_told(info: Mapping[str, Any]) -> bool:
    """Return whether what is known of a manager can be so: somebody may have edited the file."""
    pid, port = info.get("pid", MAX_PID), info.get("port", MAX_PORT)
    are_texts = all(isinstance(info.get(name, ""), str) for name in ("host", "name", "configs"))
    are_numbers = type(pid) is int and type(port) is int
    return are_texts and are_numbers and 0 < pid <= MAX_PID and 0 < port <= MAX_PORT


def _read(path: Path) -> str:
    try:
        return read_bytes(path, SMALL_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that its owner alone may read, never half written. Caller holds the folder.

    Raises:
        UserError: It cannot be written.
    """
    try:
        replace_durably(path, text.encode(), 0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
