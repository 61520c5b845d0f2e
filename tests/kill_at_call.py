"""Run a script of the product and kill this process with SIGKILL at one of its calls.

python kill_at_call.py MODULE:NAME before|half|after SCRIPT [WORDS...]

It dies at the first call that has no empty list among its arguments: before it begins, after it has ended,
or, where the call is `append_durably(path, data)`, once half of the data is in the file.
"""

import functools
import importlib
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

del sys.path[0]  # this folder, whose packages are called like modules of the standard library
where, moment, script, *words = sys.argv[1:]
module, _, name = where.partition(":")
*owners, last = name.split(".")
owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
real = getattr(owner, last)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(*args: Any, **named: Any) -> Any:
    counts = [] not in args
    if counts and moment == "before":
        die()
    if counts and moment == "half":
        path, data = args
        with open(path, "ab") as file:
            file.write(data[: len(data) // 2])
        die()
    result = real(*args, **named)
    if counts:
        die()
    return result


setattr(owner, last, dying)
sys.argv = [script, *words]
sys.path.insert(0, str(Path(script).parent))
runpy.run_path(script, run_name="__main__")
