"""`on_parallel.py TASKS`: runs of `true` per second by two jobs of GNU parallel, with its log of jobs."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(tasks: int) -> float:
    """Run them, its start included: a twentieth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "joblog")
        command = ["parallel", "--will-cite", "-j2", "--joblog", str(log), "true", ":::"]
        began_s = time.monotonic()
        subprocess.run([*command, *map(str, range(tasks))], check=True, stdout=subprocess.DEVNULL)
        took_s = time.monotonic() - began_s
        if (found := len(log.read_text(encoding="utf-8").splitlines()) - 1) != tasks:
            raise AssertionError(f"{found} of {tasks} tasks")
    return tasks / took_s


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]))}))
