"""`plan`: what would a manager do? Starts nothing, writes nothing."""

from pathlib import Path

import click
import msgspec

from distexp.cli.options import KNOWN_CONFIGS, WORKDIR
from distexp.cli.records import superseded_in, tasks_in
from distexp.reporting.plan import FilePlan, PhasePlan, Plan, make_plan
from distexp.results.audit import audit, told_other_code
from distexp.results.store import rungs_of
from distexp.sweep.config import load_configs
from distexp.sweep.source import READING
from distexp.system.gc import set_aside
from distexp.system.long_work import LongWork
from distexp.text import count_text, duration_text, need_text
from distexp.workdir import Workdir


@click.command()
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="How many share the work."
)
@KNOWN_CONFIGS
@WORKDIR
@click.option("--axes", is_flag=True, help="The axes of plain grids too, and some of their tasks.")
@click.option("--json", is_flag=True, help="The same as one JSON object.")
@set_aside()
def main(workers: int, configs: str | None, workdir: Path, axes: bool, json: bool) -> int:
    """Show what a manager would do; starts nothing and writes nothing.

    Tasks per phase and file, axes as they were understood, what is complete, rows that do not count and
    why, and the hours that the rest takes.
    """
    folder = Workdir(workdir.absolute())
    with LongWork() as work:
        work.begin(READING)
        phases = load_configs([Path(configs or folder.configs)], folder.root)
        tasks, to_come = tasks_in(folder, phases)
        superseded = superseded_in(folder)
        files = audit(folder.root, tasks, superseded, work, to_come)
        rungs = [*rungs_of(folder.root, [task.output_dir for task in tasks if task.grid.halving])]
        work.begin("Adding up")
        other_code = told_other_code(folder.root, files)
        again = superseded.keys()
        plan = make_plan(phases, tasks, files, workers, to_come, rungs=rungs, superseded=again)
        plan = msgspec.structs.replace(plan, other_code=other_code)
    print(msgspec.json.format(msgspec.json.encode(plan)).decode() if json else "\n".join(told(plan, axes)))
    return 0


def told(plan: Plan, axes: bool = False) -> list[str]:
    """Return the plan as lines for a person, with axes and some tasks of phases that are no plain grid."""
    width = max(len(line.phase) for line in plan.phases)
    lines = []
    config = ""
    for phase in plan.phases:
        name, _, _ = phase.where.rpartition(":")
        if name != config:
            lines.append(name)
            config = name
        numbers = _numbers(phase)
        time = _time(phase.seconds) if phase.left else ""
        need = need_text(phase.gpus, phase.min_free_gb, phase.gpu_model)
        lines.append(f"  {phase.phase:<{width}}  {numbers}{time}{f', each on {need}' if need else ''}")
        if phase.rungs:
            lines.append(f"      {phase.rungs}")
        if axes or not phase.is_grid:
            lines += [f"      {line}" for line in (*phase.axes, *phase.examples)]
    lines.append(f"{'Sum':<{width + 2}}  {_numbers(plan)}")
    for file in plan.files:
        lines += _file(file)
    if plan.other_code:
        lines.append(f"{plan.other_code}: run --retry-other-code runs them again")
    if not plan.files:
        lines.append("No results file is there yet")
    return [*lines, _estimate(plan)]


def _numbers(part: PhasePlan | Plan) -> str:
    is_open = isinstance(part, PhasePlan) and part.to_come
    tasks = f"up to {part.tasks}" if is_open else str(part.tasks)
    shown = f"{tasks:>7} tasks {part.complete:>7} complete {part.left:>7} to run"
    if part.pruned:
        shown += f" {part.pruned:>7} pruned"
    return f"{shown} {part.copies:>7} copied from the same work" if part.copies else shown


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration_text(seconds)} of one worker"


def _file(file: FilePlan) -> list[str]:
    pruned = f", {file.pruned} pruned" if file.pruned else ""
    lines = [f"{file.path}: completes {count_text(file.complete, 'task')}{pruned}"]
    for problem in file.problems:
        lines.append(f"  line {problem.line}: {problem.reason}")
        if problem.rows > 1:
            lines[-1] += f" (and {problem.rows - 1} more like it)"
    return lines


def _estimate(plan: Plan) -> str:
    if not plan.left:
        return "Nothing is left to run"
    workers = count_text(plan.workers, "worker")
    if plan.hours is None:
        return f"Time for {workers}: unknown, no finished row has a duration_s"
    return (
        f"Time for {workers}: about {duration_text(plan.hours * 3600)} ({plan.hours:.2f} hours), "
        f"from the duration_s of {plan.timed_rows} tasks"
    )
