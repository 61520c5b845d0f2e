"""Start a worker: it picks a GPU, then requests, runs, records and reports tasks until none is left.

python experiment_runner_gpu.py [host] [port]    # the same as: distexp worker [host] [port]
"""

import sys

try:
    from distexp.cli.main import main
    from distexp.gpu.devices import MIN_FREE_GB, get_available_gpu
except ModuleNotFoundError as error:
    if __name__ != "__main__" or (error.name or "").startswith("distexp"):
        raise
    launcher = "launch_distributed.bat" if sys.platform == "win32" else "./launch_distributed.sh"
    print(
        f"error: the package {error.name} is not installed for {sys.executable}. Either run\n"
        f"  {launcher + ' worker':<47} which installs what is needed into .venv, or\n"
        "  python -m pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["MIN_FREE_GB", "get_available_gpu"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command="python experiment_runner_gpu.py", verb="worker"))
