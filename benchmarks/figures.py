"""One line of the table: ours, run by run, beside another's, and the bar that it has to clear. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CONFIDENCE = 0.95  # of the interval of a ratio
Verdict = Literal["holds", "MISSED", "reported", "not compared"]
HEAD = ("measure", "ours", "other", "ratio", "spread", "bar", "verdict")


@dataclass(frozen=True)
class Bar:
    """A limit of ours, or of the ratio of ours to the other's."""

    limit: float
    of: Literal["ours", "ratio"]
    is_floor: bool  # a rate has to reach it; a cost may not pass it

    def text(self, unit: str) -> str:
        """Return it as the table shows it."""
        words = "at least" if self.is_floor else "at most"
        return f"{words} {show(self.limit, unit) if self.of == 'ours' else f'{self.limit:g} x'}"

    def holds(self, value: float) -> bool:
        """Return whether a value clears it."""
        return value >= self.limit if self.is_floor else value <= self.limit


def at_most(limit: float) -> Bar:
    """Ours may not pass this."""
    return Bar(limit, "ours", is_floor=False)


def at_least(limit: float) -> Bar:
    """Ours has to reach this."""
    return Bar(limit, "ours", is_floor=True)


def times_at_most(limit: float) -> Bar:
    """Ours may not be more than so many times the other's."""
    return Bar(limit, "ratio", is_floor=False)


def times_at_least(limit: float) -> Bar:
    """Ours has to be at least so many times the other's."""
    return Bar(limit, "ratio", is_floor=True)


@dataclass(frozen=True)
class Figure:
    """What was measured: `ours` and `other` hold one value a run, in `unit`; without `bar` it is reported."""

    name: str
    unit: str  # "/s", "s", "ms", "us", "kB", "MB", "MiB", "%", "" for counts
    ours: Sequence[float]
    bar: Bar | None = None
    beside: str = ""  # what `other` is
    other: Sequence[float] = ()  # empty also where it is not installed
    is_paired: bool = False  # run n of ours was measured beside run n of the other

    @property
    def median(self) -> float:
        """The median of ours."""
        return statistics.median(self.ours)

    @property
    def ratio(self) -> float | None:
        """Median of ours to median of the other's; of pairs, the median of their ratios."""
        if self.is_paired and self.other:
            return statistics.median(self._ratios)
        below = statistics.median(self.other) if self.other else 0.0
        return self.median / below if below else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the ratio of pairs lies with 95 % confidence (sign test); None for too few pairs."""
        ratios, beyond = sorted(self._ratios), 0.0
        for cut in range(len(ratios)):
            beyond += 2 * math.comb(len(ratios), cut) / 2 ** len(ratios)
            if beyond > 1 - CONFIDENCE:
                return (ratios[cut - 1], ratios[-cut]) if cut else None
        return None

    @property
    def _ratios(self) -> list[float]:
        return (
            [ours / other for ours, other in zip(self.ours, self.other, strict=True)]
            if self.is_paired
            else []
        )

    @property
    def spread(self) -> float | None:
        """How far the runs of ours lie apart, as a share of their median; None for a single one."""
        if len(self.ours) < 2 or not self.median:
            return None
        return (max(self.ours) - min(self.ours)) / self.median

    @property
    def verdict(self) -> Verdict:
        """Whether the median clears the bar."""
        if self.bar is None:
            return "reported"
        value = self.median if self.bar.of == "ours" else self.ratio
        if value is None:
            return "not compared"
        return "holds" if self.bar.holds(value) else "MISSED"

    @property
    def holds(self) -> bool:
        """Whether no bar is missed."""
        return self.verdict != "MISSED"

    def cells(self) -> tuple[str, ...]:
        """Return what stands under `HEAD`."""
        other = (
            f"{show(statistics.median(self.other), self.unit)}, {self.beside}" if self.other else self.beside
        )
        return (
            self.name,
            show(self.median, self.unit),
            other or "-",
            self._ratio_text(),
            "-" if self.spread is None else f"{100 * self.spread:.0f} %",
            self.bar.text(self.unit) if self.bar else "-",
            self.verdict,
        )

    def _ratio_text(self) -> str:
        if self.ratio is None:
            return "-"
        between = f" ({self.interval[0]:.3g} to {self.interval[1]:.3g})" if self.interval else ""
        return f"{self.ratio:.3g}{between}"

    def as_json(self) -> dict[str, Any]:
        """Return every value, run by run, and what follows from them."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "beside": self.beside,
            "other": list(self.other),
            "is_paired": self.is_paired,
            "ratio": self.ratio,
            "interval": self.interval,
            "spread": self.spread,
            "bar": vars(self.bar) if self.bar else None,
            "verdict": self.verdict,
        }


def from_json(found: dict[str, Any]) -> Figure:
    """Return the figure that `as_json` was called on."""
    bar = Bar(**found["bar"]) if found["bar"] else None
    words = (found["name"], found["unit"], found["ours"], bar, found["beside"], found["other"])
    return Figure(*words, is_paired=found.get("is_paired", False))


def show(value: float, unit: str) -> str:
    """Return a value with its unit, at three digits or all before the point."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits}{unit}" if unit in ("/s", "/min") else f"{digits} {unit}".rstrip()


def table(figures: Sequence[Figure], *, markdown: bool = False) -> str:
    """Return the figures as a table, one a line."""
    lines = [HEAD, *(figure.cells() for figure in figures)]
    if markdown:
        head, *rest = ["| " + " | ".join(cells) + " |" for cells in lines]
        return "\n".join([head, "|" + "---|" * len(HEAD), *rest])
    widths = [max(len(cells[at]) for cells in lines) for at in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in lines
    )
