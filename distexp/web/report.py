"""The report of all rows, made when asked for by a process of its own: the page goes on meanwhile."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

MAKE_S = 600.0  # that it may take: a million rows need some minutes
SANDBOX = "sandbox allow-scripts allow-downloads"  # an origin of its own: no cookie, nothing of the page
NOT_YET = "<!doctype html><title>report</title><p>No report yet."


class Report:
    """Makes one report at a time.  For one event loop."""

    def __init__(self, command: Callable[[Path], Sequence[str]]) -> None:
        """Make none yet.

        Args:
            command: Returns the command that writes the report into a file.
        """
        self._command = command
        self._making = asyncio.Lock()
        self.text = NOT_YET

    @property
    def headers(self) -> dict[str, str]:
        """What a browser has to heed."""
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
            f"frame-ancestors 'self'; {SANDBOX}"
        )
        return {"content-security-policy": policy}

    async def make(self) -> str:
        """Make the report, and return why it could not be made; empty: it was."""
        async with self._making:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "report.html"
                process = await asyncio.create_subprocess_exec(
                    *self._command(out),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
                try:
                    _, told = await asyncio.wait_for(process.communicate(), MAKE_S)
                except TimeoutError:
                    return f"the report was not made in {MAKE_S:.0f} s"
                finally:
                    if process.returncode is None:
                        process.kill()
                if process.returncode != 0:
                    lines = told.decode(errors="replace").strip().splitlines() or ["no output"]
                    return lines[-1].removeprefix("error: ")
                self.text = out.read_text(encoding="utf-8")
        return ""
