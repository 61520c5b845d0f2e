"""The template of forked children: has imported the experiment, warmed up on the CPU. Opens `child_main`.

Imported by the forkserver, once, before the first fork. On a GPU it only imports: a backward in a process
that sees a card starts autograd's device threads, and every forked child's backward would raise.
"""

import os

from distexp.child_main import guarded, load

EXPERIMENT_VARIABLE = "DISTEXP_TEMPLATE"
WARM_UP_VARIABLE = "DISTEXP_TEMPLATE_WARM_UP"


def prepare(experiment: str, warm_up_device: str | None) -> None:
    """Import and warm up; a failure is reported by the first child, which imports again."""
    guarded(lambda: load(experiment, warm_up_device), on_import=True)


if name := os.environ.get(EXPERIMENT_VARIABLE):
    prepare(name, os.environ.get(WARM_UP_VARIABLE))
