"""Run the measures: `python -m benchmarks [NAME ...]`; or one check: `python -m benchmarks NAME [WORD ...]`.

Exit code 1 when a bar is missed. The checks take minutes and options (`--help`), so they run by name alone.
"""

import signal
import sys
from collections.abc import Callable, Sequence

from benchmarks import dripping, flat, fuzz_wire, fuzz_yaml, idle, recovery, report, restart, tls, trainings
from benchmarks.harness import Figure

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "dripping": dripping.measure,
    "flat": flat.measure,
    "idle": idle.measure,
    "recovery": recovery.measure,
    "report": report.measure,
    "restart": restart.measure,
    "tls": tls.measure,
    "trainings": trainings.measure,
}
CHECKS: dict[str, Callable[[Sequence[str]], list[Figure]]] = {
    "fuzz_wire": fuzz_wire.check,
    "fuzz_yaml": fuzz_yaml.check,
}


def main(words: Sequence[str]) -> int:
    """Run what is named, or all measures, and print one table."""
    if words and words[0] in CHECKS:
        return show(CHECKS[words[0]](words[1:]))
    unknown = [name for name in words if name not in MEASURES]
    if unknown:
        known = ", ".join([*MEASURES, *CHECKS])
        print(f"benchmarks: found {unknown[0]}, expected some of {known}", file=sys.stderr)
        return 2
    figures = []
    for name in words or MEASURES:
        print(f"measuring {name} ...", flush=True)
        figures += MEASURES[name]()
    return show(figures)


def show(figures: Sequence[Figure]) -> int:
    """Print one table; return 1 when a bar is missed, else 0."""
    print(f"\n{'measure':<68}{'ours':>12}{'other':>12}{'ratio':>8}  bar")
    for each in figures:
        verdict = "" if each.holds else "  MISSED"
        print(f"{each.name:<68}{each.ours:>12}{each.other:>12}{each.ratio:>8.3f}  {each.bar}{verdict}")
    return int(not all(each.holds for each in figures))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # there are processes to end
    sys.exit(main(sys.argv[1:]))
