"""Start a worker: it picks a GPU, then requests, runs, records and reports tasks until none is left.

python experiment_runner_gpu.py [host] [port]
"""

import sys

from distexp.cli.worker import main
from distexp.gpu.devices import MIN_FREE_GB, get_available_gpu

__all__ = ["MIN_FREE_GB", "get_available_gpu"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
