"""How far phases are that stop tasks early: what was reached at each rung, how many were stopped there."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from distexp.results.row import RUNGS_FILE
from distexp.results.rungs import RungRecord, read_rungs
from distexp.results.store import PREFIX


class RungSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of one phase."""

    rung: int
    tasks: int  # that have reached it
    stopped: int  # of them, there
    best: float | None  # the value of the best of them; None: no number
    best_task: str


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """One phase that stops tasks early."""

    phase: str
    rungs: list[RungSummary]


def read_searches(root: Path) -> list[Search]:
    """Return what the files `rungs.csv` of a working folder say, by phase."""
    by_phase: dict[str, dict[int, dict[str, RungRecord]]] = {}
    for path in sorted(root.glob(f"{PREFIX}*/{RUNGS_FILE}")):
        for record in read_rungs(path):
            if record.verdict != "again":  # the first value of a task at a rung counts
                by_phase.setdefault(record.phase, {}).setdefault(record.rung, {}).setdefault(
                    record.key, record
                )
    return [
        Search(
            phase=phase, rungs=[_summary(rung, [*found.values()]) for rung, found in sorted(rungs.items())]
        )
        for phase, rungs in by_phase.items()
    ]


def _summary(rung: int, records: Sequence[RungRecord]) -> RungSummary:
    best = [record for record in records if record.rank == 1]  # the best when it came; the last stands
    return RungSummary(
        rung=rung,
        tasks=len(records),
        stopped=sum(record.verdict == "stop" for record in records),
        best=best[-1].value if best else None,
        best_task=best[-1].task_id if best else "",
    )
