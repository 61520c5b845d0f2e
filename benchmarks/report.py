"""What is kept of a run: figures, machine, a plot. `python -m benchmarks.report` prints them as Markdown.

`--into docs/performance.md` puts that text between the two marks of the page.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figures import Figure, from_json, table
from benchmarks.rivals import PYTHON, versions

RESULTS = Path(__file__).with_name("results.json")
BEGIN, END = "<!-- table: python -m benchmarks.report -->", "<!-- end of table -->"


def save(figures: Mapping[str, Sequence[Figure]], out: Path) -> Path:
    """Write the figures by measure, with the machine, to `out`/results.json, and return that path."""
    found = {
        "machine": machine(),
        "measured_utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "measures": {name: [figure.as_json() for figure in some] for name, some in figures.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / RESULTS.name
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Return what the figures depend on; no names."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_end": round(psutil.getloadavg()[0], 1),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def draw(results: Path) -> str:
    """Draw the ratios beside `results` and return the plot's path; or say what is missing for it."""
    if "matplotlib" not in versions():
        return "no plot: matplotlib is not installed; `python -m benchmarks.rivals install` brings it"
    plot = results.with_suffix(".png")
    script = Path(__file__).with_name("rivals") / "plot.py"
    subprocess.run([str(PYTHON), str(script), str(results), str(plot)], check=True)
    return str(plot)


def markdown(results: Path) -> str:
    """Return the table, headed by machine and date."""
    found = json.loads(results.read_text(encoding="utf-8"))
    about = found["machine"]
    figures = [from_json(each) for some in found["measures"].values() for each in some]
    return (
        f"Measured {found['measured_utc']} UTC on {about['cores']} cores ({about['cpu']}), "
        f"{about['memory_gib']} GiB, {about['os']}, Python {about['python']}.\n\n"
        f"{table(figures, markdown=True)}\n"
    )


def main(words: Sequence[str]) -> int:
    """Print the table, or put it between the marks of a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="replace what stands between its marks")
    settings = parser.parse_args(words)
    text = markdown(settings.results)
    if settings.into is None:
        print(text)
        return 0
    page = settings.into.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        print(f"{settings.into}: lacks {BEGIN} or {END}; write both where the table belongs", file=sys.stderr)
        return 2
    before, rest = page.split(BEGIN, 1)
    settings.into.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
