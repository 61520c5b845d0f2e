"""Run the measures: `python -m benchmarks [--out FOLDER] [NAME ...]`; one check: `... NAME [WORD ...]`.

Exit code 1 when a bar is missed. The checks take minutes and options (`--help`), so they run by name alone.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import (
    dripping,
    durable,
    flat,
    frame,
    fullpath,
    fuzz_wire,
    fuzz_yaml,
    gap,
    gpu,
    html_report,
    idle,
    million,
    recovery,
    restart,
    scan,
    soak,
    start,
    sweep_forms,
    thousand,
    tls,
    trainings,
    view,
    web,
)
from benchmarks.figures import Figure, table
from benchmarks.report import draw, save
from benchmarks.search import check as search

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "durable": durable.measure,
    "fullpath": fullpath.measure,
    "trainings": trainings.measure,
    "gap": gap.measure,
    "start": start.measure,
    "million": million.measure,
    "sweep_forms": sweep_forms.measure,
    "scan": scan.measure,
    "flat": flat.measure,
    "thousand": thousand.measure,
    "gpu": gpu.measure,
    "dripping": dripping.measure,
    "idle": idle.measure,
    "recovery": recovery.measure,
    "html_report": html_report.measure,
    "frame": frame.measure,
    "restart": restart.measure,
    "tls": tls.measure,
    "view": view.measure,
    "web": web.measure,
}
CHECKS: dict[str, Callable[[Sequence[str]], list[Figure]]] = {
    "fuzz_wire": fuzz_wire.check,
    "fuzz_yaml": fuzz_yaml.check,
    "search": search.check,
    "soak": soak.check,
}


def main(words: Sequence[str]) -> int:
    """Run what is named, or all measures; print one table, and keep it as JSON and as a plot."""
    if words and words[0] in CHECKS and not {*words[1:]} & MEASURES.keys():
        found = CHECKS[words[0]](words[1:])
        print("", table(found), sep="\n")
        return int(not all(each.holds for each in found))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(MEASURES)}")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        metavar="FOLDER",
        help="where results.json and results.png go (default: benchmarks/)",
    )
    settings = parser.parse_args(words)
    known = MEASURES | {name: partial(check, ()) for name, check in CHECKS.items()}
    if unknown := [name for name in settings.names if name not in known]:
        print(
            f"benchmarks: no benchmark is called {unknown[0]}; there are {', '.join(known)}", file=sys.stderr
        )
        return 2
    return run({name: known[name] for name in settings.names or MEASURES}, settings.out)


def run(measures: dict[str, Callable[[], list[Figure]]], out: Path) -> int:
    """Run these, one after the other; `out` has their figures also when a later one breaks off."""
    figures: dict[str, list[Figure]] = {}
    for name, measure in measures.items():
        print(f"measuring {name} ...", end=" ", flush=True)
        began_s = time.monotonic()
        figures[name] = measure()
        print(f"{time.monotonic() - began_s:.0f} s", flush=True)
        results = save(figures, out)
    everything = [figure for found in figures.values() for figure in found]
    print("", table(everything), "", results, draw(results), sep="\n")
    return int(not all(figure.holds for figure in everything))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # there are processes to end
    sys.exit(main(sys.argv[1:]))
