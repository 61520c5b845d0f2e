"""`rerun`: one task again, on this terminal, and whether its result is that of its row."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from distexp.cli.choice import Choice, Chooser
from distexp.cli.options import KNOWN_CONFIGS, WORKDIR
from distexp.cli.worker import enter, pin
from distexp.errors import NoGpuError, UserError
from distexp.gpu.claim import Claim, PlaceInLine, claim_gpu, claim_gpus
from distexp.gpu.devices import GpuRequest, GpuStatus
from distexp.results.row import STOPPED_AT, is_ours, row_for
from distexp.results.stops import tells_of_stop
from distexp.system.code import SHOWN_DIGITS, CodeState, FolderCode
from distexp.system.long_work import LongWork
from distexp.task import MIB_PER_GB, Need, Provenance, Task
from distexp.text import cut, need_text, one_line
from distexp.workdir import Workdir
from distexp.worker.foreground import Foreground
from distexp.worker.host_setup import HostSetup
from distexp.worker.task_main import Finished, Setup, Stopped

SHOWN_CHARS = 30  # of a value in the comparison
SHORT_COMMIT = 10  # characters of a commit


class Compared(msgspec.Struct, frozen=True):
    """A metric of the row and of the run."""

    name: str
    then: str  # cells; empty where there is none
    now: str
    difference: str = ""  # empty: they are equal, bit for bit

    @property
    def is_equal(self) -> bool:
        """Whether both are the same value."""
        return not self.difference


@click.command()
@click.argument("task")
@click.option("--pdb", is_flag=True, help="Open the debugger where it fails.")
@click.option(
    "--device",
    type=click.Choice(["auto", "gpu", "cpu"]),
    default="auto",
    show_default=True,
    help="auto: the kind that its row names, else a GPU if there is one.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Compute threads on the CPU."
)
@KNOWN_CONFIGS
@WORKDIR
def main(task: str, *, pdb: bool, device: str, threads: int, configs: str | None, workdir: Path) -> int:
    """Run one task again on this terminal, and compare its result with its row.

    TASK is a task id, such as exp1_vary_width_0_42, a key, a run folder, a line of a results file, such as
    results_exp1/final_results.csv:17, or the number of a row, counted from 0 as `load_results` does.

    breakpoint() works, and nothing is kept: no row, no checkpoint. Exit code: 0 the same result, or there is
    no row to compare with; 1 another result, or it failed.
    """
    root = workdir.absolute()
    with LongWork() as work:
        chooser = Chooser(root, configs or Workdir(root).configs, work)
        chosen = chooser.choose(task)
    if chooser.problem:
        print(f"warning: the configs cannot be read: {chooser.problem}", file=sys.stderr)
    print("\n".join(told(chosen, FolderCode(root).now())), flush=True)
    with ExitStack() as held:
        claim = acquire(device, chosen)
        held.callback(claim.release)
        pin(claim, threads)
        enter(root)
        if problem := HostSetup(Workdir(root)).run(chosen.task):
            raise UserError(problem)
        gpus = tuple(gpu.uuid for gpu in claim.gpus)
        setup = Setup(chosen.task.experiment, claim.device, threads, is_warm=False, gpus=gpus)
        run = Foreground(chosen.task, root, setup)
        outcome = run.run(wants_debugger=pdb)
        if run.close():
            print(f"Its files: {run.folder}", flush=True)
    if isinstance(outcome, Stopped):
        print("Ended by you; nothing is compared")
        return 1
    if not isinstance(outcome, Finished):
        return 1
    return report(chosen, outcome)


def acquire(device: str, chosen: Choice) -> Claim:
    """Return the device to run on; GPUs are claimed, so that no worker takes them meanwhile.

    Raises:
        NoGpuError: There is none, or none is free, and a GPU is asked for.
    """
    then, need = (chosen.row or {}).get("device", ""), chosen.task.need
    cpu = Claim("cpu", (), ())
    if device == "cpu" or (device == "auto" and then == "cpu"):
        return cpu
    request = GpuRequest(visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        gpus = request.gpus()
    except NoGpuError:
        if device == "gpu" or need.gpus:
            raise
        return cpu
    if need != Need():
        request = meeting(need, request, gpus, chosen.task.task_id)
    if need.gpus <= 1:
        return claim_gpu(request)
    with PlaceInLine() as place:
        return claim_gpus(need.gpus, request, place=place)


def meeting(need: Need, request: GpuRequest, gpus: Sequence[GpuStatus], task_id: str) -> GpuRequest:
    """Return the request for those of these GPUs alone that have what a task needs.

    Raises:
        UserError: They are too few; it says what is needed and what is there.
    """
    met = [gpu for gpu in gpus if not gpu.error and need.is_met_by(need.gpus, gpu.free_mib, gpu.name)]
    if len(met) < need.gpus:
        there = ", ".join(f"{gpu.label} {gpu.name} ({gpu.error or gpu.memory})" for gpu in gpus)
        needed = need_text(need.gpus, need.min_free_gb or None, need.models)
        raise UserError(
            f"{task_id} needs {needed}; here: {there}. Run it on another machine, or with --device cpu"
        )
    wanted_mib = math.ceil(need.min_free_gb * MIB_PER_GB) - 1  # a request is for more than it says
    most_free_first = sorted(met, key=lambda gpu: -gpu.free_mib)
    ids = tuple(dict.fromkeys(gpu.index for gpu in most_free_first))
    return replace(request, ids=ids, min_free_mib=max(wanted_mib, request.min_free_mib))


def told(chosen: Choice, now: CodeState) -> list[str]:
    """Return what is about to run, and how its row was made."""
    task = chosen.task
    values = ", ".join(f"{name}={value}" for name, value in {**task.config, "seed": task.seed}.items())
    lines = [f"{task.task_id}: {one_line(values)}"]
    if not task.command:
        lines.append(f"Runs {task.experiment} in this process; no row is written")
    if chosen.row is None:
        return [*lines, "It has no row to compare with"]
    made = [
        f"{word} {chosen.row[name]}"
        for name, word in (("started_utc", "of"), ("worker", "by"), ("host", "on"))
        if chosen.row.get(name)
    ]
    return [*lines, f"Its row: {' '.join([chosen.where, *made])}", *_code_told(chosen.row, now)]


def _code_told(row: Mapping[str, str], now: CodeState) -> list[str]:
    """Return which code and commit made the row, and whether it is the code of the folder now."""
    then = CodeState(row.get("code", ""), row.get("git_commit", ""), row.get("git_dirty") == "True")
    if not (then.code or then.commit):
        return []
    if then.code and now.code:
        is_same = then.code == now.code
    else:  # a row of an earlier version, or of another program
        is_same = then.commit == now.commit and not then.is_dirty and not now.is_dirty
    if is_same:
        return [f"Made with the code that is here now: {_state_text(then)}"]
    return [f"Made with other code: {_state_text(then)}; now {_state_text(now)}"]


def _state_text(state: CodeState) -> str:
    code = state.code[:SHOWN_DIGITS]
    commit = f"commit {state.commit[:SHORT_COMMIT]}" if state.commit else "" if code else "no commit"
    changed = "with changed files" if state.commit and state.is_dirty else ""
    return ", ".join(filter(None, [code, commit, changed]))


def report(chosen: Choice, outcome: Finished) -> int:
    """Print the comparison, or without a row the result; return the exit code."""
    cells = row_for(chosen.task, outcome.result, Provenance())
    now = {name: cells[name] for name in outcome.result}
    for note in outcome.notes:
        print(f"warning: {note}", file=sys.stderr)
    if chosen.row is None:
        shown = (f"{name}={cut(one_line(cell), SHOWN_CHARS)}" for name, cell in now.items())
        print(f"Result: {', '.join(shown) or 'no metrics'}")
        return 0
    if tells_of_stop(stopped_at := chosen.row.get(STOPPED_AT, "")):
        print(f"Its row is of step {stopped_at}, where it was stopped early, so they are not compared")
        return 0
    compared = compare(chosen.task, chosen.row, now)
    if not compared:
        print("Neither its row nor this run holds a metric")
        return 0
    print("\n".join(table(compared)))
    equal = sum(each.is_equal for each in compared)
    if equal == len(compared):
        print(f"The same result as its row: {equal} of {equal} metrics are equal, bit for bit")
        return 0
    print(f"Another result than its row: {equal} of {len(compared)} metrics are equal")
    return 1


def compare(task: Task, row: Mapping[str, str], now: Mapping[str, str]) -> list[Compared]:
    """Compare the metrics of a run with those of a row, those of the run first."""
    known = {*task.config, *now}
    then = [name for name in row if row[name] and name not in known and not is_ours(name)]
    missing = then if "worker" in row else []
    both = [
        Compared(name, row.get(name, ""), cell, _difference(row.get(name), cell))
        for name, cell in now.items()
    ]
    return both + [Compared(name, row[name], "", "not there now") for name in missing]


def _difference(then: str | None, now: str) -> str:
    if then is None:
        return "not in the row"
    if then == now:
        return ""
    try:
        before, after = float(then), float(now)
    except ValueError:
        return "differs"
    if before == after or (math.isnan(before) and math.isnan(after)):
        return ""
    return f"differs by {after - before:.3g}"


def table(compared: list[Compared]) -> list[str]:
    """Return the comparison as lines in columns."""
    cells = [("metric", "row", "now", "")]
    for each in compared:
        shown = (cut(one_line(text), SHOWN_CHARS) for text in (each.name, each.then, each.now))
        cells.append((*shown, each.difference or "equal"))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
