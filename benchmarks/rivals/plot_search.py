"""`plot_search.py SEARCHES PICTURE`: how near the best each strategy is after so many epochs (median)."""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

EPOCHS = 300


def main(searches: str, picture: str) -> None:
    """Draw `searches` (JSON) as the picture; its name tells the format."""
    pyplot.rcParams["svg.hashsalt"] = "search"  # the same picture from the same figures
    chart, axes = pyplot.subplots(figsize=(8, 4))
    for each in json.loads(Path(searches).read_text(encoding="utf-8")):
        curves = [best[:EPOCHS] + best[-1:] * (EPOCHS - len(best)) for best in each["best"]]
        medians = [statistics.median(points) for points in zip(*curves, strict=True)]
        axes.step(range(1, EPOCHS + 1), medians, where="post", label=each["name"])
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    axes.set_ylim(0.2, 40)
    axes.set_xlim(0, EPOCHS)
    axes.set_xlabel("epochs spent, all trainings together")
    axes.set_ylabel("points below the best val_acc of all")
    axes.legend()
    chart.tight_layout()
    chart.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
