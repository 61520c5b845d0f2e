"""Tasks and rows to test the results package with."""

from typing import Any

from distexp.results.row import row_for
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from distexp.task import Provenance, Task, make_task

RUN = Provenance(
    torch_version="2.13.0",
    python_version="3.11.2",
    git_commit="c0ffee",
    git_dirty=False,
    attempt=1,
    worker="cpu0",
    host="node1",
    device="cpu",
    started_utc="2026-01-01T00:00:00Z",
    duration_s=1.25,
)


def a_task(seed: int = 42, *, phase: str = "exp1", axes: tuple[str, ...] = ("width",), **config: Any) -> Task:
    """A task of `phase` whose parameters are `width=1` and `config`."""
    config = {"width": 1, **config}
    return make_task(
        task_id=f"{phase}_{config['width']}_{seed}",
        phase=phase,
        config=config,
        seed=seed,
        output_dir="results_exp1",
        axes=axes,
    )


def tasks_of(count: int) -> list[Task]:
    """Tasks of one phase that differ in width."""
    return [a_task(width=width, lr=0.1) for width in range(count)]


def points_of(count: int) -> list[GridPoint]:
    """The same tasks as a config file gives them."""
    text = (
        "defaults: {output_dir: results_exp1, lr: 0.1}\n"
        f"exp1: {{combinations: [{{width: {list(range(count))}}}]}}\n"
    )
    return expand(parse_config(text, "configs/config_exp1.yaml"))


def a_row(task: Task, **result: Any) -> tuple[Task, dict[str, str]]:
    """The task with its row, as `ResultsFile.append` takes it."""
    return task, row_for(task, result or {"test_acc": 0.5}, RUN)
