"""`python -m benchmarks.rivals install`: make `.venv-rivals` with what the rivals need; nothing of ours."""

import subprocess
import sys
import venv
from collections.abc import Sequence

from benchmarks.rivals import FOLDER, PYTHON, REQUIREMENTS


def main(words: Sequence[str]) -> int:
    """Install; return the exit code of pip."""
    if list(words) != ["install"]:
        print(__doc__, file=sys.stderr)
        return 2
    if not PYTHON.exists():
        venv.create(FOLDER, with_pip=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)]
    code = subprocess.run(install, check=False).returncode
    print(
        "GNU parallel and redis-server (for RQ) come from the system: apt-get install parallel redis-server"
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
