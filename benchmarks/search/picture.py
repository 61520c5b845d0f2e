"""`python -m benchmarks.search.picture`: docs/search_curves.svg from the last run; prints its table, too."""

import subprocess
import sys
from pathlib import Path

from benchmarks.rivals import PYTHON, versions
from benchmarks.search.check import KEPT, kept
from benchmarks.search.strategies import Searches

PROJECT = Path(__file__).resolve().parents[2]
PICTURE = PROJECT / "docs" / "search_curves.svg"
SCRIPT = PROJECT / "benchmarks" / "rivals" / "plot_search.py"


def table(found: list[Searches]) -> str:
    """Return the epochs of each strategy as Markdown."""
    lines = ["| strategy | epochs (median) | quartiles | searches |", "|---|---|---|---|"]
    for each in found:
        low, median, high = each.quartiles
        lines.append(f"| {each.name} | {median:g} | {low:.0f} to {high:.0f} | {len(each.best)} |")
    return "\n".join(lines)


def main() -> int:
    """Draw and print; return 1 where something is missing for it."""
    if not KEPT.exists():
        print("nothing to draw: run `python -m benchmarks search` first", file=sys.stderr)
        return 1
    print(table(kept()))
    if "matplotlib" not in versions():
        print("no picture: `python -m benchmarks.rivals install` brings matplotlib", file=sys.stderr)
        return 1
    return subprocess.run([str(PYTHON), str(SCRIPT), str(KEPT), str(PICTURE)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
