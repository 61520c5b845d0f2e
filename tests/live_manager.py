"""A real manager in this process with a folder of its own, and raw sockets that speak to it."""

import csv
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distexp import __version__
from distexp.manager.manager import ExperimentManager
from distexp.system.process import machine_id
from distexp.workdir import Workdir

CONFIG = """
defaults: {{output_dir: "./results_exp1", experiment: "absent_module:run"}}
exp1_vary_width:
  combinations:
    - width: {widths}
"""
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Folder:
    """A working folder with one phase, `exp1_vary_width`, in `configs/config_exp1.yaml`."""

    root: Path

    def configure(self, widths: object, text: str = CONFIG, name: str = "config_exp1.yaml") -> None:
        """Write a config; each edit shows in its time, however coarse the clock of the file system."""
        path = self.root / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before_ns = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(text.format(widths=widths), encoding="utf-8")
        if path.stat().st_mtime_ns <= before_ns:
            os.utime(path, ns=(before_ns + 1, before_ns + 1))

    @property
    def csv(self) -> Path:
        return self.root / "results_exp1" / "final_results.csv"

    def add_rows(self, *lines: str, header: str = "width,seed,score", place: str = "results_exp1") -> None:
        """Append lines as another program does; a new file begins with `header`."""
        path = self.root / place / "final_results.csv"
        path.parent.mkdir(exist_ok=True)
        is_new = not path.exists()
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in ([header] if is_new else []) + list(lines)))

    def rows(self, folder: str = "results_exp1") -> list[dict[str, str]]:
        path = self.root / folder / "final_results.csv"
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def log(self) -> list[str]:
        """The lines of experiment_manager.log without their times."""
        text = (self.root / "experiment_manager.log").read_text(encoding="utf-8")
        return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]

    @property
    def token_text(self) -> str:
        """What a worker on another machine is given."""
        return Workdir(self.root).token.read_text(encoding="utf-8")

    @property
    def token(self) -> str:
        """The secret, for the field `token` of a plain JSON message."""
        secret: str = json.loads(self.token_text)["secret"]
        return secret

    @contextmanager
    def serving(self, **settings: Any) -> Iterator[ExperimentManager]:
        """A manager of this folder on a free port, which looks at the disk when asked to.

        Nobody else gets that port meanwhile, so that a later manager can have it once this one has stopped.
        """
        port = 0
        with socket.socket() as place:
            if sys.platform == "linux":  # elsewhere a port that is bound cannot be bound again
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                place.bind(("127.0.0.1", 0))
                port = place.getsockname()[1]
            manager = ExperimentManager(port=port, workdir=self.root, **{"rescan_s": 3600.0, **settings})
            manager.start()
            try:
                yield manager
            finally:
                manager.stop()


class RawClient:
    """One connection, without the product's client."""

    def __init__(self, port: int, **always: Any) -> None:
        """Connect; every message but `status` that `say` sends holds the fields `always`."""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._always = always
        self._rest = b""

    def say(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Send one message without newline and return the reply."""
        self.send(type_, **fields)
        return self.read()

    def send(self, type_: str, **fields: Any) -> None:
        """Send one message without newline."""
        always = {} if type_ == "status" else self._always
        self.socket.sendall(json.dumps({"type": type_, **always, **fields}).encode())

    def read(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = self.socket.recv(65536)
            assert data, "the manager closed the connection instead of answering"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def is_ended(self) -> bool:
        """Whether the manager closes the connection; waits for it."""
        return self.socket.recv(1) == b""

    def reset(self) -> None:
        """Close the connection with a reset instead of a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


def secret_of(manager: ExperimentManager) -> str:
    """The secret that a plain JSON client has to show."""
    return Folder(manager.workdir.root).token


def worker(manager: ExperimentManager, name: str = "gpu0", *, shares: bool = True, **more: Any) -> RawClient:
    """A connection that speaks as a worker of the product does, by default one that shares the folder."""
    about = {
        "token": secret_of(manager),
        "worker_id": name,
        "heartbeat_s": 15,
        "instance": f"{name}-1",
        "version": __version__,
        "machine": machine_id(),
        "nonce": manager.workdir.read_nonce() if shares else "",
    }
    return RawClient(manager.port, **about | more)
