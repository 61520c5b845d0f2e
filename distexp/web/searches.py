"""How far phases are that stop tasks early: what was reached at each rung, how many were stopped there."""

from pathlib import Path

import msgspec

from distexp.results.row import RUNGS_FILE
from distexp.results.rungs import RungRecord, RungSummary, summaries_of
from distexp.results.store import rungs_of
from distexp.web.phases import KnownPhases


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """One phase that stops tasks early."""

    phase: str
    metric: str
    rungs: list[RungSummary]


def read_searches(root: Path, known: KnownPhases) -> list[Search]:
    """Return how far those phases are of which some task has come to a rung."""
    stopping = [(phase, phase.halving) for phase in known.phases if phase.halving]
    if not stopping:
        return []
    by_name: dict[str, list[RungRecord]] = {}
    folders = [folder for phase, _ in stopping for folder in known.folders(phase, RUNGS_FILE)]
    for record in rungs_of(root, folders):
        by_name.setdefault(record.phase, []).append(record)
    found = []
    for phase, halving in stopping:
        names = reversed([phase.name, *phase.renamed_from.get("phase", ())])  # the oldest first
        records = [record for name in names for record in by_name.get(name, ())]
        if rungs := summaries_of(records, halving):
            found.append(Search(phase=phase.name, metric=halving.metric, rungs=rungs))
    return found
