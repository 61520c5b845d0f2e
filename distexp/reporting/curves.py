"""Learning curves for a report: what chosen tasks have reported over time, thinned out."""

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distexp.reporting.frame import CURVE, load_metrics
from distexp.run_folder import METRICS_FILE

MOST_TASKS = 200  # of a page: more lines than an eye tells apart
MOST_POINTS = 100  # of a curve: as wide as a small chart
MOST_NUMBERS = 200_000  # of all curves: about two megabytes of page
MOST_LOOKS = 1000  # at run folders: on a slow file system each costs some ms
GOLDEN = 0.618034  # its multiples, without their whole part, fill 0 to 1 evenly however many are taken


def curves_of(
    root: Path, run_dirs: Sequence[str], first: Iterable[int], most: int = MOST_TASKS
) -> dict[str, Any]:
    """Return the curves of some rows, and of how many there might be more.

    Args:
        root: The working folder.
        run_dirs: Of each row; empty where it has none.
        first: Rows whose curves are wanted most; the rest are spread evenly over all rows.
        most: Curves that are taken.
    """
    with_folder = [row for row, folder in enumerate(run_dirs) if folder]
    wanted = dict.fromkeys([row for row in first if run_dirs[row]][: most // 2])
    amount = len(with_folder)
    wanted |= dict.fromkeys(
        with_folder[int(amount * (at * GOLDEN % 1))] for at in range(amount and MOST_LOOKS)
    )
    wanted |= dict.fromkeys(with_folder[:MOST_LOOKS])
    found: list[dict[str, Any]] = []
    numbers, is_cut = 0, False
    for row in itertools.islice(wanted, MOST_LOOKS):
        if len(found) == most:
            break
        metrics = _curve(root, run_dirs[row])
        if not metrics:
            continue
        numbers += sum(2 * len(steps) for steps, _ in metrics.values())
        if numbers > MOST_NUMBERS:
            is_cut = True
            break
        found.append({"row": row, "metrics": metrics})
    names = dict.fromkeys(name for each in found for name in each["metrics"])
    return {
        "metrics": [*names],
        "tasks": found,
        "folders": amount,
        "points": MOST_POINTS,
        "cut": is_cut,
    }


def _curve(root: Path, run_dir: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and values of each metric that a task has reported; empty where nothing can be read."""
    if not os.path.isfile(root / run_dir / METRICS_FILE):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = load_metrics(run_dir, workdir=root)
    except (OSError, ValueError):
        return {}
    return thinned(frame)


def thinned(frame: pd.DataFrame) -> dict[str, tuple[list[float], list[float]]]:
    """Return `MOST_POINTS` steps and values at most of each metric, the first and the last among them.

    A step that a later attempt has repeated counts as it was then. `frame`: as `load_metrics` returns it.
    """
    if "step" not in frame or frame.empty:
        return {}
    frame = frame.assign(step=pd.to_numeric(frame["step"], errors="coerce")).dropna(subset=["step"])
    frame = frame.drop_duplicates("step", keep="last").sort_values("step")
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, column in frame.items():
        if name in CURVE or not pd.api.types.is_numeric_dtype(column):  # which booleans are, too
            continue
        values = column.astype("float64")
        is_there = np.isfinite(values)
        steps, values = frame["step"][is_there].to_numpy(), values[is_there].to_numpy()
        if len(steps):
            at = _spread(len(steps))
            found[str(name)] = ([*map(_short, steps[at])], [*map(_short, values[at])])
    return found


def _spread(amount: int) -> Any:
    """Return at most `MOST_POINTS` of so many places, evenly from the first to the last."""
    if amount <= MOST_POINTS:
        return np.arange(amount)
    return np.unique(np.linspace(0, amount - 1, MOST_POINTS).round().astype(int))


def _short(number: float) -> float | int:
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")
