"""Run the measures: `python -m benchmarks [NAME ...]`. Exit code 1 when a bar is missed."""

import sys
from collections.abc import Callable, Sequence

from benchmarks import flat, idle, recovery, restart, tls, trainings
from benchmarks.harness import Figure

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "flat": flat.measure,
    "idle": idle.measure,
    "recovery": recovery.measure,
    "restart": restart.measure,
    "tls": tls.measure,
    "trainings": trainings.measure,
}


def main(names: Sequence[str]) -> int:
    """Run the named measures, or all, and print one table."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        print(f"benchmarks: found {unknown[0]}, expected some of {', '.join(MEASURES)}", file=sys.stderr)
        return 2
    figures = []
    for name in names or MEASURES:
        print(f"measuring {name} ...", flush=True)
        figures += MEASURES[name]()
    print(f"\n{'measure':<68}{'ours':>12}{'other':>12}{'ratio':>8}  bar")
    for each in figures:
        verdict = "" if each.holds else "  MISSED"
        print(f"{each.name:<68}{each.ours:>12}{each.other:>12}{each.ratio:>8.3f}  {each.bar}{verdict}")
    return int(not all(each.holds for each in figures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
