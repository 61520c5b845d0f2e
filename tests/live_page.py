"""The live page of a folder, served by a process as a user starts it, and asked without a browser."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support import ENVIRONMENT, poll


@dataclass
class Served:
    """The page of a folder."""

    address: str  # with its token
    process: subprocess.Popen[str]
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # of the last answer

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def ask(
        self, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> tuple[int, dict[str, Any] | list[Any] | str]:
        """Return status and answer; `headers` replace what a browser on the page would send."""
        wanted = {"host": self.host, "cookie": self.cookie, "sec-fetch-site": "same-origin"}
        wanted |= {"origin": f"http://{self.host}"} if method != "GET" else {}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {k: v for k, v in wanted.items() if v})
            answer = connection.getresponse()
            text = answer.read().decode()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            is_json = self.headers.get("content-type") == "application/json"
            return answer.status, json.loads(text) if is_json else text
        finally:
            connection.close()

    def log_in(self) -> None:
        """Open the address, and keep the cookie."""
        parts = urlsplit(self.address)
        status, _ = self.ask(f"{parts.path}?{parts.query}", sec_fetch_site="none")
        assert status == 200
        self.cookie = self.headers["set-cookie"].partition(";")[0]


def is_told(output: Path) -> bool:
    """Whether the line with the page's address is there, and whole."""
    return "\n" in output.read_text().partition("token=")[2]


@contextmanager
def served_page(root: Path, *words: str) -> Iterator[Served]:
    """The page of a folder; its process ends with the block."""
    output = root / "web.out"
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "distexp", "web", "--port", "0", "--workdir", str(root), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=root,
            env=ENVIRONMENT,
        )
    try:
        poll(lambda: is_told(output) or process.poll() is not None, "the page's address")
        told = output.read_text()
        assert "Live page: " in told, told
        yield Served(told.partition("Live page: ")[2].split()[0], process)
    finally:
        process.kill()
        process.wait()
