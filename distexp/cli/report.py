"""`report`: one HTML file to look at a sweep with."""

from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from distexp.cli.options import KNOWN_CONFIGS, WORKDIR
from distexp.cli.records import known_failures, superseded_in, tasks_in
from distexp.errors import UserError
from distexp.results.audit import audit, told_other_code
from distexp.results.store import rungs_of
from distexp.sweep.config import load_configs
from distexp.sweep.source import READING
from distexp.system.files import replace_durably
from distexp.system.gc import set_aside
from distexp.system.long_work import LongWork
from distexp.system.process import host_name
from distexp.workdir import Workdir

OUT_FILE = "report.html"
NEEDED = ("pandas", "plotly", "scipy")  # the extra `report`


@click.command()
@click.option(
    "--metric", help="What is shown first. [default: the configs' metric, else the first one of the rows]"
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Where to write. [default: {OUT_FILE} in the working folder]",
)
@KNOWN_CONFIGS
@WORKDIR
@set_aside()
def main(metric: str | None, out: Path | None, configs: str | None, workdir: Path) -> int:
    """Write one HTML file that needs no network.

    Charts with intervals over seeds, coloured by a second axis; heat maps; what each axis explains; the best
    combinations; any column against any other; learning curves; failures; time; a table of all rows.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"report: install what it needs: pip install {' '.join(missing)}")
    from distexp.reporting.aggregate import make_report  # pandas, which may be missing until here
    from distexp.reporting.curves import curves_of
    from distexp.reporting.html import make_page

    folder = Workdir(workdir.absolute())
    out = out or folder.root / OUT_FILE
    with LongWork() as work:
        work.begin(READING)
        phases = load_configs([Path(configs or folder.configs)], folder.root)
        tasks, to_come = tasks_in(folder, phases)
        rungs = [*rungs_of(folder.root, [task.output_dir for task in tasks if task.grid.halving])]
        files = audit(folder.root, tasks, superseded_in(folder), work, to_come)
        work.begin("Drawing the charts")
        other_code = told_other_code(folder.root, files)
        curves = partial(curves_of, folder.root)
        failures = known_failures(folder)
        report = make_report(
            phases, tasks, files, failures, metric, to_come=to_come, rungs=rungs, curves=curves
        )
        work.begin("Writing the page")
        made = f"{folder.root} on {host_name()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        made += f"; {other_code}" if other_code else ""
        page = make_page(report, title=folder.root.name, made=made)
    try:
        replace_durably(out, page.encode(), 0o644)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    totals = report["totals"]
    stopped = f", {totals['pruned']} stopped early" if totals["pruned"] else ""
    print(f"Wrote {out}: {totals['complete']} of {totals['tasks']} tasks complete{stopped}")
    return 0
