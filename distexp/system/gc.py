"""Python's garbage collector, kept out of what lives as long as the process.

A sweep is a million small objects without one cycle: the collector would look through all of them again and
again while they are made, and a manager would stand still for that later.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def set_aside() -> Iterator[None]:
    """Make objects that the collector does not look at until `take_back`; they still end with their last use.

    What raises an error leaves nothing set aside.
    """
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_at_work:
            gc.enable()


def take_back() -> None:
    """Let the collector look at everything again."""
    gc.unfreeze()
