"""`plot.py RESULTS PLOT`: each measure that has a rival as one bar: how many times as good as the other."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main(results: str, plot: str) -> None:
    """Draw `results` (JSON) as the picture `plot`; its name tells the format."""
    found = json.loads(Path(results).read_text(encoding="utf-8"))
    figures = [each for some in found["measures"].values() for each in some if each["ratio"]]
    names = [f"{each['name']} : {each['beside']}" for each in figures]
    better = [each["ratio"] if each["unit"] in ("/s", "/min") else 1 / each["ratio"] for each in figures]
    colours = ["tab:red" if each["verdict"] == "MISSED" else "tab:blue" for each in figures]
    chart, axes = pyplot.subplots(figsize=(12, 1 + 0.32 * len(figures)))
    axes.barh(range(len(figures)), [value - 1 for value in better], left=1, color=colours)
    axes.set_yticks(range(len(figures)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times as good as what stands beside it (red: a bar is missed)")
    chart.tight_layout()
    chart.savefig(plot, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
