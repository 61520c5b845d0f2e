"""Start the manager of a sweep, or pass a verb on: `python experiment_manager.py [VERB] ...` is `distexp`.

python experiment_manager.py           # expand configs/, serve tasks on port 5000: distexp manager
python experiment_manager.py --help    # its flags
python experiment_manager.py status    # how far is it? As with every other verb
python experiment_manager.py help      # all verbs
"""

import sys
from collections.abc import Sequence

try:
    from distexp.cli.main import main as command
    from distexp.manager.manager import ExperimentManager
except ModuleNotFoundError as error:
    if __name__ != "__main__" or (error.name or "").startswith("distexp"):
        raise
    launcher = "launch_distributed.bat" if sys.platform == "win32" else "./launch_distributed.sh"
    print(
        f"error: the package {error.name} is not installed for {sys.executable}. Either run\n"
        f"  {launcher + ' manager':<47} which installs what is needed into .venv, or\n"
        "  python -m pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["ExperimentManager"]


def main(words: Sequence[str]) -> int:
    """Return the exit code of the verb; of `manager` where the words begin with none."""
    if not words or (words[0].startswith("-") and words[0] != "--version"):
        words = ["manager", *words]
    return command(words, command="python experiment_manager.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
