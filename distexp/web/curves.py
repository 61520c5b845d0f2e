"""The learning curves that tasks have left in their run folders."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from distexp.run_folder import METRICS_FILE
from distexp.system.files import regular
from distexp.text import number_in

MAX_BYTES = 8_000_000  # of a file: its first lines, beyond which the page would wait
POINTS = 300  # of a curve: more than a chart has pixels for
NOT_METRICS = ("attempt", "step", "total", "elapsed_s")

Curve = list[tuple[float, float]]  # (step, value)


def read_curves(folder: Path) -> Mapping[str, Curve]:
    """Return the curve of each metric in a run folder, thinned; nothing where there is none.

    A step that several attempts have reached counts as the last of them reported it.
    """
    try:
        with open(folder / METRICS_FILE, "rb", opener=regular) as file:
            text = file.read(MAX_BYTES).decode(errors="replace")
    except OSError:
        return {}
    whole = text[: text.rfind("\n") + 1]  # the last line may be half written
    found: dict[str, dict[float, float]] = {}
    for row in csv.DictReader(io.StringIO(whole, newline="")):
        step = number_in(row.get("step") or "")
        for name, cell in row.items():
            if step is None or name is None or name in NOT_METRICS:
                continue
            if (value := number_in(cell or "")) is not None:
                found.setdefault(name, {})[step] = value
    return {name: thinned(sorted(points.items())) for name, points in found.items()}


def thinned(points: Curve) -> Curve:
    """Return at most about `POINTS` of the points, the first and the last among them."""
    every = math.ceil(len(points) / POINTS)
    return [point for at, point in enumerate(points) if at % every == 0 or at == len(points) - 1]
